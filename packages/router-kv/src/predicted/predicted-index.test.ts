import { expect, test } from 'vitest';
import { chainHashes } from '@armature/contracts/testing/routing-fixtures';
import { collections, seeded } from '../fixtures.test.support.ts';
import { OverlapColumns } from '../overlap.ts';
import { PredictedIndex } from './predicted-index.ts';

const create = (workers: number, parts: { ttlMs?: number; totalBlocks?: number; maxBlocks?: number } = {}): PredictedIndex => {
  const index = new PredictedIndex({ maxBlocks: parts.maxBlocks ?? 1_000_000 });
  for (let slot = 0; slot < workers; slot++) index.joined(slot, { ttlMs: parts.ttlMs ?? 1000, totalBlocks: parts.totalBlocks ?? 0 });
  return index;
};
const overlap = (index: PredictedIndex, hashes: Int32Array, nowMs: number, slots = 3): number[] => {
  const out = new OverlapColumns();
  index.findOverlap(hashes, hashes.length / 2, out, nowMs);
  expect(new Set(out.found.subarray(0, out.count)).size).toBe(out.count);
  return [...out.total.subarray(0, slots)];
};

test('siblings of a prompt find it where it was sent, until its time is over; routing it again renews it', () => {
  const index = create(3);
  const prompt = chainHashes(1, 20);
  index.routed(1, prompt, 20, 0);
  expect(overlap(index, prompt, 999)).toEqual([0, 20, 0]);
  expect(overlap(index, chainHashes(1, 30), 999)).toEqual([0, 20, 0]);
  expect(overlap(index, prompt, 1000)).toEqual([0, 0, 0]);
  index.routed(1, prompt.subarray(0, 16), 8, 900); // the first 8 blocks only
  expect(overlap(index, prompt, 1000)).toEqual([0, 8, 0]);
  index.expire(1000);
  expect([index.held(1), index.size, index.expired]).toEqual([8, 8, 12]);
  index.expire(1900);
  expect([index.held(1), index.size, index.expired]).toEqual([0, 0, 20]);
});

test('a worker is predicted to hold what fits: least recently routed first, from the end of the chain', () => {
  const index = create(2, { totalBlocks: 30 });
  const [a, b] = [chainHashes(1, 20), chainHashes(2, 20)];
  index.routed(0, a, 20, 0);
  index.routed(0, b, 20, 1);
  expect([overlap(index, a, 2, 1), overlap(index, b, 2, 1)]).toEqual([[10], [20]]);
  index.routed(0, a.subarray(0, 10), 5, 3);
  index.routed(0, chainHashes(3, 22), 22, 4); // 22 + 5 + 3 of b
  expect([overlap(index, a, 5, 1), overlap(index, b, 5, 1), index.held(0), index.evicted]).toEqual([[5], [3], 30, 10 + 5 + 17]);
  index.routed(0, chainHashes(4, 100), 100, 6); // longer than the cache: its first 30 blocks
  expect([overlap(index, chainHashes(4, 100), 7, 1), index.held(0)]).toEqual([[30], 30]);
});

test('merged with what is known exactly: the longer prefix, predicted blocks on the device', () => {
  const index = create(40);
  index.routed(2, chainHashes(1, 12), 12, 0);
  index.routed(39, chainHashes(1, 3), 3, 0);
  const out = new OverlapColumns(8); // as an exact index without the late workers leaves it
  const exact = (total: number, host: number, disk: number): void => {
    out.begin(8);
    out.total[2] = total;
    out.host[2] = host;
    out.disk[2] = disk;
    if (total > 0) out.found[out.count++] = 2;
    index.findOverlap(chainHashes(1, 20), 20, out, 1);
  };
  exact(8, 3, 2);
  expect([out.total[2], out.host[2], out.disk[2], out.total[39]]).toEqual([12, 0, 0, 3]);
  expect([...out.found.subarray(0, out.count)].sort()).toEqual([2, 39]);
  exact(16, 3, 4); // 9 on the device at least, predicted 12
  expect([out.total[2], out.host[2], out.disk[2]]).toEqual([16, 0, 4]);
  exact(16, 1, 2);
  expect([out.total[2], out.host[2], out.disk[2]]).toEqual([16, 1, 2]);
});

test('workers that leave or are cleared lose their predictions; unknown ones never have any', () => {
  const index = create(2);
  const prompt = chainHashes(1, 8);
  for (const slot of [-1, 0, 1, 5, 1000]) index.routed(slot, prompt, 8, 0);
  expect(overlap(index, prompt, 1)).toEqual([8, 8, 0]);
  index.cleared(0);
  expect(overlap(index, prompt, 1)).toEqual([0, 8, 0]);
  index.left(1);
  index.routed(1, prompt, 8, 1);
  expect([overlap(index, prompt, 1), index.size]).toEqual([[0, 0, 0], 0]);
});

