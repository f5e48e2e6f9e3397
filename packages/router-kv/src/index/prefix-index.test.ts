import type { Random } from '@armature/contracts';
import { chainHashes } from '@armature/contracts/testing/routing-fixtures';
import { expect, test } from 'vitest';
import { collections, seeded } from '../fixtures.test.support.ts';
import { OverlapColumns, TIER_COUNT } from '../overlap.ts';
import { PrefixIndex } from './prefix-index.ts';

const NONE = new Int32Array(0);
/** Mixed to all ones, whatever `hi`: every hash made of it has the last position of the table as its home. */
const LAST_HOME = Math.imul(-1, 0xa5cb9243 | 0);

/** The index, literally: block → slot → tiers. */
class NaiveIndex {
  readonly blocks = new Map<string, Map<number, Set<number>>>();

  store(slot: number, tier: number, hashes: Int32Array): void {
    for (let i = 0; i < hashes.length; i += 2) {
      const key = `${hashes[i]},${hashes[i + 1]}`;
      const holders = this.blocks.get(key) ?? new Map<number, Set<number>>();
      this.blocks.set(key, holders);
      holders.set(slot, (holders.get(slot) ?? new Set<number>()).add(tier));
    }
  }

  remove(slot: number, tier: number, hashes: Int32Array): void {
    for (let i = 0; i < hashes.length; i += 2) {
      const key = `${hashes[i]},${hashes[i + 1]}`;
      const holders = this.blocks.get(key);
      const tiers = holders?.get(slot);
      if (holders === undefined || tiers === undefined) continue;
      tiers.delete(tier);
      if (tiers.size === 0) holders.delete(slot);
      if (holders.size === 0) this.blocks.delete(key);
    }
  }

  clear(slot: number): void {
    for (const [key, holders] of this.blocks) {
      holders.delete(slot);
      if (holders.size === 0) this.blocks.delete(key);
    }
  }

  /** [total, host, disk, object]; whether the slot holds more behind a hole. */
  overlap(slot: number, hashes: Int32Array): { counts: number[]; hasHole: boolean } {
    const counts = [0, 0, 0, 0];
    let i = 0;
    for (; i < hashes.length; i += 2) {
      const tiers = this.blocks.get(`${hashes[i]},${hashes[i + 1]}`)?.get(slot);
      if (tiers === undefined) break;
      counts[0]++;
      const best = Math.min(...tiers);
      if (best > 0) counts[best]++;
    }
    let hasHole = false;
    for (i += 2; i < hashes.length && !hasHole; i += 2) hasHole = this.blocks.get(`${hashes[i]},${hashes[i + 1]}`)?.has(slot) === true;
    return { counts, hasHole };
  }
}

interface Scenario {
  readonly seed: number;
  readonly slots: number;
  /** Share of events in other tiers than the device. */
  readonly lower: number;
  readonly isWeak?: boolean;
  readonly operations: number;
}

/** A tree of chains that share prefixes. Weak hashes have few different low words, which are all a tag has of them. */
function chainsOf(random: Random, isWeak: boolean): Int32Array[] {
  const chains: number[][] = [];
  for (let c = 0; c < 20; c++) {
    const length = 2 * (1 + random.below(random.below(3) === 0 ? 400 : 40));
    const parent = chains[random.below(Math.max(1, c))] ?? [];
    const chain = random.below(4) === 0 ? [] : parent.slice(0, 2 * random.below(parent.length / 2 + 1));
    while (chain.length < length) chain.push(isWeak ? random.below(4) : random.u32() | 0, random.u32() | 0);
    chains.push(chain);
  }
  return chains.map((chain) => Int32Array.from(chain));
}

function shuffled(random: Random, hashes: Int32Array): Int32Array {
  const out = hashes.slice();
  for (let i = out.length / 2 - 1; i > 0; i--) {
    const j = random.below(i + 1);
    for (const word of [0, 1]) [out[2 * i + word], out[2 * j + word]] = [out[2 * j + word], out[2 * i + word]];
  }
  return out;
}

function reversed(hashes: Int32Array): Int32Array {
  const out = new Int32Array(hashes.length);
  for (let i = 0; i < hashes.length; i += 2) out.set(hashes.subarray(i, i + 2), hashes.length - 2 - i);
  return out;
}

