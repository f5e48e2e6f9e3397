import { expect, test } from 'vitest';
import type { KvEvictionOrder, KvPolicy } from '../index.ts';
import { kvPolicyRules } from './kv-policy.ts';
import type { KvPolicySupports } from './kv-policy.ts';

/** Least recently used first, the naive way: a list, oldest first. */
class ListOrder implements KvEvictionOrder {
  list: number[] = [];
  pins = new Set<number>();
  newest = -1;
  filled = new Set<number>();

  inserted(place: number, ..._rest: number[]): void {
    this.list.push(place);
    this.newest = place;
  }
  touched(place: number): void {
    this.list.splice(this.list.indexOf(place), 1);
    this.list.push(place);
    this.newest = -1;
  }
  pinned(place: number): void {
    if (place === this.newest) this.filled.add(place);
    this.newest = -1;
    this.pins.add(place);
  }
  unpinned(place: number): void {
    this.pins.delete(place);
    if (this.filled.delete(place)) this.touched(place);
  }
  removed(place: number): void {
    this.list.splice(this.list.indexOf(place), 1);
    this.pins.delete(place);
    this.filled.delete(place);
  }
  victim(): number {
    return this.list.find((place) => !this.pins.has(place)) ?? -1;
  }
  upcoming(out: Int32Array, limit: number): number {
    const next = this.list.filter((place) => !this.pins.has(place)).slice(0, limit);
    out.set(next);
    return next.length;
  }
  admits(_lo: number, _hi: number, _victim: number): boolean {
    return true;
  }
  seen(_lo: number, _hi: number): void {}
}

/** Leaves first, the naive way. */
class ListLeafOrder extends ListOrder {
  blocks = new Map<number, { hash: number; parent: number }>();

  override inserted(place: number, lo: number, hi: number, parent: number, parentLo: number): void {
    this.blocks.set(place, { hash: lo, parent: parentLo });
    super.inserted(place, lo, hi, parent);
  }
  override removed(place: number): void {
    this.blocks.delete(place);
    super.removed(place);
  }
  override upcoming(out: Int32Array, limit: number): number {
    const rest = new ListLeafOrder();
    rest.list = [...this.list];
    rest.pins = this.pins;
    rest.blocks = new Map(this.blocks);
    let count = 0;
    for (let victim = rest.victim(); count < limit && victim !== -1; victim = rest.victim()) {
      out[count++] = victim;
      rest.list.splice(rest.list.indexOf(victim), 1);
      rest.blocks.delete(victim);
    }
    return count;
  }
  override victim(): number {
    const parents = new Set([...this.blocks.values()].map(({ parent }) => parent));
    return this.list.find((place) => !this.pins.has(place) && !parents.has(this.blocks.get(place)?.hash ?? 0)) ?? -1;
  }
}

function policy(order: () => KvEvictionOrder, rest: Partial<KvPolicy> = {}): KvPolicy {
  return { name: 'list', prefetch: 'route', order, offload: (tier) => ({ when: tier === 'object' ? 'never' : 'evict' }), ...rest };
}

async function failures(create: () => KvPolicy, supports: KvPolicySupports = {}): Promise<string[]> {
  const failed: string[] = [];
  for (const rule of kvPolicyRules(create, supports)) {
    try {
      await rule.run();
    } catch {
      failed.push(rule.name);
    }
  }
  return failed;
}

test('sound policies pass', async () => {
  expect(await failures(() => policy(() => new ListOrder()), { leastRecentFirst: true })).toEqual([]);
  expect(await failures(() => policy(() => new ListLeafOrder()), { leastRecentFirst: true, leavesFirst: true })).toEqual([]);
  // What a policy does not promise is not asked of it.
  expect(await failures(() => policy(() => new (class extends ListOrder { override touched(): void {} override unpinned(place: number): void { this.pins.delete(place); } })()))).toEqual([]);
});

