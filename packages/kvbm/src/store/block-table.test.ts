import assert from 'node:assert/strict';
import { describe, expect, test } from 'vitest';
import { SuiteOrder, SuiteRandom } from '@armature/contracts/testing/kv-tier-session';
import type { KvEvictionOrder } from '@armature/contracts';
import { LeafOrder } from '../policy/leaf-order.ts';
import { LruOrder } from '../policy/lru-order.ts';
import { TinyLfuOrder } from '../policy/tiny-lfu-order.ts';
import { BlockTable } from './block-table.ts';
import type { BlockTableOptions } from './block-table.ts';
import { CheckedOrder, NaiveTable } from './naive-table.test.support.ts';

const QUOTAS = [Infinity, 5, 2];
const HASHES = 40;

/** Hash words of small number `n`; 0 is none. */
const lo = (n: number): number => (n === 0 ? 0 : Math.imul(n, 0x9e3779b1));
const hi = (n: number): number => (n === 0 ? 0 : ~n);
const words = (ns: readonly number[]): Int32Array => Int32Array.from(ns.flatMap((n) => [lo(n), hi(n)]));

interface Walk {
  readonly seed: number;
  readonly order: (places: number) => KvEvictionOrder;
  readonly Table?: new (options: BlockTableOptions) => BlockTable;
}

/** Random calls on a table and its model; throws at the first difference. Returns what it saw. */
function walk({ seed, order: createOrder, Table = BlockTable }: Walk): Record<string, number> {
  const random = new SuiteRandom(seed);
  const places = 4 + random.below(20);
  const order = new CheckedOrder(createOrder(places));
  const model = new NaiveTable(places);
  const removed: string[] = [];
  const byWord = new Map(Array.from({ length: HASHES }, (_, i) => [lo(i + 1), i + 1]));
  const table = new Table({ places, order, quota: (tenant) => QUOTAS[tenant], onRemoved: (low, _high, place, reason) => removed.push(`${byWord.get(low)} ${place} ${reason}`) });
  const seen = { allocations: 0, evictions: 0, quotaEvictions: 0, quotaRefusals: 0, admissionRefusals: 0, pinnedRefusals: 0, registered: 0, duplicates: 0, adopted: 0, invalidated: 0 };
  const lineage = new Int32Array(4);

  const allocate = (): void => {
    const tenant = random.below(3);
    const hash = random.below(HASHES + 1);
    const isOver = QUOTAS[tenant] < places && model.held(tenant) >= QUOTAS[tenant];
    const victim = isOver ? model.oldestOf(tenant) : model.free > 0 ? -1 : order.victim();
    const place = table.allocate(tenant, lo(hash), hi(hash));
    if (place === -1) {
      const admits = victim !== -1;
      if (admits) seen.admissionRefusals++;
      else if (isOver) seen.quotaRefusals++;
      else seen.pinnedRefusals++;
      assert.ok(admits ? hash !== 0 : isOver || model.free === 0, 'refused for no reason');
      return;
    }
    if (isOver || model.free === 0) {
      assert.notEqual(victim, -1, 'given out though nothing may go');
      assert.ok(model.line.includes(victim), `place ${victim} was evicted though it is in use`);
      seen.evictions++;
      if (isOver) seen.quotaEvictions++;
      model.invalidate(victim, 'evicted');
    }
    seen.allocations++;
    model.take(place, tenant);
  };
  const register = (place: number): void => {
    const [hash, parent] = [1 + random.below(HASHES), random.below(HASHES + 1)];
    const isNew = table.register(place, lo(hash), hi(hash), lo(parent), hi(parent));
    assert.equal(isNew, model.register(place, hash, parent));
    if (isNew) seen.registered++;
    else seen.duplicates++;
  };
  const adopt = (place: number): void => {
    const [hash, parent, tenant] = [1 + random.below(HASHES), random.below(HASHES + 1), random.below(3)];
    const isNew = table.adopt(place, lo(hash), hi(hash), lo(parent), hi(parent), tenant);
    assert.equal(isNew, model.adopt(place, { hash, parent, tenant }));
    if (isNew) seen.adopted++;
  };
  const step = (): void => {
    const place = random.below(places);
    const call = random.below(16);
    if (call < 5) allocate();
    else if (call < 9) register(place);
    else if (call === 9) adopt(place);
    else if (call === 10) {
      table.touch(place);
      model.touch(place);
    } else if (call === 11) {
      const isGone = table.invalidate(place, 'corrupt');
      assert.equal(isGone, model.invalidate(place, 'corrupt'));
      if (isGone) seen.invalidated++;
    } else if (call === 12 && (model.references[place] > 0 || model.blocks[place] !== undefined)) {
      table.acquire(place);
      model.acquire(place);
    } else if (model.references[place] > 0) {
      table.release(place);
      model.release(place);
    }
    table.seen(lo(1 + random.below(HASHES)), 0);
  };
  const compare = (): void => {
    assert.deepEqual(removed, model.removed);
    assert.equal(order.touches, model.touches);
    assert.equal(table.freePlaces, model.free);
    assert.equal(table.registeredPlaces, model.blocks.filter((block) => block !== undefined).length);
    assert.equal(table.referencedPlaces, model.references.filter((count) => count > 0).length);
    for (let tenant = 0; tenant < 3; tenant++) assert.equal(table.heldBy(tenant), model.held(tenant));
    for (let hash = 1; hash <= HASHES; hash++) assert.equal(table.find(lo(hash), hi(hash)), model.find(hash));
    for (let place = 0; place < places; place++) {
      assert.equal(table.references(place), model.references[place]);
      const block = model.blocks[place];
      assert.equal(table.lineage(place, lineage), block !== undefined);
      if (block !== undefined) assert.deepEqual([...lineage], [lo(block.hash), hi(block.hash), lo(block.parent), hi(block.parent)]);
    }
    const some = Array.from({ length: 5 }, () => 1 + random.below(HASHES));
    const from = random.below(5);
    const rest = some.slice(from);
    const gap = rest.findIndex((hash) => model.find(hash) === -1);
    assert.equal(table.match(words(some), from), gap === -1 ? rest.length : gap);
  };
  const compareRecords = (): void => {
    const listed: number[] = [];
    table.records((low, _high, parentLow) => {
      const parent = byWord.get(parentLow);
      const isCircle = parent !== undefined && isAncestor(model, byWord.get(low)!, parent);
      if (parent !== undefined && model.find(parent) !== -1 && !isCircle) assert.ok(listed.includes(parent), 'a record came before its parent');
      listed.push(byWord.get(low)!);
    });
    assert.deepEqual(listed.sort((a, b) => a - b), model.blocks.flatMap((block) => (block === undefined ? [] : [block.hash])).sort((a, b) => a - b));
  };

  for (let i = 0; i < 1000; i++) {
    step();
    compare();
    if (i % 50 === 0) compareRecords();
  }
  assert.deepEqual(order.broken, []);
  assert.equal(table.orderFaults, 0);
  assert.deepEqual([table.evictions, table.quotaRefusals, table.admissionRefusals, table.pinnedRefusals], [seen.evictions, seen.quotaRefusals, seen.admissionRefusals, seen.pinnedRefusals]);
  return seen;
}

