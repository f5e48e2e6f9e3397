// @hot
import type { KvEvictionOrder } from '@armature/contracts';
import { LineageTree } from './lineage-tree.ts';
import { PlaceHeap } from './place-heap.ts';
import { Uses } from './uses.ts';

/** What makes one leaf go before another: columns over places, kept by whoever made them. The smallest key goes first, of equal keys the oldest. */
export interface LeafKeys {
  readonly keys: Float64Array;
  /** The block is in the tree. */
  inserted(place: number, tree: LineageTree): void;
  touched(place: number): void;
  /** `wasVictim`: it is the last one that `victim` named. */
  removed(place: number, wasVictim: boolean): void;
}

/**
 * Leaves first: a block goes only when no block that follows it is held here, because without it those could not be matched. A pinned leaf keeps
 * its ancestors. Only evictable leaves are in the heap, so that a touch of a block inside a prompt costs one store.
 */
export class LeafOrder implements KvEvictionOrder {
  readonly #tree: LineageTree;
  readonly #uses: Uses;
  readonly #heap: PlaceHeap;
  readonly #keys: LeafKeys | null;
  /** In `upcoming`: children of a place that would be gone. Else 0. */
  readonly #leaving: Int32Array;
  #named: number;

  /** Without keys the least recently used leaf goes first. */
  constructor(places: number, keys: LeafKeys | null = null) {
    this.#tree = new LineageTree(places);
    this.#uses = new Uses(places);
    this.#heap = new PlaceHeap(keys?.keys ?? this.#uses.ages, this.#uses.ages);
    this.#keys = keys;
    this.#leaving = new Int32Array(places);
    this.#named = -1;
  }

  inserted(place: number, lo: number, hi: number, parent: number, parentLo: number, parentHi: number): void {
    this.#uses.begin(place);
    this.#tree.add(place, lo, hi, parent, parentLo, parentHi);
    if (this.#keys !== null) this.#keys.inserted(place, this.#tree);
    if (parent !== -1 && !this.#tree.isLeaf(parent)) this.#heap.remove(parent);
    this.#offer(place);
  }

  touched(place: number): void {
    this.#uses.touch(place);
    if (this.#keys !== null) this.#keys.touched(place);
    this.#heap.update(place);
  }

  pinned(place: number): void {
    this.#uses.pin(place);
    this.#heap.remove(place);
  }

  unpinned(place: number): void {
    this.#uses.unpin(place);
    this.#offer(place);
  }

  removed(place: number): void {
    if (!this.#uses.isHeld(place)) return;
    const parent = this.#tree.parent(place);
    this.#uses.end(place);
    this.#heap.remove(place);
    this.#tree.remove(place);
    if (this.#keys !== null) this.#keys.removed(place, place === this.#named);
    this.#named = -1;
    if (parent !== -1) this.#offer(parent);
  }

  victim(): number {
    this.#named = this.#heap.least();
    return this.#named;
  }

  /** Takes the victims out of the heap, which makes their parents leaves as far as the heap goes, and puts everything back. */
  upcoming(out: Int32Array, limit: number): number {
    let count = 0;
    for (let place = this.#heap.least(); count < limit && place !== -1; place = this.#heap.least()) {
      this.#heap.remove(place);
      out[count++] = place;
      const parent = this.#tree.parent(place);
      if (parent !== -1 && ++this.#leaving[parent] === this.#tree.childCount(parent) && this.#uses.isFree(parent)) this.#heap.add(parent);
    }
    for (let i = 0; i < count; i++) {
      const parent = this.#tree.parent(out[i]);
      if (parent === -1) continue;
      this.#leaving[parent] = 0;
      this.#heap.remove(parent);
    }
    for (let i = 0; i < count; i++) this.#offer(out[i]);
    return count;
  }

  admits(): boolean {
    return true;
  }

  seen(): void {}

  #offer(place: number): void {
    if (this.#uses.isFree(place) && this.#tree.isLeaf(place)) this.#heap.add(place);
  }
}