const shared = new ListOrder();
const supports = { leastRecentFirst: true };
const leaves = { leavesFirst: true };
const mutants: Record<string, [() => KvPolicy, RegExp, KvPolicySupports?]> = {
  'names a pinned victim': [() => policy(() => new (class extends ListOrder { override pinned(): void {} })()), /never a pinned/],
  'forgets that a used block is pinned': [() => policy(() => new (class extends ListOrder { override touched(place: number): void { super.touched(place); this.pins.delete(place); } })()), /never a pinned/],
  'never puts a pinned block back': [() => policy(() => new (class extends ListOrder { override unpinned(): void {} })()), /never a pinned/],
  'forgets a removed place': [() => policy(() => new (class extends ListOrder { override removed(): void {} })()), /removed place/],
  'keeps the pin of a removed place': [() => policy(() => new (class extends ListOrder { override removed(place: number): void { this.list.splice(this.list.indexOf(place), 1); } })()), /any calls/],
  'removes a victim by naming it': [() => policy(() => new (class extends ListOrder { override victim(): number { const victim = super.victim(); if (victim >= 0) this.list.splice(this.list.indexOf(victim), 1); return victim; } })()), /only block/],
  'has no victim though there is one': [() => policy(() => new (class extends ListOrder { override victim(): number { return this.list.length > 3 ? super.victim() : -1; } })()), /only block/],
  'keeps the last place': [() => policy(() => new (class extends ListOrder { override victim(): number { return this.list.find((place) => !this.pins.has(place) && place !== 63) ?? -1; } })()), /everything that is not pinned/],
  'throws': [() => policy(() => new (class extends ListOrder { override seen(lo: number): void { if (lo % 3 === 0) throw new Error('no'); } })()), /any calls/],
  'shares one order': [() => policy(() => shared), /know nothing of each other/],
  'answers admission with a number': [() => policy(() => new (class extends ListOrder { override admits(): boolean { return 1 as never; } })()), /any calls/],
  'youngest first': [() => policy(() => new (class extends ListOrder { override victim(): number { return this.list.findLast((place) => !this.pins.has(place)) ?? -1; } })()), /order of their last use/, supports],
  'a pin is a use': [() => policy(() => new (class extends ListOrder { override unpinned(place: number): void { super.unpinned(place); this.touched(place); } })()), /pin is no use/, supports],
  'ages a block that is still being filled': [() => policy(() => new (class extends ListOrder { override unpinned(place: number): void { this.pins.delete(place); } })()), /filled in place/, supports],
  'a use while pinned is lost': [() => policy(() => new (class extends ListOrder { override touched(place: number): void { if (!this.pins.has(place)) super.touched(place); } })()), /pin is no use/, supports],
  'evicts parents': [() => policy(() => new ListOrder()), /no victim is followed/, leaves],
  'only knows parents that came first': [() => policy(() => new (class extends ListLeafOrder { override inserted(place: number, lo: number, hi: number, parent: number, parentLo: number): void { super.inserted(place, lo, hi, parent, parent < 0 ? -1 : parentLo); } })()), /comes after its child/, leaves],
  'only foresees leaves': [() => policy(() => new (class extends ListLeafOrder { override upcoming(out: Int32Array, limit: number): number { const victim = this.victim(); if (victim < 0 || limit < 1) return 0; out[0] = victim; return 1; } })()), /upcoming/],
  'foresees by evicting': [() => policy(() => new (class extends ListOrder { override upcoming(out: Int32Array, limit: number): number { const count = super.upcoming(out, limit); for (const place of out.subarray(0, count)) this.touched(place); return count; } })()), /upcoming/],
  'an unknown rule': [() => policy(() => new ListOrder(), { offload: () => ({ when: 'sometimes' as never }) }), /offload/],
  'uses without a number': [() => policy(() => new ListOrder(), { offload: () => ({ when: 'uses', uses: 0 }) }), /offload/],
  'leaves the object store': [() => policy(() => new ListOrder(), { offload: () => ({ when: 'stored' }) }), /offload/],
  'an unknown prefetch': [() => policy(() => new ListOrder(), { prefetch: 'later' as never }), /shape/],
  'closes once': [() => policy(() => new ListOrder(), { close: ((n) => () => { if (n++ > 0) throw new Error('again'); })(0) }), /lifecycle/],
};
for (const [name, [create, rule, asked]] of Object.entries(mutants)) {
  test(`a policy that ${name} fails its rule`, async () => {
    const failed = await failures(create, asked);
    expect(failed.some((entry) => rule.test(entry)), failed.join()).toBe(true);
  });
}
