import fs from 'node:fs';
import path from 'node:path';
import { hashAt } from './crash-content.test.support.ts';
import { openRig } from './disk-rig.test.support.ts';
import type { Rig } from './disk-rig.test.support.ts';
import { encodeHeader, recordSeed } from './header.ts';
import { PAGE_BYTES, pagesOf, RECORD_WORDS, sealRecord, writeRecord } from './format.ts';
import { storeFolder } from './store-folder.ts';

/** One line of `npm run bench -- kvbm`. */
export interface DiskBenchRow {
  readonly name: string;
  readonly value: number;
  readonly unit: 'GB/s' | 's';
  /** The same bytes by positional fs calls on the same file system, flags, memory and depth. */
  readonly limit?: number;
}

export interface DiskBenchOptions {
  /** On the file system to be measured. */
  readonly folder: string;
  readonly totalBytes?: number;
  readonly rounds?: number;
  readonly say?: (line: string) => void;
}

const QUEUE_DEPTH = 32;
const OPERATION_BYTES = 1 << 20;

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** Positional calls, QUEUE_DEPTH at a time, nothing around them: what Node gives. `order`: block numbers in the file, in calls of at most 1 MiB. */
function raw(op: 'read' | 'write', fd: number, memory: Uint8Array, blockBytes: number, order: readonly number[]): Promise<void> {
  const calls: { at: number; bytes: number; offset: number }[] = [];
  for (const [i, block] of order.entries()) {
    const last = calls.at(-1);
    if (last !== undefined && last.offset + last.bytes === block * blockBytes && last.bytes + blockBytes <= OPERATION_BYTES) last.bytes += blockBytes;
    else calls.push({ at: i * blockBytes, bytes: blockBytes, offset: block * blockBytes });
  }
  return new Promise((resolve, reject) => {
    let next = 0;
    let left = calls.length;
    const begin = (): void => {
      const call = calls[next++];
      if (call === undefined) return;
      const ended = (error: Error | null, moved: number): void => {
        if (error !== null || moved !== call.bytes) reject(error ?? new Error('short'));
        else if (--left === 0) resolve();
        else begin();
      };
      if (op === 'read') fs.read(fd, memory, call.at, call.bytes, call.offset, ended);
      else fs.write(fd, memory, call.at, call.bytes, call.offset, ended);
    };
    for (let i = 0; i < QUEUE_DEPTH; i++) begin();
  });
}

