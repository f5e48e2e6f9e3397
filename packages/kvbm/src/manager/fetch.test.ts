import { KvBlockStatus } from '@armature/contracts';
import { expect, test } from 'vitest';
import type { KvFetchResult } from './face.ts';
import { BLOCK_SIZE, promptHashes } from './fake-engine.test.support.ts';
import { BLOCK_BYTES, Rig } from './rig.test.support.ts';
import type { RigOptions } from './rig.test.support.ts';
import { SlowTier } from './slow-tier.test.support.ts';

const HASHES = promptHashes(1, 12);

/** The prompt is on the disk and nowhere else. */
async function onDisk(options: RigOptions = {}): Promise<{ rig: Rig; disk: SlowTier }> {
  const disk = new SlowTier('disk', 1000);
  const rig = await Rig.open({ deviceBlocks: 64, hostBlocks: 32, lower: [disk], offload: { host: 'stored' }, ...options });
  rig.engine.compute(HASHES);
  await rig.clock.elapse(500);
  for (let seed = 10; seed < 20; seed++) {
    rig.engine.compute(promptHashes(seed, 8));
    await rig.clock.elapse(100);
  }
  rig.engine.forget();
  expect([disk.match(HASHES, 0), rig.engine.match(HASHES)]).toEqual([12, 0]);
  return { rig, disk };
}

/** Recomputing takes 49 ms at one token a millisecond. */
const RECOMPUTE_MS = 12 * BLOCK_SIZE + 1;
const LIMIT_MS = 1.05 * RECOMPUTE_MS;

