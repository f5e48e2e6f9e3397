// @hot
import { TIER_COUNT, Tier } from '../overlap.ts';
import { enlarged } from './columns.ts';

export const NO_LANE = -1;

/**
 * A lane is one bit of the worker sets: what one worker holds in one tier. Lanes are given out when first used, so that
 * workers with device blocks only take one bit each. Forgetting a worker closes its lanes: they are out of `device` and
 * `lower` at once, and their numbers are free again when a sweep has taken their bits out of every set.
 */
export class Lanes {
  /** Words of a set that covers all lanes. */
  words: number;
  /** Open lanes of the device tier, of the other tiers; and closed lanes. One bit per lane. */
  device: Int32Array;
  lower: Int32Array;
  closed: Int32Array;
  /** Open lanes of tiers below the device. While 0, a lane is a worker. */
  lowerCount: number;
  closedCount: number;
  /** Per lane: worker slot, tier, blocks held. */
  slotOf: Int32Array;
  tierOf: Int32Array;
  held: Int32Array;
  /** `slot * TIER_COUNT + tier` → open lane. */
  laneOf: Int32Array;
  #free: Int32Array;
  #freeCount: number;
  #next: number;
  /** Lanes closed before the running sweep began. */
  #leaving: Int32Array;

  constructor() {
    this.words = 1;
    this.device = new Int32Array(1);
    this.lower = new Int32Array(1);
    this.closed = new Int32Array(1);
    this.lowerCount = 0;
    this.closedCount = 0;
    this.slotOf = new Int32Array(32);
    this.tierOf = new Int32Array(32);
    this.held = new Int32Array(32);
    this.laneOf = new Int32Array(8 * TIER_COUNT).fill(NO_LANE);
    this.#free = new Int32Array(32);
    this.#freeCount = 0;
    this.#next = 0;
    this.#leaving = new Int32Array(1);
  }

  /** Slots below this may have lanes. */
  get slots(): number {
    return this.laneOf.length >>> 2; // by TIER_COUNT; read by every query
  }

  get open(): number {
    return this.#next - this.#freeCount - this.closedCount;
  }

  laneFor(slot: number, tier: number): number {
    return slot < this.slots ? this.laneOf[slot * TIER_COUNT + tier] : NO_LANE;
  }

  /** The next lane to open does not fit into `words`. */
  get isFull(): boolean {
    return this.#freeCount === 0 && this.#next === this.words * 32;
  }

  /** `slots` covers the slot. */
  reserveSlot(slot: number): void {
    if (slot < this.slots) return;
    const grown = new Int32Array(Math.max(slot + 1, this.slots * 2) * TIER_COUNT).fill(NO_LANE);
    grown.set(this.laneOf);
    this.laneOf = grown;
  }

  /** Doubles the lanes that fit. */
  grow(): void {
    const lanes = this.words * 64;
    this.words *= 2;
    this.device = enlarged(this.device, this.words);
    this.lower = enlarged(this.lower, this.words);
    this.closed = enlarged(this.closed, this.words);
    this.#leaving = enlarged(this.#leaving, this.words);
    this.slotOf = enlarged(this.slotOf, lanes);
    this.tierOf = enlarged(this.tierOf, lanes);
    this.held = enlarged(this.held, lanes);
    this.#free = enlarged(this.#free, lanes);
  }

  /** A new lane for a tier of a slot that has none; `isFull` must be false. */
  openLane(slot: number, tier: number): number {
    this.reserveSlot(slot);
    const lane = this.#freeCount > 0 ? this.#free[--this.#freeCount] : this.#next++;
    this.slotOf[lane] = slot;
    this.tierOf[lane] = tier;
    this.held[lane] = 0;
    this.laneOf[slot * TIER_COUNT + tier] = lane;
    const open = tier === Tier.Device ? this.device : this.lower;
    open[lane >>> 5] |= 1 << (lane & 31);
    if (tier !== Tier.Device) this.lowerCount++;
    return lane;
  }

  /** Nothing stored through the lane counts any more. */
  close(lane: number): void {
    const tier = this.tierOf[lane];
    const word = lane >>> 5;
    const bit = 1 << (lane & 31);
    this.laneOf[this.slotOf[lane] * TIER_COUNT + tier] = NO_LANE;
    this.device[word] &= ~bit;
    this.lower[word] &= ~bit;
    this.closed[word] |= bit;
    this.closedCount++;
    if (tier !== Tier.Device) this.lowerCount--;
    this.held[lane] = 0;
  }

  /** A sweep begins: it will have met every block of the lanes that are closed by now. */
  beginSweep(): void {
    this.#leaving.set(this.closed);
  }

  /** The sweep is over: takes out one lane whose bit is in no set any more; NO_LANE when there is none left. */
  takeSwept(): number {
    for (let word = 0; word < this.words; word++) {
      const bits = this.#leaving[word];
      if (bits === 0) continue;
      const bit = bits & -bits;
      const lane = (word << 5) + 31 - Math.clz32(bit);
      this.#leaving[word] ^= bit;
      this.closed[word] &= ~bit;
      this.closedCount--;
      this.#free[this.#freeCount++] = lane;
      return lane;
    }
    return NO_LANE;
  }
}
