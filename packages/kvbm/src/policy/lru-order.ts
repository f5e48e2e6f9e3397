// @hot
import type { KvEvictionOrder } from '@armature/contracts';
import { PlaceHeap } from './place-heap.ts';
import { Uses } from './uses.ts';

/**
 * Least recently used first. A heap over ages, not a list: a block that was pinned without being used (copied to the tier below shortly before it
 * would be lost) comes back at its own age, where a list would only know its ends or would have to walk past the pinned.
 */
export class LruOrder implements KvEvictionOrder {
  readonly #uses: Uses;
  readonly #heap: PlaceHeap;

  constructor(places: number) {
    this.#uses = new Uses(places);
    this.#heap = new PlaceHeap(this.#uses.ages, this.#uses.ages);
  }

  inserted(place: number): void {
    this.#uses.begin(place);
    this.#heap.add(place);
  }

  touched(place: number): void {
    this.#uses.touch(place);
    this.#heap.update(place);
  }

  pinned(place: number): void {
    this.#uses.pin(place);
    this.#heap.remove(place);
  }

  unpinned(place: number): void {
    this.#uses.unpin(place);
    if (this.#uses.isFree(place)) this.#heap.add(place);
  }

  removed(place: number): void {
    this.#uses.end(place);
    this.#heap.remove(place);
  }

  victim(): number {
    return this.#heap.least();
  }

  admits(): boolean {
    return true;
  }

  seen(): void {}
}