function shuffled(count: number): number[] {
  let state = 7;
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

async function seconds(run: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1000;
}

/** Store and load of one tier in batches of `BATCH_BYTES`, as many at a time as the manager would have under way. */
const BATCH_BYTES = 16 << 20;

async function moveAll(rig: Rig, kind: 'store' | 'load', chain: number, blockBytes: number, order: readonly number[]): Promise<void> {
  const perBatch = Math.max(1, BATCH_BYTES / blockBytes);
  const batches = [];
  for (let from = 0; from < order.length; from += perBatch) {
    const rows = order.slice(from, from + perBatch).map((depth, i) => ({ hash: hashAt(chain, depth), parent: depth === 0 ? ([0, 0] as const) : hashAt(chain, depth - 1), block: from + i }));
    batches.push(rig.run(kind, rig.batch(rows)));
  }
  for (const statuses of await Promise.all(batches)) if (statuses.some((status) => status !== 0)) throw new Error(`${kind} ended with ${statuses.join(' ')}`);
}

/** GB/s of store and load at 64 KiB, 256 KiB and 1 MiB, sequential and random, beside raw file I/O of the same run; rounds alternate. */
export async function benchDisk(options: DiskBenchOptions): Promise<DiskBenchRow[]> {
  const { folder, totalBytes = 128 << 20, rounds = 5, say = () => undefined } = options;
  const rows: DiskBenchRow[] = [];
  for (const blockBytes of [64 << 10, 256 << 10, 1 << 20]) {
    const blocks = totalBytes / blockBytes;
    const place = fs.mkdtempSync(path.join(folder, '.bench-kvbm-'));
    const rig = await openRig({ blockBytes, memoryBlocks: blocks, config: { path: place, capacity: totalBytes, slabBytes: totalBytes } });
    rig.bytes.fill(3);
    const name = path.join(place, 'raw');
    fs.writeFileSync(name, rig.bytes);
    const fd = fs.openSync(name, fs.constants.O_RDWR | (rig.store.facts().direct ? (fs.constants.O_DIRECT ?? 0) : 0));
    say(`${blockBytes >> 10} KiB: O_DIRECT ${rig.store.facts().direct ? 'on' : 'not to be had'}, UV_THREADPOOL_SIZE ${process.env['UV_THREADPOOL_SIZE'] ?? 4}`);
    const sequential = Array.from({ length: blocks }, (_, i) => i);
    // Sequential last: the next round evicts in the order of this one's last use, and its slots follow each other again.
    const orders = { random: shuffled(blocks), sequential };
    const times = new Map<string, number[]>();
    const note = (what: string, took: number): void => void times.set(what, [...(times.get(what) ?? []), took]);
    try {
      // The first round, left out, writes reserved blocks for the first time on both sides.
      for (let round = 0; round <= rounds; round++) {
        const keep = (what: string, took: number): void => (round > 0 ? note(what, took) : undefined);
        keep('raw store', await seconds(() => raw('write', fd, rig.bytes, blockBytes, sequential)));
        keep('store', await seconds(() => moveAll(rig, 'store', round, blockBytes, sequential)));
        for (const [kind, order] of Object.entries(orders)) {
          keep(`raw load ${kind}`, await seconds(() => raw('read', fd, rig.bytes, blockBytes, order)));
          keep(`load ${kind}`, await seconds(() => moveAll(rig, 'load', round, blockBytes, order)));
        }
      }
      const speed = (what: string): number => totalBytes / 1e9 / median(times.get(what)!);
      for (const what of ['store', 'load sequential', 'load random']) rows.push({ name: `disk ${what} ${blockBytes >> 10} KiB`, value: speed(what), unit: 'GB/s', limit: speed(`raw ${what}`) });
    } finally {
      fs.closeSync(fd);
      await rig.close();
      fs.rmSync(place, { recursive: true, force: true });
    }
  }
  return rows;
}

/** Seconds until a store of so many held blocks is open: index read, checked, sorted by age, taken over. */
export async function benchRestart(options: { readonly folder: string; readonly blocks?: number }): Promise<DiskBenchRow> {
  const { folder, blocks = 1_000_000 } = options;
  const place = fs.mkdtempSync(path.join(folder, '.bench-kvbm-'));
  try {
    const store = storeFolder(place, 'model-1', 'demo/decode/0');
    fs.mkdirSync(store, { recursive: true });
    writeIndex(path.join(store, 'index.kv'), blocks);
    fs.writeFileSync(path.join(store, 'slab-00000'), '');
    fs.truncateSync(path.join(store, 'slab-00000'), blocks * 4096);
    let rig: Rig | undefined;
    const took = await seconds(async () => (rig = await openRig({ blockBytes: 4096, memoryBlocks: 1, config: { path: place, capacity: blocks * 4096, slabBytes: blocks * 4096, preallocate: false } })));
    const { heldBlocks } = rig!.store.stats();
    await rig!.close();
    if (heldBlocks !== blocks) throw new Error(`${heldBlocks} of ${blocks} blocks were found again`);
    return { name: `disk restart, ${blocks} blocks`, value: took, unit: 's' };
  } finally {
    fs.rmSync(place, { recursive: true, force: true });
  }
}

/** As a store that was used at random leaves it. */
function writeIndex(file: string, blocks: number): void {
  const words = new Int32Array((pagesOf(blocks) * PAGE_BYTES) / 4);
  const seed = recordSeed('layout-1');
  const ages = shuffled(blocks);
  const facts = { hashes: new Int32Array(2), parents: new Int32Array(2), checksums: new Int32Array(2), tenant: 0 };
  for (let slot = 0; slot < words.length / RECORD_WORDS && slot < blocks; slot++) {
    facts.parents.set(slot % 64 === 0 ? [0, 0] : facts.hashes);
    facts.hashes.set([Math.imul(slot + 1, 0x9e37_79b1), slot]);
    writeRecord(words, slot, facts, 0);
    sealRecord(words, slot, 1, ages[slot]!, seed);
  }
  const header = encodeHeader({ blockBytes: 4096, pieceBytes: 4096, checksumVersion: 0, slotBytes: 4096, slots: blocks, slotsPerSlab: blocks, generation: 1, createdWallMs: 0, model: 'model-1', layout: 'layout-1' });
  fs.writeFileSync(file, header);
  fs.appendFileSync(file, new Uint8Array(words.buffer));
}

if (process.argv[1]?.endsWith('bench.test.support.js') === true && import.meta.url.includes('/disk/')) {
  const folder = process.argv[2] ?? '.';
  const rows = [...(await benchDisk({ folder, say: console.log })), await benchRestart({ folder })];
  console.table(rows.map(({ name, value, unit, limit }) => ({ name, value: value.toFixed(3), unit, limit: limit?.toFixed(3), ratio: limit === undefined ? undefined : (value / limit).toFixed(2) })));
}
