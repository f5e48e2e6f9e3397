// @hot
import type { KvEvictionOrder } from '@armature/contracts';
import { FrequencySketch } from './frequency-sketch.ts';
import { PlaceHeap } from './place-heap.ts';
import { Uses } from './uses.ts';

/** Share of the places where newcomers may prove themselves; measured in docs/kvbm-policies.md. */
const WINDOW_SHARE = 0.2;

/**
 * W-TinyLFU (Einziger 2017): newcomers enter a window of a fifth of the places, least recently used first; the oldest of a full window stays only if it
 * was asked for more often lately than the least recently used of the others, which then goes instead. Prompts that come once so pass through the window,
 * while the turns of a conversation find their blocks there.
 */
export class TinyLfuOrder implements KvEvictionOrder {
  readonly #uses: Uses;
  readonly #window: PlaceHeap;
  readonly #main: PlaceHeap;
  readonly #sketch: FrequencySketch;
  /** Two words a place. */
  readonly #hashes: Int32Array;
  readonly #isInWindow: Uint8Array;
  readonly #windowPlaces: number;
  /** Held in the window, pinned ones included. */
  #windowHeld: number;

  constructor(places: number) {
    this.#uses = new Uses(places);
    this.#window = new PlaceHeap(this.#uses.ages, this.#uses.ages);
    this.#main = new PlaceHeap(this.#uses.ages, this.#uses.ages);
    this.#sketch = new FrequencySketch(places);
    this.#hashes = new Int32Array(places * 2);
    this.#isInWindow = new Uint8Array(places);
    this.#windowPlaces = Math.max(1, Math.floor(places * WINDOW_SHARE));
    this.#windowHeld = 0;
  }

  inserted(place: number, lo: number, hi: number): void {
    this.#hashes[2 * place] = lo;
    this.#hashes[2 * place + 1] = hi;
    this.#uses.begin(place);
    this.#isInWindow[place] = 1;
    this.#window.add(place);
    // Whoever had to make room for it has gone: by `victim`, or there was room.
    if (++this.#windowHeld > this.#windowPlaces) this.#promote(this.#window.least());
  }

  touched(place: number): void {
    this.#uses.touch(place);
    this.#heapOf(place).update(place);
  }

  pinned(place: number): void {
    this.#uses.pin(place);
    this.#heapOf(place).remove(place);
  }

  unpinned(place: number): void {
    this.#uses.unpin(place);
    if (this.#uses.isFree(place)) this.#heapOf(place).add(place);
  }

  removed(place: number): void {
    if (!this.#uses.isHeld(place)) return;
    this.#uses.end(place);
    this.#heapOf(place).remove(place);
    this.#windowHeld -= this.#isInWindow[place];
    this.#isInWindow[place] = 0;
  }

  victim(): number {
    const newer = this.#window.least();
    const older = this.#main.least();
    if (newer === -1) return older;
    if (older === -1) return newer;
    if (this.#windowHeld < this.#windowPlaces) return older;
    return this.#estimate(newer) > this.#estimate(older) ? older : newer;
  }

  /** Whom `victim` names may go: the window admits everybody. A proven block that the caller chose (the tenant's own, at its quota) goes only for one asked for as often. */
  admits(lo: number, hi: number, victim: number): boolean {
    return this.#isInWindow[victim] === 1 || victim === this.victim() || this.#sketch.estimate(lo, hi) >= this.#estimate(victim);
  }

  seen(lo: number, hi: number): void {
    this.#sketch.record(lo, hi);
  }

  #promote(place: number): void {
    this.#window.remove(place);
    this.#isInWindow[place] = 0;
    this.#windowHeld--;
    this.#main.add(place);
  }

  #heapOf(place: number): PlaceHeap {
    return this.#isInWindow[place] === 1 ? this.#window : this.#main;
  }

  #estimate(place: number): number {
    return this.#sketch.estimate(this.#hashes[2 * place], this.#hashes[2 * place + 1]);
  }
}