test('bounded: beyond maxBlocks nothing is predicted and it is counted; quiet workers’ old predictions are met by others’ routing', () => {
  const index = create(8, { maxBlocks: 100 });
  for (let chain = 0; chain < 12; chain++) index.routed(chain % 8, chainHashes(chain, 10), 10, 0);
  expect([index.size, index.dropped]).toEqual([100, 20]);
  for (let i = 0; i < 32; i++) index.routed(0, chainHashes(50, 10), 10, 2000); // 8 workers among 32 slots, 2 looked at each time
  expect([index.size, index.expired]).toEqual([10, 100]);
});

interface Held {
  expiresAtMs: number;
  stamp: number;
}
for (const seed of [1, 2, 3, 4]) {
  test(`equals the naive model: one record per (worker, block) (seed ${seed})`, () => {
    const random = seeded(seed);
    const workers = 6;
    const ttlMs = 400;
    const capacity = [0, 40, 7, 100, 25, 1];
    const index = new PredictedIndex({ maxBlocks: 1_000_000 });
    const model = capacity.map(() => new Map<string, Held>());
    capacity.forEach((totalBlocks, slot) => index.joined(slot, { ttlMs, totalBlocks }));
    let stamp = 0;
    let now = 0;
    /** A random path in a small tree: prompts share prefixes and leave them anywhere, also within a run. */
    const prompt = (): { hashes: Int32Array; keys: string[] } => {
      const keys: string[] = [];
      let key = `${random.below(3)}`;
      for (let i = random.below(24); i >= 0; i--) keys.push((key += random.below(6) === 0 ? `.${random.below(2)}` : '-'));
      const hashes = new Int32Array(keys.length * 2);
      keys.forEach((name, i) => {
        let h = 1;
        for (const char of name) h = Math.imul(h ^ char.charCodeAt(0), 0x01000193) ^ (h >>> 13);
        hashes[i * 2] = h;
        hashes[i * 2 + 1] = Math.imul(h, 0x85ebca6b) ^ name.length;
      });
      return { hashes, keys };
    };
    let [compared, partial, evicted, expired] = [0, 0, 0, 0];
    for (let step = 0; step < 6000; step++) {
      now += random.below(12);
      const slot = random.below(workers);
      const { hashes, keys } = prompt();
      const action = random.below(100);
      if (action === 0) {
        index.cleared(slot);
        model[slot].clear();
      } else if (action === 1) {
        index.left(slot);
        model[slot].clear();
        index.joined(slot, { ttlMs, totalBlocks: capacity[slot] });
      } else if (action < 60) {
        index.routed(slot, hashes, keys.length, now);
        const held = model[slot];
        for (const [key, { expiresAtMs }] of held) if (expiresAtMs <= now) expired += Number(held.delete(key));
        for (let i = keys.length - 1; i >= 0; i--) held.set(keys[i], { expiresAtMs: now + ttlMs, stamp: stamp++ });
        while (capacity[slot] > 0 && held.size > capacity[slot]) {
          const [oldest] = [...held].reduce((a, b) => (a[1].stamp < b[1].stamp ? a : b));
          held.delete(oldest);
          evicted++;
        }
        expect(index.held(slot)).toBe(held.size);
      } else {
        const out = new OverlapColumns();
        index.findOverlap(hashes, keys.length, out, now);
        for (let s = 0; s < workers; s++) {
          let expected = 0;
          while (expected < keys.length && (model[s].get(keys[expected])?.expiresAtMs ?? 0) > now) expected++;
          if (out.total[s] !== expected) expect.fail(`seed ${seed}, step ${step}, worker ${s}: ${out.total[s]}, the model says ${expected}`);
          compared++;
          if (expected > 0 && expected < keys.length) partial++;
        }
      }
    }
    console.log(`predicted-index seed ${seed}: ${compared} overlaps compared, ${partial} in part, ${evicted} evicted, ${expired} expired`);
    expect(Math.min(partial, evicted, expired)).toBeGreaterThan(100);
    expect(index.evicted).toBe(evicted);
    index.expire(now + ttlMs);
    expect([index.size, ...capacity.map((_, slot) => index.held(slot))]).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });
}

test('routing and queries allocate nothing per block', async () => {
  const index = create(64, { totalBlocks: 5000 });
  const prompts = Array.from({ length: 64 }, (_, i) => chainHashes(i, 512));
  const out = new OverlapColumns(64);
  const count = await collections(() => {
    for (let i = 0; i < 20_000; i++) {
      index.routed(i & 63, prompts[(i * 7) & 63], 512, i);
      index.findOverlap(prompts[i & 63], 512, out, i);
    }
  });
  expect(count).toBeLessThanOrEqual(2); // one small object per block would be 10 million of them
});
