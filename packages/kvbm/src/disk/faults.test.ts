import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { KvBlockStatus } from '@armature/contracts';
import { hashAt } from './crash-content.test.support.ts';
import { openRig } from './disk-rig.test.support.ts';
import type { Rig, RigOptions } from './disk-rig.test.support.ts';

const { Done, Failed, Missing, Present, Refused, Canceled } = KvBlockStatus;
const BLOCK = 8192;
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'kvbm-faults-'));
let made = 0;
const rigs: Rig[] = [];
afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));

/** System calls that fail, hang or work, by name, as the test says at that moment. */
class FaultyCalls {
  readonly codes = new Map<string, string>();
  readonly hanging = new Set<string>();
  readonly #held: (() => void)[] = [];
  /** Only calls at this offset; undefined: all. */
  offset: number | undefined = undefined;

  get io(): typeof fs {
    const calls = { ...fs } as unknown as Record<string, unknown>;
    for (const name of ['read', 'readv', 'write', 'writev', 'stat', 'statfs', 'fdatasync'] as const) {
      const real = fs[name] as unknown as (...args: unknown[]) => void;
      calls[name] = (...args: unknown[]) => {
        const done = args.at(-1) as (error: NodeJS.ErrnoException | null, count: number) => void;
        const code = this.codes.get(name);
        const hits = this.offset === undefined || args.at(-2) === this.offset;
        if (code !== undefined && hits) setImmediate(() => done(Object.assign(new Error(`${code}: made up`), { code }), 0));
        else if (this.hanging.has(name)) this.#held.push(() => real(...args));
        else real(...args);
      };
    }
    return calls as unknown as typeof fs;
  }

  release(): void {
    this.hanging.clear();
    for (const call of this.#held.splice(0)) call();
  }
}

async function open(options: Partial<RigOptions> & { readonly folder?: string } = {}): Promise<Rig & { readonly folder: string }> {
  const folder = options.folder ?? path.join(scratch, `store-${made++}`);
  const rig = await openRig({ blockBytes: BLOCK, ...options, config: { path: folder, capacity: 16 * BLOCK, slabBytes: 8 * BLOCK, preallocate: false, probeMs: 20, ...options.config } });
  rigs.push(rig);
  return { ...rig, folder };
}

const row = (depth: number, block = depth) => ({ hash: hashAt(1, depth), block });
const rows = (count: number, from = 0) => Array.from({ length: count }, (_, i) => row(from + i, i));

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`not within 10 s: ${what}`);
}

describe('a disk that refuses writes', () => {
  const CODES = [
    ['ENOSPC', 'KVBM_DISK_FULL'],
    ['EDQUOT', 'KVBM_DISK_FULL'],
    ['EROFS', 'KVBM_DISK_DENIED'],
    ['EACCES', 'KVBM_DISK_DENIED'],
    ['EIO', 'KVBM_DISK_FAILED'],
  ] as const;

  test.each(CODES)('%s under the data: %s, stores refused, loads go on, well again by itself', async (system, code) => {
    const data = new FaultyCalls();
    const own = new FaultyCalls();
    const rig = await open({ fileIo: data.io, io: own.io });
    expect(await rig.run('store', rig.batch(rows(4)))).toEqual([Done, Done, Done, Done]);
    for (const calls of [data, own]) for (const name of ['write', 'writev']) calls.codes.set(name, system);
    expect(await rig.run('store', rig.batch(rows(3, 4)))).toEqual([Failed, Failed, Failed]);
    expect(rig.problems).toEqual([expect.objectContaining({ code, hint: expect.any(String) as string })]);
    expect(await rig.run('store', rig.batch(rows(3, 4)))).toEqual([Refused, Refused, Refused]);
    expect(await rig.run('load', rig.batch(rows(4)))).toEqual([Done, Done, Done, Done]);
    expect(rig.store.stats()).toMatchObject({ heldBlocks: 4, pinnedBlocks: 0, failures: 3, refusals: 3 });
    // Still failing: looked at, said once.
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(rig.problems).toHaveLength(1);
    for (const calls of [data, own]) calls.codes.clear();
    await until('well again', () => rig.problems.length === 2);
    expect(rig.problems[1]).toBeUndefined();
    expect(await rig.run('store', rig.batch(rows(3, 4)))).toEqual([Done, Done, Done]);
    expect(rig.store.facts().freeSlots + rig.store.stats().heldBlocks).toBe(16);
  });

  test('under the index: the block is Failed, its slot is not used before its record is invalid in the file', async () => {
    const own = new FaultyCalls();
    const rig = await open({ io: own.io });
    await rig.run('store', rig.batch(rows(16)));
    own.codes.set('write', 'EIO');
    expect(await rig.run('store', rig.batch([row(20, 0)]))).toEqual([Failed]);
    expect(rig.removed).toHaveLength(1);
    // The file still says what it said: all sixteen bodies must be untouched.
    const copy = path.join(scratch, `copy-${made++}`);
    fs.cpSync(rig.folder, copy, { recursive: true });
    const other = await open({ folder: copy });
    expect(await other.run('load', other.batch(rows(16)))).toEqual(rows(16).map(() => Done));
    own.codes.clear();
    await until('well again', () => rig.problems.at(-1) === undefined);
    expect(await rig.run('store', rig.batch([row(20, 0)]))).toEqual([Done]);
  });
});

