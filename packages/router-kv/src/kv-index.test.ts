import { expect, test } from 'vitest';
import type { KvEvent, KvTier } from '@armature/contracts';
import { chainHashes, removedEvent, storedEvent } from '@armature/contracts/testing/routing-fixtures';
import { collections, seeded } from './fixtures.test.support.ts';
import { KvIndex } from './kv-index.ts';
import { OverlapColumns } from './overlap.ts';

const tiers: readonly KvTier[] = ['device', 'host', 'disk', 'object'];
type Held = Map<string, Set<number>>;

/** The index, literally: per worker a map from block to the tiers that hold it. */
class NaiveIndex {
  readonly workers = new Map<number, { last: number; held: Held }>();

  apply(slot: number, event: KvEvent): boolean {
    const worker = this.workers.get(slot);
    if (worker === undefined) return true;
    if (event.eventId <= worker.last) return true;
    if (event.eventId !== worker.last + 1) return false;
    worker.last = event.eventId;
    if (event.type === 'cleared') {
      const { tier } = event;
      for (const [key, held] of worker.held) {
        if (tier !== undefined) held.delete(tiers.indexOf(tier));
        if (tier === undefined || held.size === 0) worker.held.delete(key);
      }
      return true;
    }
    for (let i = 0; i < event.sequenceHashes.length; i += 2) {
      const key = `${event.sequenceHashes[i]},${event.sequenceHashes[i + 1]}`;
      const held = worker.held.get(key) ?? new Set<number>();
      if (event.type === 'stored') held.add(tiers.indexOf(event.tier));
      else held.delete(tiers.indexOf(event.tier));
      if (held.size > 0) worker.held.set(key, held);
      else worker.held.delete(key);
    }
    return true;
  }

  /** [total, host, disk, object] */
  overlap(slot: number, hashes: Int32Array): number[] {
    const counts = [0, 0, 0, 0];
    const held = this.workers.get(slot)?.held;
    if (held === undefined) return counts;
    for (let i = 0; i < hashes.length; i += 2) {
      const at = held.get(`${hashes[i]},${hashes[i + 1]}`);
      if (at === undefined) break;
      counts[0]++;
      const best = Math.min(...at);
      if (best > 0) counts[best]++;
    }
    return counts;
  }

  get size(): number {
    const blocks = new Set<string>();
    for (const worker of this.workers.values()) for (const key of worker.held.keys()) blocks.add(key);
    return blocks.size;
  }
}

const clearedEvent = (eventId: number, tier: KvTier | undefined): KvEvent => (tier === undefined ? { type: 'cleared', eventId } : { type: 'cleared', eventId, tier });

function compare(index: KvIndex, model: NaiveIndex, slots: number, query: Int32Array, out: OverlapColumns): void {
  index.findOverlap(query, query.length / 2, out);
  for (let slot = 0; slot < slots; slot++) {
    expect([out.total[slot], out.host[slot], out.disk[slot], out.object[slot]], `slot ${slot}`).toEqual(model.overlap(slot, query));
  }
}