test('what is cheaper to fetch than to compute comes from disk; the record says so', async () => {
  const { rig, disk } = await onDisk();
  disk.latencyMs = 0.5;
  disk.msPerBlock = 0.01;
  const result = await rig.fetch(HASHES);
  expect(result).toMatchObject({ readyTokens: 48, wrong: [], record: { onboardedBlocks: 12 } });
  const [run] = result.record.runs;
  expect(run).toMatchObject({ source: 'disk', fromBlock: 0, blocks: 12, outcome: 'done' });
  expect(run.estimatedMs).toBeLessThan(run.recomputeMs);
  expect(run.tookMs).toBeGreaterThan(0);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('without a measured prefill speed nothing is fetched', async () => {
  const { rig } = await onDisk({ tokensPerMs: 0 });
  expect(await rig.fetch(HASHES)).toMatchObject({ reservation: undefined, elapsedMs: 0, record: { runs: [{ source: 'recompute', blocks: 12 }] } });
  await rig.close();
});

test.each([0.2, 0.05])('a disk that turned slow: no request waits longer than the bound (%s), then it is left alone, then probes find it well again', async (maxSlowdown) => {
  const { rig, disk } = await onDisk({ config: { maxSlowdown } });
  disk.latencyMs = 1_000;
  for (let i = 0; i < 8; i++) {
    const { elapsedMs, readyTokens, wrong } = await rig.fetch(HASHES);
    expect(elapsedMs + (RECOMPUTE_MS - readyTokens)).toBeLessThanOrEqual((1 + maxSlowdown) * RECOMPUTE_MS + 1e-6);
    expect(wrong).toEqual([]);
    rig.engine.forget();
  }
  const declined = await rig.fetch(HASHES);
  expect(declined).toMatchObject({ elapsedMs: 0, readyTokens: 0 });
  expect(declined.record.runs).toMatchObject([{ source: 'disk', outcome: 'not-worth-it' }, { source: 'recompute', blocks: 12 }]);
  disk.latencyMs = 0.1;
  disk.msPerBlock = 0.01;
  let source = '';
  for (let i = 0; i < 40 && source !== 'disk'; i++) {
    await rig.clock.elapse(1_500);
    // Another prompt each time: a probe brings its blocks to the host tier.
    const { record } = await rig.fetch(promptHashes(10 + (i % 10), 8));
    source = record.runs.some((run) => run.source === 'disk' && run.outcome === 'done') ? 'disk' : '';
    rig.engine.forget();
  }
  expect(source).toBe('disk');
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('one slow first load: the bound holds, and the disk is used again by one of the next eight requests', async () => {
  const { rig, disk } = await onDisk();
  disk.latencyMs = 500;
  const slow = await rig.fetch(HASHES);
  expect(slow.elapsedMs + RECOMPUTE_MS - slow.readyTokens).toBeLessThanOrEqual(LIMIT_MS + 1e-6);
  expect(slow.readyTokens).toBe(0);
  disk.latencyMs = 0.5;
  disk.msPerBlock = 0.05;
  rig.engine.forget();
  // Not a second passes, in which a declined source used to be left alone.
  const sources: string[] = [];
  for (let i = 0; i < 8; i++) {
    await rig.clock.elapse(60);
    const { record, wrong } = await rig.fetch(promptHashes(10 + i, 8));
    expect(wrong).toEqual([]);
    sources.push(...record.runs.filter(({ outcome }) => outcome === 'done').map(({ source }) => source));
    rig.engine.forget();
  }
  expect(sources).toContain('disk');
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('a medium that does not stop: the request goes on, its host blocks come back when it has ended', async () => {
  const { rig, disk } = await onDisk();
  disk.latencyMs = 3_000;
  disk.isStubborn = true;
  const result = await rig.fetch(HASHES);
  expect(result.elapsedMs).toBeLessThanOrEqual(LIMIT_MS - RECOMPUTE_MS + 1e-6);
  expect(rig.held()).toMatchObject({ reservations: 0, used: 0 });
  await rig.clock.elapse(10_000);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('while the engine computes for others, fetching is free', async () => {
  const { rig, disk } = await onDisk();
  disk.latencyMs = 30;
  expect(await rig.fetch(HASHES)).toMatchObject({ readyTokens: 0 });
  await rig.clock.elapse(100);
  const result = await rig.fetch(HASHES, { queuedTokens: 200 });
  expect(result.readyTokens).toBeGreaterThan(0);
  expect(result.elapsedMs).toBeLessThanOrEqual(200 + LIMIT_MS - RECOMPUTE_MS + 1e-6);
  await rig.close();
});

test('the leading part that has landed in time is used', async () => {
  const { rig, disk } = await onDisk();
  disk.latencyMs = 0.1;
  disk.msPerBlock = 0.05;
  await rig.fetch(HASHES.slice(0, 2));
  rig.engine.forget();
  // Every batch now takes longer than the one before: the third comes too late.
  const load = disk.load.bind(disk);
  let batches = 0;
  disk.load = (batch, deadlineMs, done) => {
    disk.latencyMs = [1, 1, 400][Math.min(2, batches++)];
    return load(batch, deadlineMs, done);
  };
  const result = await rig.fetch(HASHES);
  expect(result.wrong).toEqual([]);
  expect(result.readyTokens).toBeGreaterThanOrEqual(16);
  expect(result.readyTokens).toBeLessThan(48);
  expect(result.elapsedMs + RECOMPUTE_MS - result.readyTokens).toBeLessThanOrEqual(LIMIT_MS + 1e-6);
  expect(result.record.runs.map(({ outcome }) => outcome)).toContain('late');
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('two requests for the same blocks share one load', async () => {
  const { rig, disk } = await onDisk();
  disk.latencyMs = 1;
  const before = disk.loadedBlocks;
  const results: KvFetchResult[] = [];
  for (let i = 0; i < 2; i++) rig.manager.fetch(rig.request(HASHES), (result) => void results.push(result));
  await rig.clock.elapse(100);
  expect(results.map(({ readyTokens }) => readyTokens)).toEqual([48, 48]);
  expect(disk.loadedBlocks - before).toBe(12);
  for (const { reservation } of results) expect(rig.engine.adopt(reservation!, HASHES, 12)).toEqual([]);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test.each([0, 5, 11])('a byte of block %i changed in the lower tier: found, dropped, recomputed from there', async (block) => {
  const { rig, disk } = await onDisk();
  const held = disk.held.get(`${HASHES[2 * block]},${HASHES[2 * block + 1]}`)!;
  held.bytes[(block * 131) % BLOCK_BYTES] ^= 0x10;
  const result = await rig.fetch(HASHES);
  expect(result.wrong).toEqual([]);
  expect(result.readyTokens).toBe(block * BLOCK_SIZE);
  expect(rig.manager.stats().corruptBlocks).toBe(1);
  expect(disk.match(HASHES, block)).toBe(0);
  expect(rig.metrics.total('verification_failures_total', 'disk')).toBe(1);
  await rig.clock.elapse(100);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test.each([true, false])('a byte changed in host memory: found where it landed, dropped, recomputed (arena in place: %s)', async (isWasm) => {
  const rig = await Rig.open({ isWasm });
  const hashes = promptHashes(3, 8);
  rig.engine.compute(hashes);
  await rig.clock.elapse(50);
  rig.engine.forget();
  flipHost(rig, hashes, 6);
  const result = await rig.fetch(hashes);
  expect([result.readyTokens, result.wrong, rig.manager.stats().corruptBlocks]).toEqual([24, [], 1]);
  expect(result.record.runs.map(({ source, outcome }) => [source, outcome])).toContainEqual(['host', 'corrupt']);
  expect(rig.metrics.total('verification_failures_total', 'host')).toBe(1);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

/** Changes a byte of the row's block in host memory, as the loan of it shows where it is. */
function flipHost(rig: Rig, hashes: Int32Array, row: number): void {
  rig.manager.lend(hashes, row, row + 1, 1_000, 1_000, (loan) => {
    rig.hostBytes[loan!.blocks[0] * loan!.blockStrideBytes + 700] ^= 1;
    rig.manager.settleLoan(loan!.lease);
  });
}

test('every tier fails: the answer is to recompute', async () => {
  const { rig, disk } = await onDisk();
  for (const failure of [KvBlockStatus.Missing, KvBlockStatus.Failed, KvBlockStatus.Foreign, KvBlockStatus.Canceled]) {
    disk.failure = failure;
    expect(await rig.fetch(HASHES)).toMatchObject({ reservation: undefined, readyTokens: 0 });
    await rig.clock.elapse(2_000);
  }
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('no room on the device: recompute', async () => {
  const { rig } = await onDisk();
  const hold = rig.engine.reserve(new Int32Array(0), 60, 60_000)!;
  expect((await rig.fetch(HASHES)).record.runs[0]).toMatchObject({ source: 'disk', outcome: 'full' });
  rig.engine.release(hold.id);
  await rig.close();
});

test('no room on the device, and the engine has other work: the fetch waits for blocks as long as that is free', async () => {
  const { rig, disk } = await onDisk();
  disk.latencyMs = 0.5;
  disk.msPerBlock = 0.01;
  const hold = rig.engine.reserve(new Int32Array(0), 60, 60_000)!;
  rig.clock.setTimer(50, () => rig.engine.release(hold.id));
  const result = await rig.fetch(HASHES, { queuedTokens: 100 });
  expect([result.readyTokens, result.wrong]).toEqual([48, []]);
  expect(result.elapsedMs).toBeLessThanOrEqual(100 + LIMIT_MS - RECOMPUTE_MS + 1e-6);
  const held = rig.engine.reserve(new Int32Array(0), 60, 60_000)!;
  rig.engine.forget();
  let isOver = false;
  const waiting = rig.manager.fetch(rig.request(HASHES, { queuedTokens: 100 }), () => (isOver = true));
  await rig.clock.elapse(10);
  waiting.cancel();
  expect(isOver).toBe(true);
  rig.engine.release(held.id);
  await rig.clock.elapse(10);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('cancel: no reservation, no pins', async () => {
  for (let afterMs = 0; afterMs < 8; afterMs++) {
    const { rig } = await onDisk();
    let result: KvFetchResult | undefined;
    const operation = rig.manager.fetch(rig.request(HASHES), (answer) => (result = answer));
    await rig.clock.elapse(afterMs / 2);
    if (result === undefined) {
      operation.cancel();
      await rig.clock.elapse(5);
      expect(result).toMatchObject({ reservation: undefined, readyTokens: 0 });
    } else rig.engine.release((result as KvFetchResult).reservation!);
    operation.cancel();
    await rig.clock.elapse(50);
    expect(rig.leaks()).toEqual([]);
    await rig.close();
  }
});

test('prefetch brings blocks to the host tier before the request comes', async () => {
  const { rig, disk } = await onDisk({ prefetch: 'route' });
  rig.manager.prefetch('queue', HASHES, '');
  await rig.clock.elapse(100);
  const loads = disk.loads;
  rig.manager.prefetch('route', HASHES, '');
  await rig.clock.elapse(100);
  expect(disk.loads).toBeGreaterThan(loads);
  const { record, wrong } = await rig.fetch(HASHES);
  expect(record.runs[0]).toMatchObject({ source: 'host', outcome: 'done' });
  expect(wrong).toEqual([]);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('while the engine computes for others, blocks of the disk come to host memory; the fetch after that finds them there', async () => {
  const { rig, disk } = await onDisk({ prefetch: 'route' });
  disk.latencyMs = 20;
  let left = -1;
  const startMs = rig.clock.nowMs();
  rig.manager.prefetchAhead(HASHES, '', 400, (queuedTokens) => (left = queuedTokens));
  expect(left).toBe(-1);
  expect(rig.held()['reservations']).toBe(0); // no blocks of the device meanwhile
  await rig.until(() => left >= 0);
  expect(rig.clock.nowMs() - startMs).toBeLessThanOrEqual(200);
  expect(left).toBeCloseTo(400 - (rig.clock.nowMs() - startMs), 0);
  const before = { disk: rig.metrics.total('hit_blocks_total', 'disk'), host: rig.metrics.total('hit_blocks_total', 'host') };
  const { record, wrong } = await rig.fetch(HASHES, { queuedTokens: left });
  expect(wrong).toEqual([]);
  expect(record.runs[0]).toMatchObject({ source: 'host', outcome: 'done' });
  expect(rig.metrics.total('hit_blocks_total', 'host') - before.host).toBeGreaterThanOrEqual(8); // a quarter of the host tier
  expect(rig.metrics.total('prefetched_blocks_total', 'disk')).toBeGreaterThanOrEqual(8);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test.each([
  ['a disk that hangs', 1_000_000, 100, 50],
  ['no queue', 1, 0, 0],
])('a prefetch ahead of its request ends in time: %s', async (_name, latencyMs, queuedTokens, waitMs) => {
  const { rig, disk } = await onDisk({ prefetch: 'route' });
  disk.latencyMs = latencyMs;
  let endMs = NaN;
  const startMs = rig.clock.nowMs();
  rig.manager.prefetchAhead(HASHES, '', queuedTokens, () => (endMs = rig.clock.nowMs()));
  await rig.until(() => !Number.isNaN(endMs));
  expect(endMs - startMs).toBeLessThanOrEqual(waitMs);
  await rig.close();
});

test('a prefetch ahead of its request that is cancelled says nothing; by another rule, or with nothing below, it says so at once', async () => {
  const { rig, disk } = await onDisk({ prefetch: 'route' });
  disk.latencyMs = 5;
  let calls = 0;
  rig.manager.prefetchAhead(HASHES, '', 400, () => calls++).cancel();
  await rig.clock.elapse(1_000);
  expect(calls).toBe(0);
  rig.manager.prefetchAhead(promptHashes(99, 4), '', 400, () => calls++);
  expect(calls).toBe(1);
  const never = await onDisk({ prefetch: 'never' });
  never.rig.manager.prefetchAhead(HASHES, '', 400, () => calls++);
  expect(calls).toBe(2);
  await rig.close();
  await never.rig.close();
});

test('holds: a few look-ups tell whether a fetch could bring anything', async () => {
  const { rig } = await onDisk();
  expect([rig.manager.holds(HASHES, 0), rig.manager.holds(HASHES, 12), rig.manager.holds(promptHashes(99, 4), 0)]).toEqual([true, false, false]);
  const misses = rig.metrics.total('miss_blocks_total');
  rig.manager.passed(promptHashes(99, 4), 1);
  expect([rig.metrics.total('miss_blocks_total') - misses, rig.metrics.total('hit_blocks_total', 'device')]).toEqual([3, 1]);
  await rig.close();
});

test('verifyAll finds what is wrong in every tier', async () => {
  const { rig, disk } = await onDisk();
  expect(await verified(rig)).toMatchObject({ corrupt: 0, unchecked: 0 });
  for (const [at, { bytes }] of [...disk.held.values()].entries()) if (at % 10 === 0) bytes[at] ^= 4;
  const bad = Math.ceil(disk.held.size / 10);
  expect(await verified(rig)).toMatchObject({ corrupt: bad, unchecked: 0 });
  expect(await verified(rig)).toMatchObject({ corrupt: bad, unchecked: 0 }); // told, not dropped
  expect([rig.manager.stats().corruptBlocks, rig.metrics.total('verification_failures_total')]).toEqual([0, 0]);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

async function verified(rig: Rig): Promise<object> {
  let counts: object | undefined;
  void rig.manager.verifyAll(60_000).then((found) => (counts = found));
  await rig.until(() => counts !== undefined);
  return counts!;
}
