import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { xxh3 } from '@armature/tokens';
import { KvBlockStatus } from '@armature/contracts';
import { fillBlock, hashAt, isBlock } from './crash-content.test.support.ts';
import { openRig } from './disk-rig.test.support.ts';
import type { Rig, RigOptions } from './disk-rig.test.support.ts';
import { FORMAT_VERSION } from './format.ts';
import { gcStores, inspectStore, listStores, verifyStore } from './inspect.ts';
import type { BlockChecksum } from './inspect.ts';
import { lockStore } from './store-lock.ts';
import { folderName } from './store-folder.ts';

const { Done, Missing } = KvBlockStatus;
const BLOCK = 4096;
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'kvbm-disk-'));
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));
let made = 0;
const fresh = (): string => path.join(scratch, `s${made++}`);

function open(folder: string, slots = 40, options: Partial<RigOptions> = {}): Promise<Rig> {
  return openRig({ blockBytes: BLOCK, ...options, config: { path: folder, capacity: slots * BLOCK, slabBytes: 16 * BLOCK, preallocate: false, ...options.config } });
}

/** Blocks 0 to count - 1 of a chain, content by hash, checksum by hash. */
async function fill(rig: Rig, chain: number, count: number): Promise<number[]> {
  const statuses: number[] = [];
  for (let from = 0; from < count; from += 32) {
    const rows = Array.from({ length: Math.min(32, count - from) }, (_, i) => ({ hash: hashAt(chain, from + i), parent: from + i === 0 ? ([0, 0] as const) : hashAt(chain, from + i - 1), checksum: [chain, from + i] as const, block: i }));
    for (const { hash, block } of rows) fillBlock(rig.block(block), hash[0], hash[1]);
    statuses.push(...(await rig.run('store', rig.batch(rows))));
  }
  return statuses;
}

async function assertWhole(rig: Rig, chain: number, depths: readonly number[]): Promise<void> {
  for (const depth of depths) {
    const batch = rig.batch([{ hash: hashAt(chain, depth), block: 0 }]);
    expect(await rig.run('load', batch)).toEqual([Done]);
    expect([...batch.checksums]).toEqual([chain, depth]);
    expect(isBlock(rig.block(0), ...hashAt(chain, depth))).toBe(true);
  }
}

const storeOf = (rig: Rig): string => rig.store.facts().folder;
const checksum: BlockChecksum = (block, lo, hi, out) => out.set(isBlock(block, lo, hi) ? [1, [...Array(64).keys()].find((depth) => hashAt(1, depth)[0] === lo) ?? -1] : [0, 0]);