describe('a disk that refuses reads', () => {
  test('EIO: Failed, given up, loads end at once until it answers again', async () => {
    const data = new FaultyCalls();
    const own = new FaultyCalls();
    const rig = await open({ fileIo: data.io, io: own.io });
    await rig.run('store', rig.batch(rows(6)));
    for (const calls of [data, own]) for (const name of ['read', 'readv']) calls.codes.set(name, 'EIO');
    expect(await rig.run('load', rig.batch(rows(2)))).toEqual([Failed, Failed]);
    expect(rig.removed.map(({ reason }) => reason)).toEqual(['failed', 'failed']);
    expect(rig.problems).toEqual([expect.objectContaining({ code: 'KVBM_DISK_FAILED' })]);
    expect(rig.store.match(rig.batch(rows(4, 2)).hashes, 0)).toBe(0);
    expect(await rig.run('load', rig.batch(rows(4, 2)))).toEqual([Failed, Failed, Failed, Failed]);
    expect(rig.removed).toHaveLength(2);
    for (const calls of [data, own]) calls.codes.clear();
    await until('well again', () => rig.problems.at(-1) === undefined);
    expect(await rig.run('load', rig.batch(rows(6)))).toEqual([Missing, Missing, Done, Done, Done, Done]);
  });

  test('one bad place costs one block of a batch', async () => {
    const data = new FaultyCalls();
    const rig = await open({ fileIo: data.io });
    await rig.run('store', rig.batch(rows(6)));
    data.offset = 3 * BLOCK;
    data.codes.set('read', 'EIO');
    data.codes.set('readv', 'EIO');
    // The six lie in one run: read as one, it does not begin at the bad place; only block 3 alone does.
    expect(await rig.run('load', rig.batch([row(3, 0), row(5, 1)]))).toEqual([Failed, Done]);
    expect(rig.store.match(rig.batch([row(3)]).hashes, 0)).toBe(0);
  });

  test('sabotage: without the check of the status, the failed block would pass as loaded', async () => {
    const data = new FaultyCalls();
    const rig = await open({ fileIo: data.io });
    rig.block(0).fill(7);
    await rig.run('store', rig.batch(rows(1)));
    rig.block(0).fill(0);
    data.codes.set('read', 'EIO');
    expect(await rig.run('load', rig.batch(rows(1)))).not.toEqual([Done]);
    expect(rig.block(0).every((byte) => byte === 7)).toBe(false);
  });
});

