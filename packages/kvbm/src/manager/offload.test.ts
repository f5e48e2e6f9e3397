import { expect, test } from 'vitest';
import { BLOCK_SIZE, promptHashes } from './fake-engine.test.support.ts';
import { Rig } from './rig.test.support.ts';
import { SlowTier } from './slow-tier.test.support.ts';

test.each([true, false])('blocks leave the device when they are stored and come back right (arena checked in place: %s)', async (isWasm) => {
  const rig = await Rig.open({ isWasm });
  const hashes = promptHashes(1, 10);
  rig.engine.compute(hashes);
  await rig.clock.elapse(50);
  expect(rig.tier('host')).toMatchObject({ heldBlocks: 10, pinnedBlocks: 0 });
  expect(rig.manager.stats()).toMatchObject({ offloadedBlocks: 10, droppedOffloads: 0, queuedOffloads: 0 });
  rig.engine.forget();
  rig.engine.bytes.fill(0);
  const result = await rig.fetch(hashes);
  expect([result.readyTokens, result.wrong]).toEqual([10 * BLOCK_SIZE, []]);
  expect(result.record).toMatchObject({ onboardedBlocks: 10, runs: [{ source: 'host', fromBlock: 0, blocks: 10, outcome: 'done' }] });
  expect(rig.engine.wrongBlocks()).toBe(0);
  expect(rig.metrics.total('hit_blocks_total', 'host')).toBe(10);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('events: one per tier and chain, with the parent; removed when evicted', async () => {
  const rig = await Rig.open({ hostBlocks: 4, deviceBlocks: 16 });
  rig.engine.compute(promptHashes(1, 4));
  await rig.clock.elapse(50);
  expect(rig.events).toEqual([{ type: 'stored', parent: new Int32Array(0), sequenceHashes: promptHashes(1, 4), tier: 'host' }]);
  expect(rig.manager.snapshot()).toEqual(rig.events);
  rig.engine.compute(promptHashes(2, 2));
  await rig.clock.elapse(50);
  expect(rig.events.slice(1).map(({ type, sequenceHashes }) => [type, sequenceHashes.length / 2])).toEqual([['removed', 2], ['stored', 2]]);
  await rig.close();
});

test('under overload the oldest offloads are dropped and counted, and no lease is left', async () => {
  const rig = await Rig.open({ deviceBlocks: 64, config: { maxQueuedBlocks: 8 } });
  for (let seed = 1; seed <= 6; seed++) rig.engine.compute(promptHashes(seed, 8));
  expect(rig.manager.stats()).toMatchObject({ droppedOffloads: 40, queuedOffloads: 8 });
  await rig.clock.elapse(50);
  expect(rig.manager.stats()).toMatchObject({ offloadedBlocks: 8, droppedOffloads: 40, queuedOffloads: 0 });
  expect(rig.tier('host').heldBlocks).toBe(8);
  expect(rig.metrics.total('offloads_dropped_total', 'overflow')).toBe(40);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('a block that the device gave up before its turn is not taken', async () => {
  const rig = await Rig.open({ deviceBlocks: 8 });
  rig.engine.compute(promptHashes(1, 6));
  rig.engine.forget();
  rig.engine.bytes.fill(7);
  await rig.clock.elapse(50);
  expect(rig.tier('host').heldBlocks).toBe(0);
  expect(rig.metrics.total('offloads_dropped_total', 'gone')).toBe(6);
  await rig.close();
});

test('rule evict: only the oldest are copied, when the device fills', async () => {
  const rig = await Rig.open({ deviceBlocks: 16, offload: { device: 'evict' } });
  rig.engine.compute(promptHashes(1, 8));
  await rig.clock.elapse(50);
  expect(rig.tier('host').heldBlocks).toBe(0);
  rig.engine.compute(promptHashes(2, 6));
  await rig.clock.elapse(50);
  expect(rig.tier('host').heldBlocks).toBeGreaterThan(0);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('rule uses: at the n-th request that finds it', async () => {
  const rig = await Rig.open({ offload: { device: { uses: 2 } } });
  const hashes = promptHashes(1, 4);
  rig.engine.compute(hashes);
  await rig.fetch(hashes);
  await rig.clock.elapse(50);
  expect(rig.tier('host').heldBlocks).toBe(0);
  await rig.fetch(hashes);
  await rig.clock.elapse(50);
  expect(rig.tier('host').heldBlocks).toBe(4);
  await rig.close();
});

test('host to disk before eviction: what the host tier gave up is below, and comes back', async () => {
  const disk = new SlowTier('disk', 100);
  const rig = await Rig.open({ hostBlocks: 12, deviceBlocks: 64, lower: [disk], tokensPerMs: 0.1 });
  for (let seed = 1; seed <= 5; seed++) {
    rig.engine.compute(promptHashes(seed, 4));
    await rig.clock.elapse(100);
  }
  expect(rig.tier('host').evictions).toBeGreaterThan(0);
  expect(disk.held.size).toBeGreaterThanOrEqual(8);
  rig.engine.forget();
  const result = await rig.fetch(promptHashes(1, 4));
  expect(result).toMatchObject({ readyTokens: 16, wrong: [], record: { runs: [{ source: 'disk', blocks: 4, outcome: 'done' }] } });
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('a disk that takes nothing loses demotions, not requests', async () => {
  const disk = new SlowTier('disk', 100);
  disk.latencyMs = 100_000;
  const rig = await Rig.open({ hostBlocks: 12, deviceBlocks: 64, lower: [disk] });
  for (let seed = 1; seed <= 10; seed++) {
    rig.engine.compute(promptHashes(seed, 4));
    await rig.clock.elapse(100);
  }
  expect(rig.manager.stats().tiers[0].pinnedBlocks).toBeLessThanOrEqual(8);
  expect(rig.tier('host').evictions).toBeGreaterThan(0);
  await rig.clock.elapse(60_000);
  expect(rig.manager.stats().droppedOffloads).toBeGreaterThan(0);
  await rig.close();
  expect(disk.running).toBe(0);
});

test('disk to object at the second use, checked on the way', async () => {
  const disk = new SlowTier('disk', 100);
  const object = new SlowTier('object', 100);
  const rig = await Rig.open({ lower: [disk, object], offload: { host: 'stored', disk: 'stored' } });
  rig.engine.compute(promptHashes(1, 4));
  await rig.clock.elapse(200);
  expect([disk.held.size, object.held.size]).toEqual([4, 4]);
  expect(new Set(rig.events.map(({ tier }) => tier))).toEqual(new Set(['host', 'disk', 'object']));
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('a tenant keeps to its share of the host tier', async () => {
  const rig = await Rig.open({ deviceBlocks: 64, hostBlocks: 20, config: { quotas: { small: 0.25 } } });
  rig.engine.compute(promptHashes(1, 10), 'small');
  await rig.clock.elapse(50);
  expect(rig.tier('host').heldBlocks).toBe(5);
  rig.engine.compute(promptHashes(2, 10), 'other');
  await rig.clock.elapse(50);
  expect(rig.tier('host').heldBlocks).toBe(15);
  await rig.close();
});

test('a lease that did not hold to the end: what was copied under it is not kept', async () => {
  const rig = await Rig.open();
  rig.engine.releaseLease = (lease) => {
    rig.engine.leases.release(lease);
    return 'expired';
  };
  rig.engine.compute(promptHashes(1, 6));
  await rig.clock.elapse(50);
  expect([rig.tier('host').heldBlocks, rig.metrics.total('offloads_dropped_total', 'failed')]).toEqual([0, 6]);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test.each([
  ['no host tier', ['disk'], 'KVBM_TIERS_INVALID'],
  ['a tier twice', ['host', 'disk', 'disk'], 'KVBM_TIERS_INVALID'],
])('%s is refused at start', async (_name, tiers, code) => {
  const backends = tiers.map((tier) => new SlowTier(tier as 'disk', 10));
  await expect(Rig.open({ tiers: backends })).rejects.toMatchObject({ code });
});

test('a tier smaller than the one above is refused at start', async () => {
  const disk = new SlowTier('disk', 10);
  disk.capacityBytes = () => 4096;
  await expect(Rig.open({ lower: [disk] })).rejects.toMatchObject({ code: 'KVBM_TIER_TOO_SMALL' });
});