/** Runs a scenario on an index and on the model; throws where they differ. */
function compareWithModel(index: PrefixIndex, scenario: Scenario): Record<string, number> {
  const random = seeded(scenario.seed);
  const model = new NaiveIndex();
  const out = new OverlapColumns(1);
  const chains = chainsOf(random, scenario.isWeak === true);
  const count = { queries: 0, holes: 0, lower: 0, sweeping: 0, clears: 0, most: 0 };
  for (let slot = 0; slot < scenario.slots; slot++) index.reserveSlot(slot);
  const check = (query: Int32Array): void => {
    index.findOverlap(query, query.length / 2, out);
    const found = new Set(out.found.subarray(0, out.count));
    if (found.size !== out.count) throw new Error('a slot was found twice');
    for (let slot = 0; slot < scenario.slots; slot++) {
      const { counts, hasHole } = model.overlap(slot, query);
      const got = [out.total[slot], out.host[slot], out.disk[slot], out.object[slot]];
      if (String(got) !== String(counts) || found.has(slot) !== counts[0] > 0) throw new Error(`seed ${scenario.seed}, query ${count.queries}, slot ${slot}: ${got}, but it is ${counts}`);
      if (hasHole) count.holes++;
      if (counts[1] + counts[2] + counts[3] > 0) count.lower++;
    }
    count.queries++;
    if (index.isSweeping) count.sweeping++;
  };
  for (let o = 0; o < scenario.operations; o++) {
    const chain = chains[random.below(chains.length)];
    const blocks = chain.length / 2;
    const slot = random.below(scenario.slots);
    const tier = random.next() < scenario.lower ? random.below(TIER_COUNT) : 0;
    const kind = random.below(200);
    const from = random.below(3) > 0 ? 0 : random.below(blocks);
    const part = chain.subarray(2 * from, 2 * (from + 1 + random.below(Math.min(128, blocks - from))));
    if (kind < 90) {
      // Mostly as engines do; sometimes in no order, or behind a block that is not the parent.
      const stored = random.below(12) === 0 ? shuffled(random, part) : part;
      const parent = random.below(10) === 0 ? chains[0].subarray(0, 2) : from > 0 ? chain.subarray(2 * from - 2, 2 * from) : NONE;
      index.store(slot, tier, stored, stored.length / 2, random.below(3) === 0 ? NONE : parent);
      model.store(slot, tier, stored);
    } else if (kind < 145) {
      const order = random.below(3);
      const removed = order === 0 ? reversed(part) : order === 1 ? shuffled(random, part) : part;
      index.remove(slot, tier, removed, removed.length / 2);
      model.remove(slot, tier, removed);
    } else if (kind < 147) {
      index.clear(slot);
      model.clear(slot);
      count.clears++;
    } else check(chain.subarray(0, 2 * (1 + random.below(blocks))));
    count.most = Math.max(count.most, index.size);
  }
  index.sweep(Number.POSITIVE_INFINITY);
  if (index.size !== model.blocks.size) throw new Error(`${index.size} blocks, but there are ${model.blocks.size}`);
  for (const chain of chains) check(chain);
  const held = new Int32Array(scenario.slots);
  for (let slot = 0; slot < scenario.slots; slot++) {
    index.blocksOf(slot, (lo, hi, tier) => {
      held[slot]++;
      if (model.blocks.get(`${lo},${hi}`)?.get(slot)?.has(tier) !== true) throw new Error('a block that is not held');
    });
    if (held[slot] !== index.held(slot)) throw new Error(`slot ${slot} holds ${held[slot]} blocks, counted as ${index.held(slot)}`);
  }
  drain(index, scenario, chains, random);
  return count;
}

/** Half of the slots are emptied block by block, the others forgotten; then nothing may be left. */
function drain(index: PrefixIndex, scenario: Scenario, chains: readonly Int32Array[], random: Random): void {
  for (let slot = 0; slot < scenario.slots; slot++) {
    if (random.below(2) === 0) index.clear(slot);
    else for (const chain of chains) for (let tier = 0; tier < TIER_COUNT; tier++) index.remove(slot, tier, chain, chain.length / 2);
  }
  index.sweep(Number.POSITIVE_INFINITY);
  const { blocks, pairs, sets, entries, slots } = index.stats();
  const left = { blocks, pairs, sets, entries, slots };
  if (Object.values(left).some((value) => value !== 0)) throw new Error(`left behind: ${JSON.stringify(left)}`);
}

