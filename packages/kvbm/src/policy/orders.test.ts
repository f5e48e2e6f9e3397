import { describe, expect, test } from 'vitest';
import type { KvEvictionOrder } from '@armature/contracts';
import { seeded } from '../random.test.support.ts';
import { CostKeys } from './cost-keys.ts';
import { LeafOrder } from './leaf-order.ts';
import { LruOrder } from './lru-order.ts';
import { NaiveOrder, NaiveTinyLfu, word } from './naive-order.test.support.ts';
import { TinyLfuOrder } from './tiny-lfu-order.ts';

const POSITION_BLOCKS = 4;

const orders: Record<string, [(places: number) => KvEvictionOrder, (places: number) => NaiveOrder]> = {
  lru: [(places) => new LruOrder(places), () => new NaiveOrder('age', false)],
  tinylfu: [(places) => new TinyLfuOrder(places), (places) => new NaiveTinyLfu(places)],
  lineage: [(places) => new LeafOrder(places), () => new NaiveOrder('age', true)],
  cost: [(places) => new LeafOrder(places, new CostKeys(places, POSITION_BLOCKS)), () => new NaiveOrder('value', true, POSITION_BLOCKS)],
};

interface Run {
  readonly evictions: number;
  readonly orphans: number;
  readonly refusals: number;
}

/** Random calls on both; the victims must be the same after each. Hash n follows n >> 1. */
function compare(order: KvEvictionOrder, naive: NaiveOrder, places: number, seed: number): Run {
  const below = seeded(seed);
  let evictions = 0;
  let orphans = 0;
  let refusals = 0;
  for (let step = 0; step < 1500; step++) {
    const place = below(places);
    const isHeld = naive.blocks.has(place);
    const kind = below(10);
    if (kind < 4) {
      const hash = 1 + Math.min(below(places * 3), below(places * 3));
      naive.seen(hash, word(hash));
      order.seen(hash, word(hash));
      let to = isHeld ? naive.victim() : place;
      if (naive.placeOf(hash) !== -1) to = -1;
      else if (to === -1) refusals++;
      if (to !== -1) {
        if (naive.blocks.has(to)) {
          evictions++;
          naive.removed(to);
          order.removed(to);
        }
        const parent = hash >> 1;
        const at = parent === 0 ? -1 : naive.placeOf(parent);
        if (parent !== 0 && at === -1) orphans++;
        naive.inserted(to, hash, parent);
        order.inserted(to, hash, word(hash), at, parent, word(parent));
      }
    } else if (isHeld) {
      const call = kind < 6 ? 'touched' : kind === 6 ? 'pinned' : kind < 9 ? 'unpinned' : 'removed';
      if (call === 'removed' && below(3) !== 0) continue;
      naive[call](place);
      order[call](place);
    }
    const expected = naive.victim();
    const victim = order.victim();
    if (victim !== expected) expect.fail(`seed ${seed}, ${places} places, step ${step}: victim ${victim}, naive ${expected}`);
  }
  return { evictions, orphans, refusals };
}

for (const [name, [create, naive]] of Object.entries(orders)) {
  describe(name, () => {
    test('names the same victims as the naive model, whatever is called', () => {
      let total = { evictions: 0, orphans: 0, refusals: 0 };
      for (let seed = 1; seed <= 40; seed++) {
        const places = [1, 2, 5, 16, 61][seed % 5];
        const run = compare(create(places), naive(places), places, seed);
        total = { evictions: total.evictions + run.evictions, orphans: total.orphans + run.orphans, refusals: total.refusals + run.refusals };
      }
      console.log(`${name}: seeds 1 to 40, ${JSON.stringify(total)}`);
      expect(total.evictions).toBeGreaterThan(1000);
      expect(total.orphans).toBeGreaterThan(1000);
      expect(total.refusals).toBeGreaterThan(50);
    });

    test('sabotage: the model notices lost touches', () => {
      const order = create(16);
      let touches = 0;
      const deaf: KvEvictionOrder = Object.create(order, { touched: { value: (place: number) => (++touches % 20 === 0 ? undefined : order.touched(place)) } }) as KvEvictionOrder;
      for (const call of ['inserted', 'pinned', 'unpinned', 'removed', 'victim', 'seen'] as const) Object.defineProperty(deaf, call, { value: (order[call] as (...args: number[]) => unknown).bind(order) });
      expect(() => compare(deaf, naive(16), 16, 3)).toThrow(/seed 3/);
    });
  });
}

describe('tree', () => {
  const follow = (order: KvEvictionOrder, place: number, hash: number, parent: number, at: number): void => order.inserted(place, hash, word(hash), at, parent, word(parent));

  test('blocks in a circle (a damaged file) can still be evicted, all of them', () => {
    for (const create of [orders['lineage'][0], orders['cost'][0]]) {
      const order = create(4);
      follow(order, 0, 5, 5, 0); // follows itself
      follow(order, 1, 6, 7, -1);
      follow(order, 2, 7, 8, -1);
      follow(order, 3, 8, 6, 1);
      const gone = new Set<number>();
      for (let i = 0; i < 4; i++) {
        const victim = order.victim();
        gone.add(victim);
        order.removed(victim);
      }
      expect([...gone].sort()).toEqual([0, 1, 2, 3]);
      expect(order.victim()).toBe(-1);
    }
  });

  test('a pinned leaf keeps its ancestors, and nothing else', () => {
    const order = new LeafOrder(4);
    follow(order, 0, 1, 0, -1);
    follow(order, 1, 2, 1, 0);
    follow(order, 2, 3, 2, 1);
    order.pinned(2);
    expect(order.victim()).toBe(-1);
    follow(order, 3, 9, 0, -1);
    expect(order.victim()).toBe(3);
    order.unpinned(2);
    order.touched(3);
    expect(order.victim()).toBe(2);
  });
});

describe('cost', () => {
  test('of two leaves used as often, the deeper one stays; used more often, the shallow one', () => {
    const order = new LeafOrder(8, new CostKeys(8, 4));
    for (let hash = 1; hash <= 5; hash++) order.inserted(hash - 1, hash, word(hash), hash - 2, hash - 1, word(hash - 1));
    order.inserted(5, 99, word(99), -1, 0, 0);
    order.touched(4);
    order.touched(5);
    expect(order.victim()).toBe(5); // 2 uses * 1 against 2 * (1 + 4 / 4), though it is younger
    order.touched(5);
    order.touched(5);
    order.touched(5);
    expect(order.victim()).toBe(4);
  });

  test('what was used often once goes after enough evictions: the clock passes it', () => {
    const order = new LeafOrder(2, new CostKeys(2, 1000));
    order.inserted(0, 1, 1, -1, 0, 0);
    for (let use = 0; use < 9; use++) order.touched(0);
    let hash = 2;
    for (order.inserted(1, hash, hash, -1, 0, 0); order.victim() === 1 && hash < 100; order.inserted(1, ++hash, hash, -1, 0, 0)) order.removed(1);
    expect(hash).toBeGreaterThan(5);
    expect(hash).toBeLessThan(15);
    expect(order.victim()).toBe(0);
  });
});