describe('lives of a store', () => {
  test('slots of a chain follow each other: one run in, one run out', async () => {
    const rig = await open(fresh());
    await fill(rig, 1, 16);
    expect(rig.store.facts()).toMatchObject({ slotRuns: 1, slotsMoved: 16 });
    const rows = Array.from({ length: 16 }, (_, depth) => ({ hash: hashAt(1, depth), block: depth }));
    await rig.run('load', rig.batch(rows));
    expect(rig.store.facts()).toMatchObject({ slotRuns: 2, slotsMoved: 32, lock: 'flock' });
    await rig.close();
  });

  test('reopened larger, smaller, larger again: what has a place stays, what was behind the end never comes back', async () => {
    const folder = fresh();
    let rig = await open(folder, 40);
    expect(await fill(rig, 1, 40)).toEqual(Array(40).fill(Done));
    await rig.close();
    rig = await open(folder, 100);
    expect(rig.store.stats()).toMatchObject({ heldBlocks: 40, capacityBlocks: 100 });
    await fill(rig, 2, 60);
    await assertWhole(rig, 1, [0, 39]);
    await rig.close();
    expect(fs.readdirSync(storeOf(rig)).filter((name) => name.startsWith('slab'))).toHaveLength(7);
    rig = await open(folder, 20);
    expect(rig.store.stats()).toMatchObject({ heldBlocks: 20, capacityBlocks: 20, dropped: 80 });
    expect(rig.logs).toContainEqual(expect.objectContaining({ code: 'KVBM_STORE_DROPPED' }));
    await assertWhole(rig, 1, Array.from({ length: 20 }, (_, i) => i));
    await rig.close();
    expect(fs.statSync(path.join(storeOf(rig), 'slab-00001')).size).toBe(4 * BLOCK);
    rig = await open(folder, 100);
    expect(rig.store.stats().heldBlocks).toBe(20);
    await rig.close();
  });

  test('least recently used first, also after reopening', async () => {
    const folder = fresh();
    let rig = await open(folder, 8);
    await fill(rig, 1, 8);
    rig.store.touch(rig.batch([{ hash: hashAt(1, 5), block: 0 }]).hashes, 0, 1);
    await rig.close();
    rig = await open(folder, 8);
    // Leaves are older than their parents: 7 and 6 go, 5 was used last.
    await fill(rig, 2, 3);
    expect(rig.removed.map(({ lo }) => lo)).toEqual([7, 6, 4].map((depth) => hashAt(1, depth)[0]));
    await rig.close();
  });

  test('foreign layout or model, noise, an older format: emptied with a log line; a newer one is refused and left as it is', async () => {
    for (const [how, reason] of [['layout', 'foreign'], ['noise', 'corrupt'], ['older', 'older'], ['blockBytes', 'foreign']] as const) {
      const folder = fresh();
      let rig = await open(folder);
      await fill(rig, 1, 10);
      await rig.close();
      const index = path.join(storeOf(rig), 'index.kv');
      if (how === 'noise') patch(index, 3000, 1);
      if (how === 'older') setVersion(index, 0);
      rig = await open(folder, 40, how === 'layout' ? { layout: 'other' } : how === 'blockBytes' ? { blockBytes: 8192 } : {});
      expect(rig.store.stats(), how).toMatchObject({ heldBlocks: 0, dropped: 10 });
      expect(rig.store.facts().resets).toBe(1);
      expect(rig.logs).toContainEqual(expect.objectContaining({ code: 'KVBM_STORE_RESET' }));
      expect(reason).toBeDefined();
      await rig.close();
      // And back again: nothing of the first life shines through.
      rig = await open(folder);
      expect(rig.store.stats().heldBlocks).toBe(0);
      await rig.close();
    }
    const folder = fresh();
    const rig = await open(folder);
    await fill(rig, 1, 10);
    await rig.close();
    const index = path.join(storeOf(rig), 'index.kv');
    setVersion(index, FORMAT_VERSION + 1);
    const before = fs.readFileSync(index);
    await expect(open(folder)).rejects.toMatchObject({ code: 'KVBM_STORE_NEWER' });
    expect(fs.readFileSync(index).equals(before)).toBe(true);
    expect(await gcStores(folder)).toMatchObject([{ action: 'newer' }]);
  });

  test('a slab that was deleted or cut: its blocks are not matched', async () => {
    const folder = fresh();
    let rig = await open(folder);
    await fill(rig, 1, 40);
    await rig.close();
    fs.rmSync(path.join(storeOf(rig), 'slab-00000'));
    fs.truncateSync(path.join(storeOf(rig), 'slab-00001'), 5 * BLOCK + 100);
    rig = await open(folder);
    expect(rig.store.stats()).toMatchObject({ heldBlocks: 5 + 8, dropped: 16 + 11 });
    await assertWhole(rig, 1, [16, 20, 32, 39]);
    await rig.close();
  });

  test('a second opener is refused, in this process and by pid file too', async () => {
    const folder = fresh();
    const rig = await open(folder);
    await expect(open(folder)).rejects.toMatchObject({ code: 'KVBM_STORE_LOCKED', message: expect.stringContaining(String(process.pid)) as string });
    await rig.close();
    const store = storeOf(rig);
    const lock = lockStore(store, -1, false);
    expect(lock.kind).toBe('pid-file');
    expect(() => lockStore(store, -1, false)).toThrow(expect.objectContaining({ code: 'KVBM_STORE_LOCKED' }) as Error);
    lock.release();
    const owner = path.join(store, 'owner.json');
    const alive = { pid: process.ppid, startTicks: Number(fs.readFileSync(`/proc/${process.ppid}/stat`, 'latin1').split(') ')[1]!.split(' ')[19]), host: JSON.parse(write(owner, store)).host as string };
    fs.writeFileSync(owner, JSON.stringify(alive));
    expect(() => lockStore(store, -1, false)).toThrow(expect.objectContaining({ code: 'KVBM_STORE_LOCKED', message: expect.stringContaining(String(process.ppid)) as string }) as Error);
    fs.writeFileSync(owner, JSON.stringify({ ...alive, startTicks: alive.startTicks + 1 }));
    lockStore(store, -1, false).release();
    expect(fs.existsSync(owner)).toBe(false);
  });

  test('names: readable, different for different workers, never outside the folder', () => {
    expect(folderName('demo')).toBe('demo');
    expect(folderName('demo/decode/0')).toMatch(/^demo_decode_0-[0-9a-f]{8}$/);
    expect(folderName('demo_decode_0')).not.toBe(folderName('demo/decode/0'));
    for (const text of ['..', '.', '', '../../etc', '/', 'ü/\0x', 'a'.repeat(5000)]) expect(folderName(text)).toMatch(/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}$/);
  });
});