for (const { seed, slots } of [
  { seed: 1, slots: 1 },
  { seed: 2, slots: 5 },
  { seed: 3, slots: 33 },
  { seed: 4, slots: 100 },
  { seed: 5, slots: 8 },
  { seed: 6, slots: 64 },
]) {
  test(`equals the naive model under random events, then drains to nothing (seed ${seed}, ${slots} workers)`, () => {
    const random = seeded(seed);
    const index = new KvIndex();
    const model = new NaiveIndex();
    const out = new OverlapColumns(1);
    const count = { gaps: 0, ignored: 0, holes: 0, lower: 0, queries: 0 };
    const cleared = new Set<KvTier | undefined>();
    // A few chains that share prefixes: chain c follows chain 0 for its first c * 3 blocks.
    const check = (query: Int32Array): void => {
      compare(index, model, slots, query, out);
      count.queries++;
      for (let slot = 0; slot < slots; slot++) {
        const beyond = out.total[slot] * 2 + 2;
        if (out.total[slot] > 0 && beyond < query.length && model.overlap(slot, query.subarray(beyond))[0] > 0) count.holes++;
        if (out.host[slot] + out.disk[slot] + out.object[slot] > 0) count.lower++;
      }
    };
    const block = (chain: number, at: number): Int32Array => chainHashes(at < chain * 3 ? 0 : chain, 1, at);
    const range = (chain: number, from: number, to: number): Int32Array => {
      const hashes = new Int32Array((to - from) * 2);
      for (let i = from; i < to; i++) hashes.set(block(chain, i), (i - from) * 2);
      return hashes;
    };
    const join = (slot: number): void => {
      index.joined(slot);
      model.workers.set(slot, { last: 0, held: new Map() });
    };
    for (let slot = 0; slot < slots; slot++) if (random.below(10) > 0) join(slot);
    for (let step = 0; step < 4000; step++) {
      const slot = random.below(slots);
      const worker = model.workers.get(slot);
      const kind = 6 + (random.below(slots < 10 ? 2000 : 300) < 20 ? -random.below(7) : random.below(94));
      if (kind < 2) {
        index.left(slot);
        model.workers.delete(slot);
      } else if (kind < 5) join(slot);
      else if (kind < 7) {
        const state = [storedEvent(1, range(random.below(6), 0, random.below(20))), storedEvent(1, range(random.below(6), 0, random.below(20)))].slice(random.below(3));
        const last = state.length === 0 ? 0 : 1 + random.below(100);
        index.restore(slot, state, last);
        if (worker !== undefined) {
          Object.assign(worker, { last: 0, held: new Map() });
          state.forEach((event, i) => model.apply(slot, { ...event, eventId: i + 1 }));
          worker.last = last;
        }
      } else {
        const last = worker === undefined ? random.below(50) : worker.last;
        const drift = random.below(20);
        const eventId = drift === 0 ? last + 2 + random.below(3) : drift < 3 ? Math.max(1, last - random.below(3)) : last + 1;
        const from = random.below(24);
        const hashes = range(random.below(6), from, from + 1 + random.below(random.below(3) === 0 ? 24 : 4));
        const tier = tiers[random.below(3) === 0 ? random.below(4) : 0];
        const event = kind < 60 ? storedEvent(eventId, hashes, tier) : kind < 99 ? removedEvent(eventId, hashes, tier) : clearedEvent(eventId, tiers[random.below(5)]);
        const applied = model.apply(slot, event);
        expect(index.apply(slot, event)).toBe(applied);
        if (applied && event.type === 'cleared' && worker?.last === eventId) cleared.add(event.tier);
        if (!applied) count.gaps++;
        else if (worker !== undefined && worker.last !== eventId) count.ignored++;
      }
      if (step % 10 === 0) {
        check(range(random.below(6), 0, random.below(40)));
        check(range(random.below(6), 5, 20));
        expect(index.size).toBe(model.size);
      }
    }
    console.log(`kv-index seed ${seed}: ${JSON.stringify(count)}, ${index.size} blocks`);
    expect(Math.min(count.gaps, count.ignored, count.holes, count.lower)).toBeGreaterThan(10);
    expect(cleared.size).toBeGreaterThan(1);
    for (const [slot, worker] of model.workers) {
      if (slot % 2 === 0) {
        index.left(slot);
        expect(index.held(slot)).toBe(0);
        continue;
      }
      if (worker.last < 0) worker.last = 0;
      for (const [key, held] of worker.held) for (const tier of held) expect(index.apply(slot, removedEvent(++worker.last, Int32Array.from(key.split(','), Number), tiers[tier]))).toBe(true);
      expect(index.held(slot)).toBe(0);
    }
    expect(index.size).toBe(0);
    compare(index, new NaiveIndex(), slots, range(0, 0, 40), out);
  });
}

test('a cleared tier leaves the others: device blocks may go while host blocks stay', () => {
  const index = new KvIndex();
  const out = new OverlapColumns();
  index.joined(0);
  index.apply(0, storedEvent(1, chainHashes(1, 8), 'device'));
  index.apply(0, storedEvent(2, chainHashes(1, 5), 'host'));
  index.apply(0, clearedEvent(3, 'device'));
  index.findOverlap(chainHashes(1, 8), 8, out);
  expect([out.total[0], out.host[0], index.held(0)]).toEqual([5, 5, 5]);
  index.apply(0, storedEvent(4, chainHashes(1, 2), 'device'));
  index.apply(0, clearedEvent(5, 'disk'));
  index.findOverlap(chainHashes(1, 8), 8, out);
  expect([out.total[0], out.host[0]]).toEqual([5, 3]);
  index.apply(0, clearedEvent(6, 'host'));
  index.findOverlap(chainHashes(1, 8), 8, out);
  expect([out.total[0], out.host[0], index.held(0)]).toEqual([2, 0, 2]);
});

test('rows are used again: churn far beyond one chunk keeps exactly the live blocks', () => {
  const index = new KvIndex();
  index.joined(40);
  for (let round = 0; round < 300; round++) {
    index.apply(40, storedEvent(round * 2 + 1, chainHashes(round, 100)));
    index.apply(40, removedEvent(round * 2 + 2, chainHashes(round, 90, 10)));
  }
  expect(index.size).toBe(3000);
  expect(index.held(40)).toBe(3000);
  const out = new OverlapColumns();
  for (const round of [0, 150, 299]) {
    index.findOverlap(chainHashes(round, 100), 100, out);
    expect(out.total[40]).toBe(10);
  }
});

test('a full index stops recording, counts what it left out and goes on after removals', () => {
  const index = new KvIndex(10);
  index.joined(0);
  index.apply(0, storedEvent(1, chainHashes(1, 14)));
  expect([index.size, index.droppedBlocks]).toEqual([10, 4]);
  index.apply(0, removedEvent(2, chainHashes(1, 14)));
  expect(index.size).toBe(0);
  index.apply(0, storedEvent(3, chainHashes(2, 10)));
  const out = new OverlapColumns();
  index.findOverlap(chainHashes(2, 10), 10, out);
  expect(out.total[0]).toBe(10);
});