describe('a disk that is gone', () => {
  test('the folder is deleted: everything is given up, the space goes back, and a new store is begun', async () => {
    const rig = await open();
    await rig.run('store', rig.batch(rows(5)));
    const fds = fs.readdirSync('/proc/self/fd').length;
    fs.rmSync(rig.folder, { recursive: true, force: true });
    await until('noticed', () => rig.problems.some((problem) => problem?.code === 'KVBM_DISK_GONE'));
    expect(rig.removed.map(({ reason }) => reason)).toEqual(['failed', 'failed', 'failed', 'failed', 'failed']);
    await until('made anew', () => rig.problems.at(-1) === undefined);
    expect(rig.store.stats()).toMatchObject({ heldBlocks: 0, pinnedBlocks: 0 });
    expect(await rig.run('store', rig.batch(rows(5)))).toEqual([Done, Done, Done, Done, Done]);
    expect(await rig.run('load', rig.batch(rows(5)))).toEqual([Done, Done, Done, Done, Done]);
    expect(fs.readdirSync('/proc/self/fd').length).toBe(fds);
  });

  test('moved away and back (a disk that was unmounted): what it holds is found again', async () => {
    const rig = await open();
    await rig.run('store', rig.batch(rows(5)));
    await new Promise((resolve) => setTimeout(resolve, 20));
    fs.renameSync(rig.folder, `${rig.folder}-away`);
    fs.writeFileSync(rig.folder, 'in the way');
    await until('noticed', () => rig.problems.length > 0);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(await rig.run('store', rig.batch(rows(1, 6)))).toEqual([Refused]);
    fs.rmSync(rig.folder);
    fs.renameSync(`${rig.folder}-away`, rig.folder);
    await until('found again', () => rig.problems.at(-1) === undefined);
    expect(await rig.run('load', rig.batch(rows(5)))).toEqual([Done, Done, Done, Done, Done]);
  });
});

describe('a slow disk', () => {
  test('throttled: as fast as told, loads end at their deadline and keep their blocks', async () => {
    const rig = await open({ config: { readBytesPerSecond: 10 * BLOCK, writeBytesPerSecond: 1000 * BLOCK } });
    await rig.run('store', rig.batch(rows(8)));
    const start = performance.now();
    expect(await rig.run('load', rig.batch(rows(3)))).toEqual([Done, Done, Done]);
    expect(performance.now() - start).toBeGreaterThan(280);
    const late = await rig.run('load', rig.batch(rows(8)), 250);
    expect(late.filter((status) => status === Done).length).toBeLessThan(4);
    expect(late.filter((status) => status === Failed).length).toBeGreaterThan(4);
    expect(rig.removed).toEqual([]);
    expect(rig.problems).toEqual([]);
    const first = rig.measured.find(({ kind }) => kind === 'load');
    expect(first).toMatchObject({ blocks: 3, bytes: 3 * BLOCK });
    expect(first!.milliseconds).toBeGreaterThan(280);
  });

  test('the queue is bounded: stores beyond it are refused and said, loads count as not held', async () => {
    const data = new FaultyCalls();
    const rig = await open({ fileIo: data.io, config: { maxRunning: 1, maxQueued: 2, probeMs: 60_000 } });
    await rig.run('store', rig.batch(rows(2)));
    for (const name of ['read', 'readv', 'write', 'writev']) data.hanging.add(name);
    const loads = Array.from({ length: 5 }, () => rig.run('load', rig.batch(rows(1))));
    const stores = Array.from({ length: 5 }, (_, i) => rig.run('store', rig.batch([row(10 + i, 10 + i)])));
    expect(await Promise.all(loads.slice(3))).toEqual([[Missing], [Missing]]);
    expect(await Promise.all(stores.slice(3))).toEqual([[Refused], [Refused]]);
    expect(rig.problems).toEqual([expect.objectContaining({ code: 'KVBM_DISK_SLOW' })]);
    data.release();
    expect(await Promise.all([...loads, ...stores])).toEqual([[Done], [Done], [Done], [Missing], [Missing], [Done], [Done], [Done], [Refused], [Refused]]);
  });

  test('a load that waits in the queue ends at its deadline', async () => {
    const data = new FaultyCalls();
    const rig = await open({ fileIo: data.io, config: { maxRunning: 1 } });
    await rig.run('store', rig.batch(rows(2)));
    for (const name of ['read', 'readv']) data.hanging.add(name);
    const stuck = rig.run('load', rig.batch(rows(1)));
    expect(await rig.run('load', rig.batch(rows(1, 1)), 30)).toEqual([Failed]);
    data.release();
    expect(await stuck).toEqual([Done]);
  });

  test('closing ends what runs and what waits', async () => {
    const data = new FaultyCalls();
    const rig = await open({ fileIo: data.io, config: { maxRunning: 1 } });
    await rig.run('store', rig.batch(rows(2)));
    for (const name of ['read', 'readv', 'write', 'writev']) data.hanging.add(name);
    const loads = [rig.run('load', rig.batch(rows(1))), rig.run('load', rig.batch(rows(1)))];
    const stores = [rig.run('store', rig.batch([row(10, 10)])), rig.run('store', rig.batch([row(11, 11)]))];
    const closing = rig.store.close();
    setTimeout(() => data.release(), 50);
    await closing;
    const ends = (await Promise.all([...loads, ...stores])).flat();
    for (const status of ends) expect([Canceled, Failed, Done, Present]).toContain(status);
    expect(await rig.run('load', rig.batch(rows(1)))).toEqual([Failed]);
    expect(await rig.run('store', rig.batch(rows(1)))).toEqual([Refused]);
  });
});