/** Whether block `hash` is an ancestor of held block `of`, or the same: random lineages run in circles. */
function isAncestor(model: NaiveTable, hash: number, of: number): boolean {
  const passed = new Set<number>();
  for (let at = of; at !== 0 && !passed.has(at); ) {
    if (at === hash) return true;
    passed.add(at);
    const place = model.find(at);
    if (place === -1) return false;
    at = model.blocks[place]!.parent;
  }
  return false;
}

const orders: readonly (readonly [string, (places: number) => KvEvictionOrder])[] = [
  ['suite order', () => new SuiteOrder()],
  ['lru', (places) => new LruOrder(places)],
  ['lineage', (places) => new LeafOrder(places)],
  ['tinylfu', (places) => new TinyLfuOrder(places)],
];
describe('a block table is its naive model', () => {
  for (const [name, order] of orders) {
    test(name, () => {
      const total: Record<string, number> = {};
      for (let seed = 1; seed <= 12; seed++) {
        try {
          for (const [key, count] of Object.entries(walk({ seed, order }))) total[key] = (total[key] ?? 0) + count;
        } catch (error) {
          throw new Error(`${name}, seed ${seed}: ${String(error)}`, { cause: error });
        }
      }
      console.log(`block-table, ${name}, seeds 1 to 12: ${JSON.stringify(total)}`);
      const unseen = Object.entries(total).filter(([key, count]) => count === 0 && key !== 'admissionRefusals');
      expect(unseen, 'paths that no call took').toEqual([]);
      if (name === 'tinylfu') expect(total['admissionRefusals']).toBeGreaterThan(0);
    });
  }
});

const sabotages: Record<string, new (options: BlockTableOptions) => BlockTable> = {
  'pins nothing': class extends BlockTable {
    override acquire(): void {}
  },
  'touches nothing': class extends BlockTable {
    override touch(): void {}
  },
  'forgets to invalidate': class extends BlockTable {
    override invalidate(place: number): boolean {
      return this.isRegistered(place);
    }
  },
  'matches from the start': class extends BlockTable {
    override match(hashes: Int32Array): number {
      return super.match(hashes, 0);
    }
  },
  'has no quotas': class extends BlockTable {
    constructor({ places, order, onRemoved }: BlockTableOptions) {
      super({ places, order, ...(onRemoved === undefined ? {} : { onRemoved }) });
    }
  },
  'does not tell removals': class extends BlockTable {
    constructor(options: BlockTableOptions) {
      super({ ...options, onRemoved: () => undefined });
    }
  },
  'registers without lineage': class extends BlockTable {
    override register(place: number, low: number, high: number): boolean {
      return super.register(place, low, high, 0, 0);
    }
  },
};
for (const [name, Table] of Object.entries(sabotages)) {
  test(`the model notices a table that ${name}`, () => {
    expect(() => {
      for (let seed = 1; seed <= 4; seed++) walk({ seed, order: (places) => new LruOrder(places), Table });
    }).toThrow();
  });
}

