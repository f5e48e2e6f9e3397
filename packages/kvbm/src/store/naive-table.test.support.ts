import assert from 'node:assert/strict';
import type { KvEvictionOrder } from '@armature/contracts';
import { SuiteOrder } from '@armature/contracts/testing/kv-tier-session';

/** A real order whose caller is checked: every call also goes to the suite's order, which knows what is allowed. */
export class CheckedOrder implements KvEvictionOrder {
  readonly #inner: KvEvictionOrder;
  readonly #checks = new SuiteOrder();
  /** Calls of `touched`. */
  touches = 0;

  constructor(inner: KvEvictionOrder) {
    this.#inner = inner;
  }

  get broken(): readonly string[] {
    return this.#checks.broken;
  }

  inserted(place: number, lo: number, hi: number, parent: number, parentLo: number, parentHi: number): void {
    this.#checks.inserted(place, lo, hi, parent);
    this.#inner.inserted(place, lo, hi, parent, parentLo, parentHi);
  }

  touched(place: number): void {
    this.touches++;
    this.#checks.touched(place);
    this.#inner.touched(place);
  }

  pinned(place: number): void {
    this.#checks.pinned(place);
    this.#inner.pinned(place);
  }

  unpinned(place: number): void {
    this.#checks.unpinned(place);
    this.#inner.unpinned(place);
  }

  removed(place: number): void {
    this.#checks.removed(place);
    this.#inner.removed(place);
  }

  victim(): number {
    return this.#inner.victim();
  }

  admits(lo: number, hi: number, victim: number): boolean {
    this.#checks.admits(lo, hi, victim);
    return this.#inner.admits(lo, hi, victim);
  }

  seen(lo: number, hi: number): void {
    this.#inner.seen(lo, hi);
  }
}

interface Block {
  readonly hash: number;
  readonly parent: number;
}

/** What `BlockTable` should be, with maps and lists. Hashes are small numbers; 0 is none. */
export class NaiveTable {
  readonly places: number;
  readonly references: number[];
  /** By place; undefined: free, mutable, or invalidated. */
  readonly blocks: (Block | undefined)[];
  /** By place, of those not free. */
  readonly tenants: (number | undefined)[];
  /** Inactive places, longest unused first, all tenants. */
  line: number[] = [];
  readonly removed: string[] = [];
  /** Uses of registered places. */
  touches = 0;

  constructor(places: number) {
    this.places = places;
    this.references = Array.from({ length: places }, () => 0);
    this.blocks = Array.from({ length: places }, () => undefined);
    this.tenants = Array.from({ length: places }, () => undefined);
  }

  find(hash: number): number {
    return this.blocks.findIndex((block) => block?.hash === hash);
  }

  held(tenant: number): number {
    return this.tenants.filter((other) => other === tenant).length;
  }

  get free(): number {
    return this.tenants.filter((tenant) => tenant === undefined).length;
  }

  oldestOf(tenant: number): number {
    return this.line.find((place) => this.tenants[place] === tenant) ?? -1;
  }

  take(place: number, tenant: number): void {
    assert.equal(this.tenants[place], undefined, `place ${place} was given out though it is in use`);
    this.tenants[place] = tenant;
    this.references[place] = 1;
  }

  register(place: number, hash: number, parent: number): boolean {
    if (this.references[place] === 0 || this.blocks[place] !== undefined || this.find(hash) !== -1) return false;
    this.blocks[place] = { hash, parent };
    return true;
  }

  adopt(place: number, { hash, parent, tenant }: Block & { readonly tenant: number }): boolean {
    if (this.tenants[place] !== undefined || this.find(hash) !== -1) return false;
    this.tenants[place] = tenant;
    this.blocks[place] = { hash, parent };
    this.line.push(place);
    return true;
  }

  acquire(place: number): void {
    this.references[place]++;
    this.line = this.line.filter((other) => other !== place);
  }

  release(place: number): void {
    if (--this.references[place] > 0) return;
    if (this.blocks[place] === undefined) this.tenants[place] = undefined;
    else this.line.push(place);
  }

  touch(place: number): void {
    if (this.blocks[place] !== undefined) this.touches++;
    if (!this.line.includes(place)) return;
    this.line = this.line.filter((other) => other !== place);
    this.line.push(place);
  }

  invalidate(place: number, reason: string): boolean {
    const block = this.blocks[place];
    if (block === undefined) return false;
    this.blocks[place] = undefined;
    this.line = this.line.filter((other) => other !== place);
    if (this.references[place] === 0) this.tenants[place] = undefined;
    this.removed.push(`${block.hash} ${place} ${reason}`);
    return true;
  }
}