/** Takes the lock once to see what the file says. */
function write(owner: string, store: string): string {
  const lock = lockStore(store, -1, false);
  const text = fs.readFileSync(owner, 'utf8');
  lock.release();
  return text;
}

function patch(file: string, at: number, by: number): void {
  const bytes = fs.readFileSync(file);
  bytes[at]! ^= by;
  fs.writeFileSync(file, bytes);
}

/** As another version of this program would write it, check included. */
function setVersion(file: string, version: number): void {
  const bytes = fs.readFileSync(file);
  bytes.writeUInt32LE(version, 8);
  const { lo, hi } = xxh3(bytes.subarray(0, 16));
  bytes.writeInt32LE(lo | 0, 16);
  bytes.writeInt32LE(hi | 0, 20);
  fs.writeFileSync(file, bytes);
}

describe('against a naive model', () => {
  test('random stores, loads, removals and reopenings', async () => {
    const seed = Number(process.env['KVBM_SEED'] ?? 4_711);
    console.log(`disk store against its model: seed ${seed} (KVBM_SEED)`);
    let state = seed | 1;
    const below = (bound: number): number => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return (state >>> 0) % bound;
    };
    const folder = fresh();
    let rig = await open(folder, 24);
    const held = new Map<number, number>();
    const drop = (): void => {
      for (const { lo } of rig.removed.splice(0)) expect(held.delete(lo)).toBe(true);
    };
    let reopened = 0;
    for (let step = 0; step < 600; step++) {
      const depths = Array.from({ length: 1 + below(6) }, () => below(48));
      const rows = depths.map((depth, block) => ({ hash: hashAt(1, depth), checksum: [1, depth] as const, block }));
      const batch = rig.batch(rows);
      const kind = below(10);
      if (kind < 5) {
        rows.forEach(({ hash, block }) => fillBlock(rig.block(block), hash[0], hash[1]));
        const statuses = await rig.run('store', batch);
        drop();
        statuses.forEach((status, i) => status === Done && held.set(rows[i]!.hash[0], depths[i]!));
      } else if (kind < 8) {
        const statuses = await rig.run('load', batch);
        statuses.forEach((status, i) => {
          expect(status, `seed ${seed}, step ${step}`).toBe(held.has(rows[i]!.hash[0]) ? Done : Missing);
          if (status === Done) expect(isBlock(rig.block(i), ...rows[i]!.hash), `seed ${seed}, step ${step}`).toBe(true);
        });
      } else if (kind === 8) {
        rig.store.remove(batch.hashes, batch.count, 'removed');
        drop();
      } else {
        await rig.close();
        rig = await open(folder, 24);
        reopened++;
      }
      expect(rig.store.stats().heldBlocks, `seed ${seed}, step ${step}`).toBe(held.size);
      expect(rig.store.facts().freeSlots + held.size).toBe(24);
    }
    expect(reopened).toBeGreaterThan(20);
    await rig.close();
  });

  test('noise in the index: opens, and matches only what is whole', async () => {
    const seed = 99;
    console.log(`noise in the index: seed ${seed}`);
    let state = seed;
    const below = (bound: number): number => ((state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) >>> 4) % bound;
    const folder = fresh();
    let rig = await open(folder, 40);
    await fill(rig, 1, 40);
    await rig.close();
    const index = path.join(storeOf(rig), 'index.kv');
    const whole = fs.readFileSync(index);
    let [kept, lost] = [0, 0];
    for (let round = 0; round < 80; round++) {
      const bytes = Buffer.from(whole);
      const from = round % 4 === 0 ? 0 : 4096;
      const span = bytes.length - from;
      if (round % 5 === 1) bytes.copy(bytes, 4096 + 64 * below(40), 4096 + 64 * below(40), 4096 + 64 * 40);
      else for (let i = below(60); i >= 0; i--) bytes[from + below(Math.min(span, 64 * 40))] = below(256);
      fs.writeFileSync(index, round % 7 === 3 ? bytes.subarray(0, below(bytes.length)) : bytes);
      rig = await open(folder, 40);
      const hashes: [number, number][] = [];
      rig.store.records((lo, hi) => hashes.push([lo, hi]));
      const depths = hashes.map(([lo, hi]) => Array.from({ length: 40 }, (_, depth) => depth).find((depth) => hashAt(1, depth)[0] === lo && hashAt(1, depth)[1] === hi) ?? -1);
      expect(depths, `seed ${seed}, round ${round}`).not.toContain(-1);
      await assertWhole(rig, 1, depths);
      kept += depths.length;
      lost += 40 - depths.length;
      await rig.close();
    }
    expect(kept).toBeGreaterThan(500);
    expect(lost).toBeGreaterThan(500);
  }, 60_000);
});

