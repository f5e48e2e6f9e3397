import { fork } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KvBlockStatus } from '@armature/contracts';
import { BLOCK_BYTES, isBlock, LAYOUT, MODEL, SLOTS, WORKER } from './crash-content.test.support.ts';
import { openRig } from './disk-rig.test.support.ts';

const KILLS = 208;
const SABOTAGED = 40;
const seed = Number(process.env['KVBM_CRASH_SEED'] ?? 20_261_123);
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'kvbm-crash-'));
/** Below node_modules, so that the child finds koffi. */
const bundle = fileURLToPath(new URL(`../../../../node_modules/.cache/kvbm-crash-${process.pid}`, import.meta.url));

beforeAll(async () => {
  const conditions = ['@armature/source', 'node', 'import'];
  await build({
    root: path.dirname(fileURLToPath(import.meta.url)),
    configFile: false,
    logLevel: 'error',
    resolve: { conditions },
    ssr: { noExternal: /^@armature/, external: ['koffi'], resolve: { conditions } },
    build: { ssr: 'crash-child.test.support.ts', outDir: bundle, emptyOutDir: true, minify: false, rollupOptions: { output: { entryFileNames: 'child.mjs' } } },
  });
});
afterAll(() => {
  fs.rmSync(scratch, { recursive: true, force: true });
  fs.rmSync(bundle, { recursive: true, force: true });
});

function randomOf(start: number): (bound: number) => number {
  let state = start | 1;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}

interface Kill {
  readonly dataWrites: number;
  readonly indexWrites: number;
  readonly evicted: boolean;
  readonly beforeReady: boolean;
}

/** One life of a child, ended by SIGKILL. */
async function killOnce(folder: string, mode: 'sound' | 'record-first', random: (bound: number) => number): Promise<Kill> {
  const phaseFile = path.join(folder, '..', 'phase');
  fs.rmSync(phaseFile, { force: true });
  const child = fork(path.join(bundle, 'child.mjs'), [folder, String(1 + random(2 ** 30)), phaseFile, mode], { execArgv: ['--no-warnings'], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const exit = once(child, 'exit');
  let isReady = false;
  const ready = once(child, 'message').then(() => (isReady = true));
  if (random(8) === 0) await new Promise((resolve) => setTimeout(resolve, 40 + random(100)));
  else {
    await Promise.race([ready, exit.then(() => Promise.reject(new Error('the child ended by itself')))]);
    await new Promise((resolve) => setTimeout(resolve, random(40)));
  }
  child.kill('SIGKILL');
  const [, signal] = (await exit) as [number | null, string | null];
  expect(signal).toBe('SIGKILL');
  const phase = fs.existsSync(phaseFile) ? fs.readFileSync(phaseFile) : Buffer.alloc(0);
  return { dataWrites: phase[0] ?? 0, indexWrites: phase[1] ?? 0, evicted: (phase[2] ?? 0) > 0, beforeReady: !isReady };
}

/** Opens what the child left and reads all of it. Returns how many blocks are held and how many have other bytes than their hash says. */
async function examine(folder: string, where: string): Promise<{ held: number; wrong: number }> {
  const rig = await openRig({ config: { path: folder, capacity: SLOTS * BLOCK_BYTES, slabBytes: 40 * BLOCK_BYTES, preallocate: false }, blockBytes: BLOCK_BYTES, model: MODEL, layout: LAYOUT, worker: WORKER });
  try {
    const { heldBlocks, pinnedBlocks, capacityBlocks } = rig.store.stats();
    expect(rig.store.facts().freeSlots + heldBlocks, `${where}: space was lost`).toBe(capacityBlocks);
    expect([capacityBlocks, pinnedBlocks]).toEqual([SLOTS, 0]);
    expect(rig.problems, where).toEqual([]);
    const hashes: [number, number][] = [];
    rig.store.records((lo, hi) => hashes.push([lo, hi]));
    expect(hashes.length).toBe(heldBlocks);
    let wrong = 0;
    for (let from = 0; from < hashes.length; from += 64) {
      const rows = hashes.slice(from, from + 64).map((hash, block) => ({ hash, block }));
      const batch = rig.batch(rows);
      expect(rig.store.match(batch.hashes, 0)).toBe(rows.length);
      expect(await rig.run('load', batch), where).toEqual(rows.map(() => KvBlockStatus.Done));
      for (const { hash, block } of rows) if (!isBlock(rig.block(block), hash[0], hash[1])) wrong++;
    }
    return { held: heldBlocks, wrong };
  } finally {
    await rig.close();
    const left = fs.readdirSync(rig.store.facts().folder).sort();
    expect(left, where).toEqual(['index.kv', 'slab-00000', 'slab-00001', 'slab-00002']);
  }
}

async function lives(lane: string, kills: number, mode: 'sound' | 'record-first', laneSeed: number): Promise<{ kills: Kill[]; wrong: number; held: number }> {
  const folder = path.join(scratch, lane, 'store');
  fs.mkdirSync(folder, { recursive: true });
  const random = randomOf(laneSeed);
  const all: Kill[] = [];
  let wrong = 0;
  let held = 0;
  for (let kill = 0; kill < kills; kill++) {
    all.push(await killOnce(folder, mode, random));
    const found = await examine(folder, `seed ${seed}, ${lane}, kill ${kill}`);
    wrong += found.wrong;
    held += found.held;
    if (mode === 'sound') expect(found.wrong, `seed ${seed}, ${lane}, kill ${kill}: torn blocks were matched`).toBe(0);
    else if (wrong > 0) break;
  }
  return { kills: all, wrong, held };
}

test(`kill -9 at ${KILLS} random points: every block that is matched has the bytes of its hash, no space is lost`, { timeout: 300_000 }, async () => {
  console.log(`crash test: seed ${seed} (KVBM_CRASH_SEED)`);
  const lanes = await Promise.all([0, 1].map((lane) => lives(`lane-${lane}`, KILLS / 2, 'sound', seed + lane)));
  const kills = lanes.flatMap((lane) => lane.kills);
  const inData = kills.filter(({ dataWrites }) => dataWrites > 0).length;
  const inIndex = kills.filter(({ indexWrites }) => indexWrites > 0).length;
  const afterEviction = kills.filter(({ evicted }) => evicted).length;
  const inOpening = kills.filter(({ beforeReady }) => beforeReady).length;
  console.log(`kills ${kills.length}: during data writes ${inData}, during index writes ${inIndex}, in lives that evicted ${afterEviction}, before it was open ${inOpening}; blocks found ${lanes[0]!.held + lanes[1]!.held}`);
  expect(kills.length).toBe(KILLS);
  for (const count of [inData, inIndex, afterEviction, inOpening]) expect(count).toBeGreaterThan(5);
  expect(lanes[0]!.held + lanes[1]!.held).toBeGreaterThan(KILLS * 10);
});

test('sabotage: with records written before the bytes, the same test finds torn blocks', { timeout: 120_000 }, async () => {
  const { wrong, kills } = await lives('sabotage', SABOTAGED, 'record-first', seed + 7);
  console.log(`sabotage found after ${kills.length} kills: ${wrong} torn blocks`);
  expect(wrong).toBeGreaterThan(0);
});