const scenarios: readonly Scenario[] = [
  { seed: 1, slots: 1, lower: 0, operations: 3000 },
  { seed: 2, slots: 3, lower: 0.3, operations: 3000 },
  { seed: 3, slots: 31, lower: 0, operations: 3000 },
  { seed: 4, slots: 33, lower: 0.3, operations: 3000 },
  { seed: 5, slots: 64, lower: 0.1, isWeak: true, operations: 3000 },
  { seed: 6, slots: 200, lower: 0, operations: 1500 },
  { seed: 7, slots: 200, lower: 0.4, operations: 1200 },
  { seed: 8, slots: 8, lower: 0.5, isWeak: true, operations: 6000 },
];

for (const scenario of scenarios) {
  test(`equals the naive model, then drains to nothing (seed ${scenario.seed}, ${scenario.slots} workers, ${scenario.lower * 100} % lower tiers)`, () => {
    const count = compareWithModel(new PrefixIndex(), scenario);
    console.log(`prefix-index seed ${scenario.seed}: ${JSON.stringify(count)}`);
    expect(count.holes).toBeGreaterThan(100);
    expect(count.clears).toBeGreaterThan(5);
    if (scenario.lower > 0) expect(count.lower).toBeGreaterThan(100);
  });
}

test('queries were answered while forgotten blocks were still there', () => {
  // Sweeping is over at once in a small index: this one holds more than a slice.
  const count = compareWithModel(new PrefixIndex(), { seed: 11, slots: 40, lower: 0, operations: 4000 });
  expect(count.sweeping).toBeGreaterThan(0);
});

/** Sabotage: takes holders of a block for holders of everything before it, as an index may that is told of prefixes only. */
class JumpingIndex extends PrefixIndex {
  override findOverlap(hashes: Int32Array, blocks: number, out: OverlapColumns): void {
    super.findOverlap(hashes, blocks, out);
    for (let slot = 0; slot < out.total.length; slot++) {
      let depth = blocks;
      while (depth > 0 && !this.has(slot, 0, hashes[2 * depth - 2], hashes[2 * depth - 1])) depth--;
      if (depth > 0 && out.total[slot] === 0) out.found[out.count++] = slot;
      out.total[slot] = depth;
    }
  }
}

/** Sabotage: a slot's blocks are forgotten when the sweep comes by, not at once. */
class LateIndex extends PrefixIndex {
  override clear(): void {}
}

/** Sabotage: a lower tier hides what the device has lost. */
class DeviceOnlyIndex extends PrefixIndex {
  override remove(slot: number, tier: number, hashes: Int32Array, blocks: number): void {
    for (let other = tier; other < TIER_COUNT; other++) super.remove(slot, other, hashes, blocks);
  }
}

test('the comparison sees an index that jumps over positions, forgets late or mixes tiers', () => {
  const scenario = { seed: 4, slots: 33, lower: 0.3, operations: 3000 };
  expect(() => compareWithModel(new JumpingIndex(), { ...scenario, lower: 0 })).toThrow(/but it is/);
  expect(() => compareWithModel(new LateIndex(), scenario)).toThrow(/but it is/);
  expect(() => compareWithModel(new DeviceOnlyIndex(), scenario)).toThrow(/but it is/);
});

test('grows from 256 slots past the last copy without losing a block, and gives everything back', () => {
  const index = new PrefixIndex();
  const out = new OverlapColumns();
  const chains = 800;
  for (let c = 0; c < chains; c++) index.store(c % 7, 0, chainHashes(c, 128), 128);
  expect(index.size).toBe(chains * 128);
  expect(index.stats().slots).toBeGreaterThan(1 << 16);
  for (let c = 0; c < chains; c++) {
    index.findOverlap(chainHashes(c, 130), 130, out);
    expect([out.count, out.total[c % 7]]).toEqual([1, 128]);
  }
  for (let slot = 0; slot < 7; slot++) index.clear(slot);
  // The call itself does a slice; queries see nothing of the rest.
  expect(index.size).toBeGreaterThan(90_000);
  index.findOverlap(chainHashes(799, 128), 128, out);
  expect(out.count).toBe(0);
  for (let writes = 0; index.isSweeping; writes++) {
    expect(writes).toBeLessThan(1000);
    index.remove(9, 0, chainHashes(1, 1), 1);
  }
  expect(index.stats()).toMatchObject({ blocks: 0, pairs: 0, sets: 0, entries: 0, slots: 0 });
});

