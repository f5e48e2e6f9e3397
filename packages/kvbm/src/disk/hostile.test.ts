import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, expect, test } from 'vitest';
import { KvBlockStatus } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { hashAt } from './crash-content.test.support.ts';
import { openRig } from './disk-rig.test.support.ts';
import type { Rig, RigOptions } from './disk-rig.test.support.ts';
import { RECORD_WORDS, sealRecord, stampOf, Word } from './format.ts';
import { recordSeed } from './header.ts';
import { Throttle } from './throttle.ts';

const { Done, Missing } = KvBlockStatus;
const BLOCK = 8192;
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'kvbm-review-'));
let made = 0;
const rigs: Rig[] = [];
afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));

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

test('gone while records are being written: nothing of the old files is held', async () => {
  let held: (() => void)[] | undefined;
  const io = { ...fs, write: (...args: unknown[]) => (held === undefined ? (fs.write as (...a: unknown[]) => void)(...args) : void held.push(() => (fs.write as (...a: unknown[]) => void)(...args))) } as unknown as typeof fs;
  const rig = await open({ io });
  await rig.run('store', rig.batch(rows(2)));
  held = [];
  const running = rig.run('store', rig.batch(rows(4, 4)));
  await until('the records are being written', () => held!.length > 0);
  fs.rmSync(rig.folder, { recursive: true });
  await until('gone is noticed', () => rig.problems.some((p) => p?.code === 'KVBM_DISK_GONE'));
  for (const call of held.splice(0)) call();
  held = undefined;
  await running;
  await until('well again', () => rig.problems.at(-1) === undefined);
  expect(rig.store.stats().heldBlocks).toBe(0);
  expect(await rig.run('load', rig.batch(rows(4, 4)))).toEqual(Array(4).fill(Missing));
});

test('two records of one hash: the block that is kept is not said to be gone', async () => {
  const first = await open();
  await first.run('store', first.batch(rows(4)));
  const { folder } = first;
  await first.close();
  rigs.length = 0;
  // slot 9 says what slot 0 says
  const index = fs.readdirSync(folder, { recursive: true }).map(String).find((name) => name.endsWith('index.kv'))!;
  const file = path.join(folder, index);
  const bytes = fs.readFileSync(file);
  const words = new Int32Array(bytes.buffer.slice(bytes.byteOffset + 4096, bytes.byteOffset + bytes.length));
  words.copyWithin(9 * RECORD_WORDS, 0, RECORD_WORDS);
  words[9 * RECORD_WORDS + Word.Slot] = 9;
  sealRecord(words, 9, 1, stampOf(words, 0) + 100, recordSeed('layout-1'));
  fs.writeFileSync(file, Buffer.concat([bytes.subarray(0, 4096), Buffer.from(words.buffer)]));
  const slab1 = path.join(path.dirname(file), 'slab-00001');
  const slab0 = path.join(path.dirname(file), 'slab-00000');
  const content = fs.readFileSync(slab0).subarray(0, BLOCK);
  const fd = fs.openSync(slab1, 'r+');
  fs.writeSync(fd, content, 0, BLOCK, BLOCK);
  fs.closeSync(fd);
  const second = await open({ folder });
  expect(second.store.facts()).toMatchObject({ recovered: 4 });
  await second.run('store', second.batch(rows(13, 20)));
  const told = second.removed.filter(({ lo, hi }) => lo === hashAt(1, 0)[0] && hi === hashAt(1, 0)[1]);
  const isHeld = second.store.match(Int32Array.from(hashAt(1, 0)), 0) === 1;
  expect(told.length).toBe(isHeld ? 0 : 1);
});

test('a throttled disk does not pay for what was cancelled', () => {
  const clock = new ManualClock();
  const throttle = new Throttle(clock, 1_000_000);
  for (let i = 0; i < 10; i++) throttle.take(1_000_000, Infinity, () => undefined)!.cancel();
  expect(throttle.take(1_000_000, clock.nowMs() + 1_100, () => undefined)).toBeDefined();
});

test('a slab cut short under a running store', async () => {
  const rig = await open();
  for (let i = 0; i < 4; i++) rig.block(i).fill(i + 1);
  await rig.run('store', rig.batch(rows(4)));
  const slab = fs.readdirSync(rig.folder, { recursive: true }).map(String).find((name) => name.endsWith('slab-00000'))!;
  fs.truncateSync(path.join(rig.folder, slab), 2 * BLOCK + 4096);
  rig.bytes.fill(0);
  const statuses = await rig.run('load', rig.batch(rows(4)));
  expect(statuses.slice(0, 2)).toEqual([Done, Done]);
  expect(statuses.slice(2)).not.toContain(Done);
});