describe('offline', () => {
  test('list, inspect, verify, gc', async () => {
    const folder = fresh();
    let rig = await open(folder);
    await fill(rig, 1, 12);
    const store = storeOf(rig);
    expect((await inspectStore(store)).report).toMatchObject({ state: 'current', header: { model: 'model-1', layout: 'layout-1', slots: 40 } });
    await expect(verifyStore(store, checksum)).rejects.toMatchObject({ code: 'KVBM_STORE_LOCKED' });
    expect(await gcStores(folder)).toMatchObject([{ action: 'running' }]);
    await rig.close();
    expect(await listStores(folder)).toEqual([store]);
    const found: number[] = [];
    const { report, visit } = await inspectStore(store);
    visit((lo) => found.push(lo));
    expect(report).toMatchObject({ heldBlocks: 12, tornRecords: 0, isRunning: false });
    expect(found).toHaveLength(12);
    expect(await verifyStore(store, checksum)).toMatchObject({ checked: 12, corrupt: 0 });
    patch(path.join(store, 'slab-00000'), 3 * BLOCK + 77, 4);
    patch(path.join(store, 'index.kv'), 4096 + 64 * 5 + 9, 1);
    expect(await verifyStore(store, checksum, { repairs: true })).toMatchObject({ checked: 11, corrupt: 1, corruptHashes: Int32Array.from(hashAt(1, 3)) });
    expect(await verifyStore(store, checksum)).toMatchObject({ checked: 10, corrupt: 0 });
    expect(await gcStores(folder)).toMatchObject([{ action: 'kept' }]);
    rig = await open(folder);
    expect(rig.store.stats().heldBlocks).toBe(10);
    await rig.close();
    expect(await gcStores(folder, { keep: ({ header }) => header?.model !== 'model-1' })).toMatchObject([{ action: 'removed' }]);
    expect(fs.existsSync(store)).toBe(false);
    await expect(inspectStore(store)).rejects.toMatchObject({ code: 'KVBM_STORE_MISSING' });
  });
});