test('a slot may be used again at once, while what it held before is swept', () => {
  const index = new PrefixIndex();
  const out = new OverlapColumns();
  for (let c = 0; c < 100; c++) index.store(3, 0, chainHashes(c, 128), 128);
  index.clear(3);
  expect(index.isSweeping).toBe(true);
  index.store(3, 0, chainHashes(99, 5), 5);
  index.findOverlap(chainHashes(99, 128), 128, out);
  expect([out.total[3], index.held(3)]).toEqual([5, 5]);
  index.clear(3);
  index.store(3, 1, chainHashes(99, 3), 3);
  index.sweep(Number.POSITIVE_INFINITY);
  index.findOverlap(chainHashes(99, 128), 128, out);
  expect([out.total[3], out.host[3], index.size]).toEqual([3, 3, 3]);
});

test('thousands of workers: sets widen as they join', () => {
  const index = new PrefixIndex();
  const out = new OverlapColumns();
  for (let slot = 0; slot < 5000; slot += 5) index.store(slot, slot % 2, chainHashes(1, 1 + (slot % 64)), 1 + (slot % 64));
  index.findOverlap(chainHashes(1, 64), 64, out);
  expect(out.count).toBe(1000);
  for (let slot = 0; slot < 5000; slot += 5) expect([out.total[slot], out.host[slot]]).toEqual([1 + (slot % 64), slot % 2 === 1 ? 1 + (slot % 64) : 0]);
});

test('a full index records nothing new, counts it, still takes further holders of what it has, and goes on when there is room', () => {
  const index = new PrefixIndex(10);
  const out = new OverlapColumns();
  index.store(0, 0, chainHashes(1, 14), 14);
  expect([index.size, index.droppedBlocks]).toEqual([10, 4]);
  index.store(1, 0, chainHashes(1, 14), 14);
  expect([index.size, index.droppedBlocks]).toEqual([10, 8]);
  index.findOverlap(chainHashes(1, 14), 14, out);
  expect([out.total[0], out.total[1]]).toEqual([10, 10]);
  index.clear(0);
  index.remove(1, 0, chainHashes(1, 14), 14);
  index.store(0, 0, chainHashes(2, 10), 10);
  index.findOverlap(chainHashes(2, 10), 10, out);
  expect([index.size, out.total[0]]).toEqual([10, 10]);
});

test('hashes made to collide end as blocks that are not recorded; the rest goes on', () => {
  const index = new PrefixIndex();
  const out = new OverlapColumns();
  const hostile = new Int32Array(2 * 3000);
  for (let i = 0; i < hostile.length; i += 2) {
    hostile[i + 1] = i;
    hostile[i] = LAST_HOME ^ Math.imul(i, 0x9e3779b1);
  }
  index.store(0, 0, hostile, 3000);
  expect(index.droppedBlocks).toBeGreaterThan(1000);
  for (let c = 0; c < 100; c++) index.store(1, 0, chainHashes(c, 128), 128);
  index.findOverlap(hostile, 3000, out);
  expect(out.total[0]).toBe(3000 - index.droppedBlocks);
  for (let c = 0; c < 100; c++) index.remove(1, 0, chainHashes(c, 128), 128);
  index.remove(0, 0, hostile, 3000);
  expect(index.stats()).toMatchObject({ blocks: 0, entries: 0, slots: 0 });
});

test('neither queries nor steady stores and removals allocate', async () => {
  const index = new PrefixIndex();
  const out = new OverlapColumns();
  for (let slot = 0; slot < 64; slot++) index.store(slot, slot % 2, chainHashes(1, 8 * (slot + 1)), 8 * (slot + 1));
  const query = chainHashes(1, 512);
  const churn = chainHashes(2, 128);
  const quiet = await collections(() => {
    for (let i = 0; i < 8000; i++) {
      index.findOverlap(query, 512, out);
      index.store(i & 63, 0, churn, 128);
      index.remove(i & 63, 0, churn, 128);
    }
  });
  expect(quiet).toBeLessThan(3);
  expect(out.count).toBe(64);
});

test('an empty index is small', () => {
  const before = process.memoryUsage().arrayBuffers;
  const indexes = Array.from({ length: 200 }, () => new PrefixIndex());
  const each = (process.memoryUsage().arrayBuffers - before) / indexes.length;
  expect(each).toBeLessThan(32_768);
});