describe('what cannot be random', () => {
  const one = { places: 1, order: new SuiteOrder() };

  test('places must be a number of places', () => {
    for (const places of [0, -1, 1.5, Number.NaN, 2 ** 30]) expect(() => new BlockTable({ places, order: new SuiteOrder() })).toThrow(expect.objectContaining({ code: 'KVBM_CAPACITY_INVALID' }) as Error);
  });

  test('pins and references out of balance are bugs that show', () => {
    const table = new BlockTable(one);
    expect(() => table.release(0)).toThrow(expect.objectContaining({ code: 'KVBM_UNPIN_INVALID' }) as Error);
    expect(() => table.acquire(0)).toThrow(expect.objectContaining({ code: 'KVBM_PIN_INVALID' }) as Error);
    expect(() => table.release(7)).toThrow(expect.objectContaining({ code: 'KVBM_UNPIN_INVALID' }) as Error);
    expect(table.allocate(0)).toBe(0);
  });

  test('an order that names what is in use evicts nothing', () => {
    class Lying extends SuiteOrder {
      override victim(): number {
        return 0;
      }
    }
    const table = new BlockTable({ places: 2, order: new Lying() });
    const [a, b] = [table.allocate(0), table.allocate(0)];
    table.register(a, 1, 1, 0, 0);
    table.register(b, 2, 2, 0, 0);
    table.release(1);
    expect([table.allocate(0), table.orderFaults, table.find(1, 1), table.find(2, 2)]).toEqual([-1, 1, a, b]);
  });

  test('no tenant is no tenant', () => {
    const table = new BlockTable({ places: 4, order: new SuiteOrder() });
    for (const tenant of [-1, 1.5, Number.NaN, 2 ** 20, Infinity]) {
      expect(table.allocate(tenant)).toBe(-1);
      expect(table.adopt(0, 1, 1, 0, 0, tenant)).toBe(false);
    }
    expect([table.quotaRefusals, table.freePlaces]).toEqual([5, 4]);
    expect(table.allocate(2 ** 20 - 1)).not.toBe(-1);
    expect(table.heldBy(2 ** 20 - 1)).toBe(1);
  });

  test('a quota of everything is none: the order chooses the victim', () => {
    class Newest extends SuiteOrder {
      override victim(): number {
        return 1;
      }
    }
    const table = new BlockTable({ places: 2, order: new Newest(), quota: () => 2 });
    for (const n of [1, 2]) {
      const place = table.allocate(0);
      table.register(place, n, n, 0, 0);
      table.release(place);
    }
    expect(table.allocate(0)).toBe(1);
  });

  test('a lineage that runs in a circle is listed once', () => {
    const table = new BlockTable({ places: 3, order: new SuiteOrder() });
    table.adopt(0, 1, 1, 2, 2);
    table.adopt(1, 2, 2, 1, 1);
    table.adopt(2, 3, 3, 3, 3);
    const listed: number[] = [];
    table.records((low) => listed.push(low));
    expect(listed.sort()).toEqual([1, 2, 3]);
  });
});

describe('look-up by neighbouring places', () => {
  const prompt = [1, 2, 3, 4, 5, 6, 7, 8];

  function filled(order: readonly number[]): BlockTable {
    const table = new BlockTable({ places: 12, order: new LruOrder(12) });
    for (const n of order) {
      const place = table.allocate(0);
      table.register(place, lo(n), hi(n), lo(n - 1), hi(n - 1));
      table.release(place);
    }
    return table;
  }

  test.each([[prompt], [[...prompt].reverse()], [[5, 6, 7, 8, 4, 3, 2, 1]], [[1, 2, 7, 8, 3, 4, 5, 6]]])('finds a prompt that was stored as %j, from any row', (order) => {
    const table = filled(order);
    for (const from of prompt.keys()) expect(table.match(words(prompt), from)).toBe(prompt.length - from);
    expect(table.match(words([...prompt, 9]), 0)).toBe(8);
  });

  test.each([[prompt], [[...prompt].reverse()]])('takes no neighbour whose block is gone, and finds the block in its new place: %j', (order) => {
    const table = filled(order);
    table.invalidate(table.find(lo(5), hi(5)), 'corrupt');
    expect(table.match(words(prompt), 0)).toBe(4);
    table.allocate(0); // the place it had, now somebody's mutable one
    expect(table.match(words(prompt), 0)).toBe(4);
    table.register(table.allocate(0), lo(5), hi(5), lo(4), hi(4));
    expect(table.match(words(prompt), 0)).toBe(8);
  });
});
