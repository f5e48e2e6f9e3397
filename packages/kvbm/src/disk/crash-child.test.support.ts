import fs from 'node:fs';
import { BLOCK_BYTES, CHAIN, fillBlock, hashAt, LAYOUT, MODEL, SLOTS, WORKER } from './crash-content.test.support.ts';
import { openRig } from './disk-rig.test.support.ts';
import type { DiskIo } from './disk-io.ts';

/**
 * Stores, evicts and loads as fast as it can until it is killed. Arguments: folder, seed, phase file, 'sound' or 'record-first'.
 * The phase file holds, at any moment, how many data writes and index writes are under way: it says where the kill struck.
 */
const [, , folder = '', seedText = '1', phaseFile = '', mode = 'sound'] = process.argv;
let state = Number(seedText) | 1;
const below = (bound: number): number => {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % bound;
};

/** Opened smaller now and then: the kill may strike while the store is cut or made longer. */
const slots = Number(seedText) % 5 === 0 ? SLOTS - 20 : SLOTS;

const phaseFd = fs.openSync(phaseFile, 'w');
const phase = new Uint8Array(3);
const change = (index: number, by: number): void => {
  phase[index]! += by;
  fs.writeSync(phaseFd, phase, 0, phase.length, 0);
};
/** The format's rule, broken: records first. Data waits until the index has been written. */
const isSabotaged = mode === 'record-first';
const counted = (index: number, call: (...args: never[]) => void) =>
  (...args: unknown[]): void => {
    const done = args.pop() as (...results: unknown[]) => void;
    change(index, 1);
    const run = (): void =>
      (call as (...all: unknown[]) => void)(...args, (...results: unknown[]) => {
        change(index, -1);
        done(...results);
      });
    if (index === 0 && isSabotaged) {
      // The caller believes the bytes are written; they come later.
      done(null, (args[1] as Buffer).length);
      setTimeout(() => (call as (...all: unknown[]) => void)(...args, () => change(index, -1)), 3);
    } else run();
  };
const io: DiskIo = { ...fs, write: counted(1, fs.write as never) as never };
const fileIo = { ...fs, write: counted(0, fs.write as never), writev: counted(0, fs.writev as never) };

const rig = await openRig({ config: { path: folder, capacity: slots * BLOCK_BYTES, slabBytes: 40 * BLOCK_BYTES, preallocate: false }, blockBytes: BLOCK_BYTES, model: MODEL, layout: LAYOUT, worker: WORKER, io, fileIo });
process.send!('ready');

async function lane(at: number): Promise<never> {
  for (;;) {
    const chain = 1 + below(60);
    const rows = Array.from({ length: 1 + below(CHAIN) }, (_, depth) => ({ hash: hashAt(chain, depth), parent: depth === 0 ? ([0, 0] as const) : hashAt(chain, depth - 1), checksum: hashAt(depth, chain), block: at * CHAIN + depth }));
    if (below(4) === 0) await rig.run('load', rig.batch(rows));
    else if (below(8) === 0) rig.store.remove(rig.batch(rows).hashes, rows.length, 'removed');
    else {
      for (const { hash, block } of rows) fillBlock(rig.block(block), hash[0], hash[1]);
      change(2, rig.store.stats().evictions > 0 && phase[2] === 0 ? 1 : 0);
      await rig.run('store', rig.batch(rows));
      // So that the late bytes of the sabotage are at least the right ones.
      if (isSabotaged) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

await Promise.all([0, 1, 2, 3].map(lane));
