import type { KvEvictionOrder } from '@armature/contracts';

/** Uses are counted up to here. */
const MAX_USES = 0xffff;

/** A block of the tier reached its n-th use. */
export type UsesListener = (lo: number, hi: number, parentLo: number, parentHi: number) => void;

/**
 * An eviction order of the policy that the manager looks into: what is in which place, which blocks would go next, and when one is used for the n-th time. So the rules
 * of offload need nothing from the tiers but the calls they make anyway.
 */
export class WatchedOrder implements KvEvictionOrder {
  readonly #order: KvEvictionOrder;
  /** Four words a place: hash, parent's hash. */
  readonly #lineage: Int32Array;
  /** Places, -1 = none; may have been given to another block since. */
  readonly #parents: Int32Array;
  readonly #uses: Uint16Array;
  readonly #usesWanted: number;
  readonly #onUses: UsesListener;
  #held = 0;
  #isQuiet = false;

  /** Of a tier that nothing leaves downwards `places` is 0: it is only counted. `usesWanted` 0: nobody asks for uses. */
  constructor(order: KvEvictionOrder, places: number, usesWanted = 0, onUses: UsesListener = () => undefined) {
    this.#order = order;
    this.#lineage = new Int32Array(4 * places);
    this.#parents = new Int32Array(places);
    this.#uses = new Uint16Array(usesWanted === 0 ? 0 : places);
    this.#usesWanted = Math.min(usesWanted, MAX_USES);
    this.#onUses = onUses;
  }

  /** Places whose block is registered. */
  get held(): number {
    return this.#held;
  }

  /** Within `call` nothing counts as use: the manager itself reads blocks, to copy or to check them. */
  quietly<T>(call: () => T): T {
    const wasQuiet = this.#isQuiet;
    this.#isQuiet = true;
    try {
      return call();
    } finally {
      this.#isQuiet = wasQuiet;
    }
  }

  /**
   * The `limit` blocks that would be evicted next, about in order, four words each: the order's victims, after each of them the blocks before it in its prompt (an order
   * that evicts leaves first names those only when the leaf is gone). Nothing changes: victims are taken out as pinned and put back at their age.
   */
  next(limit: number): Int32Array {
    const victims: number[] = [];
    const chosen = new Set<number>();
    while (chosen.size < limit) {
      const victim = this.#order.victim();
      if (victim === -1) break;
      this.#order.pinned(victim);
      victims.push(victim);
      for (let place = victim; place !== -1 && chosen.size < limit && !chosen.has(place); place = this.#parentOf(place)) chosen.add(place);
    }
    for (let i = victims.length - 1; i >= 0; i--) this.#order.unpinned(victims[i]);
    const rows = new Int32Array(4 * chosen.size);
    let at = 0;
    for (const place of chosen) {
      rows.set(this.#lineage.subarray(4 * place, 4 * place + 4), at);
      at += 4;
    }
    return rows;
  }

  inserted(place: number, lo: number, hi: number, parent: number, parentLo: number, parentHi: number): void {
    const at = 4 * place;
    this.#lineage[at] = lo;
    this.#lineage[at + 1] = hi;
    this.#lineage[at + 2] = parentLo;
    this.#lineage[at + 3] = parentHi;
    this.#parents[place] = parent;
    if (this.#usesWanted > 0) this.#uses[place] = 0;
    this.#held++;
    this.#order.inserted(place, lo, hi, parent, parentLo, parentHi);
  }

  touched(place: number): void {
    if (this.#isQuiet) return;
    this.#order.touched(place);
    if (this.#usesWanted === 0 || this.#uses[place] >= this.#usesWanted) return;
    if (++this.#uses[place] < this.#usesWanted) return;
    const at = 4 * place;
    this.#onUses(this.#lineage[at], this.#lineage[at + 1], this.#lineage[at + 2], this.#lineage[at + 3]);
  }

  pinned(place: number): void {
    this.#order.pinned(place);
  }

  unpinned(place: number): void {
    this.#order.unpinned(place);
  }

  removed(place: number): void {
    this.#held--;
    this.#lineage.fill(0, 4 * place, 4 * place + 4);
    this.#order.removed(place);
  }

  victim(): number {
    return this.#order.victim();
  }

  admits(lo: number, hi: number, victim: number): boolean {
    return this.#order.admits(lo, hi, victim);
  }

  seen(lo: number, hi: number): void {
    if (!this.#isQuiet) this.#order.seen(lo, hi);
  }

  /** -1: none, or another block has its place. */
  #parentOf(place: number): number {
    const parent = this.#parents[place];
    if (parent === -1 || parent === undefined) return -1;
    const isSame = this.#lineage[4 * parent] === this.#lineage[4 * place + 2] && this.#lineage[4 * parent + 1] === this.#lineage[4 * place + 3];
    return isSame ? parent : -1;
  }
}