describe('at start', () => {
  test('missing parents are made; a file in the way, a folder that may not be made: codes', async () => {
    const rig = await open({ folder: path.join(scratch, 'a', 'b', `c-${made++}`) });
    expect(await rig.run('store', rig.batch(rows(1)))).toEqual([Done]);
    const file = path.join(scratch, 'a-file');
    fs.writeFileSync(file, 'x');
    await expect(open({ folder: file })).rejects.toMatchObject({ code: 'KVBM_STORE_PATH_INVALID', hint: expect.any(String) as string });
    await expect(open({ folder: path.join(file, 'below') })).rejects.toMatchObject({ code: 'KVBM_STORE_PATH_INVALID' });
    await expect(open({ folder: '/proc/nothing-may-be-made-here' })).rejects.toMatchObject({ code: expect.stringMatching(/^KVBM_STORE_|^KVBM_DISK_GONE/) as string });
    await expect(open({ config: { capacity: 10 } })).rejects.toMatchObject({ code: 'KVBM_CAPACITY_INVALID' });
    await expect(open({ config: { capacity: '1000TiB', slabBytes: '100TiB' }, blockBytes: 1 << 24 })).rejects.toMatchObject({ code: 'KVBM_CAPACITY_OVER_DEVICE' });
  });

  test('more than is free now: opens degraded, nothing is taken from the disk', async () => {
    const { bavail, bsize, blocks } = fs.statfsSync(scratch);
    if (bavail === blocks) {
      console.log(`left out: nothing is used on the file system of ${scratch}`);
      return;
    }
    const capacity = bavail * bsize + (blocks - bavail) * bsize * 0.5;
    const rig = await open({ blockBytes: 1 << 20, memoryBlocks: 2, config: { capacity: Math.floor(capacity), slabBytes: '1GiB', preallocate: true, probeMs: 60_000 } });
    expect(rig.problems).toEqual([expect.objectContaining({ code: 'KVBM_DISK_FULL' })]);
    expect(await rig.run('store', rig.batch([row(0)]))).toEqual([Refused]);
    expect(await rig.run('load', rig.batch([row(0)]))).toEqual([Failed]);
    expect(fs.statfsSync(scratch).bavail * bsize).toBeGreaterThan(bavail * bsize - (64 << 20));
  });

  test('without a path: a folder in the temporary one, gone at the end', async () => {
    const rig = await openRig({ blockBytes: BLOCK, config: { capacity: 16 * BLOCK } });
    const { folder } = rig.store.facts();
    expect(folder.startsWith(os.tmpdir())).toBe(true);
    expect(await rig.run('store', rig.batch(rows(1)))).toEqual([Done]);
    await rig.close();
    expect(fs.existsSync(path.join(folder, '..', '..'))).toBe(false);
  });
});
