import { expect, test } from 'vitest';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { promptHashes } from './fake-engine.test.support.ts';
import { CountingMetrics, PeerLinks, Rig, slowLink } from './rig.test.support.ts';
import type { BlockManagerStats } from './face.ts';
import { ManagerMetrics } from './manager-metrics.ts';
import { SlowTier } from './slow-tier.test.support.ts';

const HASHES = promptHashes(1, 12);

class SharedTier extends SlowTier {
  probes = 0;
  probe(_hashes: Int32Array, _from: number, _deadlineMs: number, done: (blocks: number) => void): { cancel(): void } {
    this.probes++;
    done(0); // as a store does that is down
    return { cancel: () => undefined };
  }
}

test('a fetch is cancelled though the shared store, being down, had answered within the call', async () => {
  const disk = new SlowTier('disk', 1000);
  const object = new SharedTier('object', 1000);
  const rig = await Rig.open({ deviceBlocks: 64, hostBlocks: 32, lower: [disk, object], offload: { host: 'stored' } });
  rig.engine.compute(HASHES);
  await rig.clock.elapse(500);
  for (let seed = 10; seed < 20; seed++) {
    rig.engine.compute(promptHashes(seed, 8));
    await rig.clock.elapse(100);
  }
  rig.engine.forget();
  disk.latencyMs = 1;
  await rig.fetch(HASHES.slice(0, 2));
  rig.engine.forget();
  disk.latencyMs = 20;
  const more = promptHashes(1, 14);
  let done = 0;
  const op = rig.manager.fetch(rig.request(more, { queuedTokens: 300 }), () => void done++);
  await rig.clock.elapse(3);
  expect(object.probes).toBeGreaterThan(0);
  expect(done).toBe(0);
  op.cancel();
  expect(done).toBe(1);
  await rig.clock.elapse(100);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

test('bytes that were still being checked when their fetch ended are not called corrupt', async () => {
  const blocks = 1500;
  let reached = 0;
  for (let turns = 1; turns < 3; turns++) {
    const rig = await Rig.open({ deviceBlocks: 2000, hostBlocks: 2000, config: { batchBlocks: 2000, maxQueuedBlocks: 4000 } });
    const hashes = promptHashes(3, blocks);
    rig.engine.compute(hashes);
    await rig.clock.elapse(50);
    rig.engine.forget();
    expect(rig.tier('host').heldBlocks).toBe(blocks);
    let isDone = false;
    const op = rig.manager.fetch(rig.request(hashes, { queuedTokens: 100_000 }), (result) => {
      isDone = true;
      if (result.reservation !== undefined) rig.engine.release(result.reservation);
    });
    let left = turns;
    const next = (): void => {
      if (--left > 0) return rig.clock.defer(next);
      if (isDone) return;
      reached++;
      op.cancel();
      // the engine has its blocks back
      rig.engine.bytes.fill(0x55);
    };
    rig.clock.defer(next);
    await rig.clock.elapse(20);
    expect([turns, rig.manager.stats().corruptBlocks, rig.tier('host').heldBlocks]).toEqual([turns, 0, blocks]);
    await rig.close();
  }
  expect(reached).toBeGreaterThan(0);
});

test('pulls that run at once pin at most half of the host tier together', async () => {
  const disk = new SlowTier('disk', 1000);
  const rig = await Rig.open({ isOutOfReach: true, hostBlocks: 32, lower: [disk], offload: { host: 'never' } });
  // on disk
  const prompts = Array.from({ length: 4 }, (_, i) => promptHashes(30 + i, 12));
  for (const hashes of prompts) await put(rig, disk, hashes);
  const pins: { lease: number; blocks: Int32Array }[] = [];
  for (const hashes of prompts) rig.manager.host.pull({ sequenceHashes: hashes, from: 0, to: 12, cacheSalt: '', deadlineMs: 1000 } as never, (pin) => void (pin === undefined ? 0 : pins.push(pin)));
  await rig.clock.elapse(500);
  expect(rig.manager.host.counts().pinnedBlocks).toBeLessThanOrEqual(16);
  for (const { lease } of pins) rig.manager.host.release(lease);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});

async function put(rig: Rig, disk: SlowTier, hashes: Int32Array): Promise<void> {
  for (let from = 0; 2 * from < hashes.length; from += 4) {
    const part = hashes.slice(2 * from, 2 * from + 8);
    const parents = new Int32Array(part.length);
    if (from > 0) parents.set(hashes.subarray(2 * from - 2, 2 * from));
    parents.set(part.subarray(0, part.length - 2), 2);
    const got = rig.manager.host.reserve({ sequenceHashes: part, parents, cacheSalt: '' } as never, 1000)!;
    await new Promise<void>((resolve) => rig.manager.host.commit(got.id, got.rows.length, () => resolve()));
    const pin = await new Promise<{ lease: number; blocks: Int32Array }>((resolve) => rig.manager.host.pull({ sequenceHashes: part, from: 0, to: 4, cacheSalt: '', deadlineMs: 10 } as never, (p) => resolve(p!)));
    const { memory } = rig.manager.host;
    const checksums = new Int32Array(8);
    rig.manager.lend(part, 0, 4, 100, 100, (loan) => {
      checksums.set(loan!.checksums);
      rig.manager.settleLoan(loan!.lease);
    });
    disk.store({ count: 4, hashes: part, parents, checksums, tenant: 0, memory: memory as never, blocks: pin.blocks, statuses: new Uint8Array(4) }, () => undefined);
    await rig.clock.elapse(5);
    rig.manager.host.release(pin.lease);
  }
}

test('what is brought up for a peer keeps its place in its prompt, and its tenant', async () => {
  const clock = new ManualClock();
  const links = new PeerLinks(clock);
  const transport = slowLink(clock, { delayMs: () => 0.5 });
  const disk = new SlowTier('disk', 1000);
  const lender = await Rig.open({ clock, transport, name: 'lender', lower: [disk], offload: { host: 'stored' }, config: { quotas: { greedy: 0.1 } } });
  links.rigs.set('lender', lender);
  for (const blocks of [4, 8, 12]) {
    lender.engine.compute(HASHES.slice(0, 2 * blocks), 'greedy');
    await clock.elapse(200);
  }
  expect(disk.match(HASHES, 0)).toBe(12);
  for (let seed = 10; seed < 20; seed++) {
    lender.engine.compute(promptHashes(seed, 8));
    await clock.elapse(100);
  }
  const borrower = await Rig.open({ clock, transport, name: 'borrower', peers: links, tokensPerMs: 0.05 });
  lender.events.length = 0;
  // Rows 4 and on: the first four are on the borrower's device.
  borrower.engine.compute(HASHES.slice(0, 8));
  await clock.elapse(50);
  const { readyTokens } = await borrower.fetch(HASHES, { cacheSalt: 'greedy', queuedTokens: 300, peers: [lender.asPeer(12)] });
  expect(readyTokens).toBeGreaterThan(16);
  const stored = lender.events.filter((event) => event.type === 'stored' && event.tier === 'host');
  expect(stored.length).toBeGreaterThan(0);
  for (const event of stored) {
    if (event.type !== 'stored') continue;
    const at = [...Array(12).keys()].find((row) => HASHES[2 * row] === event.sequenceHashes[0])!;
    expect([...event.parent]).toEqual([...HASHES.slice(2 * at - 2, 2 * at)]);
  }
  const held = [...Array(12).keys()].filter((row) => lender.manager.snapshot().some((event) => event.type === 'stored' && event.tier === 'host' && event.sequenceHashes.includes(HASHES[2 * row])));
  expect(held.length).toBeLessThanOrEqual(6);
  await borrower.close();
  await lender.close();
});

test('a disk that hangs for good costs the bound once, and not the host tier', async () => {
  const disk = new SlowTier('disk', 10_000);
  disk.latencyMs = 0.1;
  disk.msPerBlock = 0.01;
  const rig = await Rig.open({ deviceBlocks: 128, hostBlocks: 256, lower: [disk], offload: { host: 'stored' }, config: { batchBlocks: 8 } });
  const prompts = Array.from({ length: 60 }, (_, i) => promptHashes(100 + i, 60));
  for (const hashes of prompts) {
    rig.engine.compute(hashes);
    await rig.clock.elapse(100);
  }
  rig.engine.forget();
  for (let i = 0; i < 10; i++) {
    const { readyTokens } = await rig.fetch(prompts[i]);
    expect(readyTokens).toBe(240);
    rig.engine.forget();
  }
  disk.latencyMs = 1e9;
  disk.isStubborn = true;
  const waited: number[] = [];
  for (let i = 10; i < 50; i++) {
    const { elapsedMs } = await rig.fetch(prompts[i]);
    rig.engine.forget();
    waited.push(elapsedMs);
    await rig.clock.elapse(200);
  }
  expect(waited.filter((ms) => ms > 0)).toHaveLength(1);
  // One fetch had four batches under way.
  expect(rig.held()).toMatchObject({ host: 32, disk: 4, reservations: 0, used: 0 });
  disk.release();
  disk.latencyMs = 0.1;
  disk.isStubborn = false;
  await rig.clock.elapse(10);
  expect(rig.leaks()).toEqual([]);
  let fetched = 0;
  for (let i = 50; i < 60; i++) {
    fetched += (await rig.fetch(prompts[i])).record.onboardedBlocks;
    rig.engine.forget();
    await rig.clock.elapse(1_100);
  }
  expect(fetched).toBeGreaterThan(0);
  await rig.close();
});

test('gauges of the workers of a pool add up, and one that ends takes its part away', () => {
  const metrics = new CountingMetrics();
  const tier = (heldBlocks: number) => ({ tier: 'host', heldBlocks, pinnedBlocks: 1, capacityBlocks: 10 });
  let held = 3;
  const [first, second] = [() => held, () => 4].map((of) => new ManagerMetrics(metrics, ['model', 'pool'], () => ({ tiers: [tier(of())], queuedOffloads: 2 }) as unknown as BlockManagerStats));
  expect([metrics.total('held_blocks'), metrics.total('capacity_blocks'), metrics.total('queued_offload_blocks')]).toEqual([7, 20, 4]);
  held = 1;
  expect(metrics.total('held_blocks', 'host')).toBe(5);
  second.close();
  expect([metrics.total('held_blocks'), metrics.total('capacity_blocks'), metrics.total('queued_offload_blocks')]).toEqual([1, 10, 2]);
  first.close();
  expect(metrics.total('held_blocks')).toBe(0);
});