test('queries of any size do not allocate', async () => {
  const index = new KvIndex();
  for (let slot = 0; slot < 64; slot++) {
    index.joined(slot);
    index.apply(slot, storedEvent(1, chainHashes(1, 8 * (slot + 1))));
  }
  const out = new OverlapColumns();
  const query = chainHashes(1, 512);
  const queries = 12_000;
  const quiet = await collections(() => {
    for (let i = 0; i < queries; i++) index.findOverlap(query, 512, out);
  });
  // The measure sees it: one object per block is 12,000 x 512 x 16 bytes = 98 MB.
  const kept: object[] = [];
  const allocating = await collections(() => {
    for (let i = 0; i < queries * 512; i++) kept[i & 63] = { i };
  });
  console.log(`collections: ${quiet} in queries, ${allocating} with one object per block`);
  expect(allocating).toBeGreaterThanOrEqual(3);
  expect(quiet).toBeLessThan(3);
  expect(out.total[63]).toBe(512);
});

test('malformed events change nothing, are counted, and leave the stream as it was', () => {
  const index = new KvIndex();
  index.joined(0);
  index.apply(0, storedEvent(1, chainHashes(1, 8)));
  const good = { type: 'stored', eventId: 2, parent: new Int32Array(0), sequenceHashes: chainHashes(2, 4), tier: 'device' };
  const malformed: unknown[] = [
    null,
    undefined,
    'stored',
    7,
    {},
    { ...good, type: 'evicted' },
    { ...good, tier: 'tape' },
    { ...good, eventId: -1 },
    { ...good, eventId: 2.5 },
    { ...good, eventId: Number.NaN },
    { ...good, eventId: 2 ** 60 },
    { ...good, eventId: '2' },
    { ...good, sequenceHashes: chainHashes(2, 4).subarray(0, 7) },
    { ...good, sequenceHashes: [1, 2] },
    { ...good, sequenceHashes: ['a', 'b'] },
    { ...good, sequenceHashes: new Float64Array([2 ** 70, -1]) },
    { ...good, sequenceHashes: new BigInt64Array(2) },
    { ...good, sequenceHashes: undefined },
    { ...good, parent: undefined },
    { ...good, parent: new Int32Array(3) },
    { type: 'removed', eventId: 2, sequenceHashes: 'all', tier: 'device' },
    { type: 'cleared', eventId: -2 },
    { type: 'cleared', eventId: 2, tier: 'tape' },
  ];
  for (const event of malformed) expect(index.apply(0, event as KvEvent)).toBe(true);
  expect([index.malformedEvents, index.size, index.held(0)]).toEqual([malformed.length, 8, 8]);
  expect(index.apply(0, good as KvEvent)).toBe(true);
  expect(index.held(0)).toBe(12);
  index.restore(0, [...(malformed as KvEvent[]), good as KvEvent], 9);
  expect([index.held(0), index.malformedEvents]).toEqual([4, malformed.length * 2]);
  expect(index.apply(0, storedEvent(10, chainHashes(3, 1)))).toBe(true);
});

test('slots that never joined, and impossible ones, are ignored', () => {
  const index = new KvIndex();
  for (const slot of [-1, 0, 5, 1e9, 0.5, Number.NaN]) {
    expect(index.apply(slot, storedEvent(1, chainHashes(1, 3)))).toBe(true);
    index.left(slot);
    index.restore(slot, [storedEvent(1, chainHashes(1, 3))], 1);
    expect(index.held(slot)).toBe(0);
  }
  expect(index.size).toBe(0);
});

test('registered capacity sizes the index ahead: a hint that changes no answer', () => {
  const index = new KvIndex();
  const out = new OverlapColumns();
  for (const [slot, blocks] of [[0, 200_000], [1, Number.NaN], [2, -5], [3, 100_000]] as const) index.joined(slot, blocks);
  const positions = (): number => index.stats().entries / index.stats().fill;
  index.apply(0, storedEvent(1, chainHashes(1, 100)));
  expect(positions()).toBeGreaterThan(300_000);
  index.apply(3, storedEvent(1, chainHashes(1, 60)));
  index.findOverlap(chainHashes(1, 100), 100, out);
  expect([out.total[0], out.total[3]]).toEqual([100, 60]);
});

test('a query may begin anywhere in a column of many chains', () => {
  const index = new KvIndex();
  const out = new OverlapColumns();
  index.joined(0);
  index.apply(0, storedEvent(1, chainHashes(1, 9)));
  const queries = new Int32Array([...chainHashes(7, 5), ...chainHashes(1, 12), ...chainHashes(8, 5)]);
  index.findOverlap(queries, 12, out, 5);
  expect([out.count, out.total[0]]).toEqual([1, 9]);
});
