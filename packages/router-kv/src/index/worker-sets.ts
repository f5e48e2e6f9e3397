// @hot
import { enlarged } from './columns.ts';

export const EMPTY_SET = 0;

/**
 * Sets of lanes, each stored once: equal sets have equal numbers, so one word per block names its holders and comparing two
 * blocks' holders compares two numbers. A row of bits per set; freed when no block refers to it. Number 0 is the empty set.
 * The set of one lane exists while the lane is open.
 */
export class WorkerSets {
  /** `words` words per set. */
  rows: Int32Array;
  words: number;
  /** Blocks that refer to a set. */
  #references: Int32Array;
  /** xor of the keys of its lanes. */
  #keys: Int32Array;
  /** Next set of the same bucket; of the free list. */
  #next: Int32Array;
  #buckets: Int32Array;
  #free: number;
  #top: number;
  #live: number;
  #laneKeys: Int32Array;
  /** Set of one lane, by lane. */
  #singles: Int32Array;

  constructor() {
    this.words = 1;
    const sets = 64;
    this.rows = new Int32Array(sets);
    this.#references = new Int32Array(sets);
    this.#keys = new Int32Array(sets);
    this.#next = new Int32Array(sets);
    this.#buckets = new Int32Array(sets);
    this.#free = 0;
    this.#top = 1;
    this.#live = 0;
    this.#laneKeys = laneKeys(32);
    this.#singles = new Int32Array(32);
  }

  /** Sets other than the empty one. */
  get live(): number {
    return this.#live;
  }

  get bytes(): number {
    return 4 * (this.#top * (this.words + 3) + this.#buckets.length);
  }

  /** Room for `words * 32` lanes. Copies the rows: happens when the number of workers doubles. */
  widen(words: number): void {
    const rows = new Int32Array(this.#keys.length * words);
    for (let set = 0; set < this.#top; set++) {
      for (let j = 0; j < this.words; j++) rows[set * words + j] = this.rows[set * this.words + j];
    }
    this.rows = rows;
    this.words = words;
    this.#laneKeys = laneKeys(words * 32);
    this.#singles = enlarged(this.#singles, words * 32);
  }

  openLane(lane: number): void {
    const set = this.#intern(EMPTY_SET, lane);
    this.#references[set]++;
    this.#singles[lane] = set;
  }

  /** The lane is in no set but its own. */
  closeLane(lane: number): void {
    this.#dereference(this.#singles[lane], 1);
    this.#singles[lane] = EMPTY_SET;
  }

  single(lane: number): number {
    return this.#singles[lane];
  }

  has(set: number, lane: number): boolean {
    return (this.rows[set * this.words + (lane >>> 5)] & (1 << (lane & 31))) !== 0;
  }

  /** The set with a lane added or taken out. A new one has no references yet: `move` blocks to it or `discard` it. */
  toggled(set: number, lane: number): number {
    if (set === EMPTY_SET && this.#singles[lane] !== EMPTY_SET) return this.#singles[lane];
    if (set === this.#singles[lane]) return EMPTY_SET;
    return this.#intern(set, lane);
  }

  /** `blocks` blocks went from one set to another. */
  move(from: number, to: number, blocks: number): void {
    if (to !== EMPTY_SET) this.#references[to] += blocks;
    if (from !== EMPTY_SET) this.#dereference(from, blocks);
  }

  /** A step on the way to another set, if nothing refers to it. */
  discard(set: number): void {
    if (set !== EMPTY_SET && this.#references[set] === 0) this.#release(set);
  }

  #dereference(set: number, blocks: number): void {
    this.#references[set] -= blocks;
    if (this.#references[set] === 0) this.#release(set);
  }

  #intern(set: number, lane: number): number {
    const key = this.#keys[set] ^ this.#laneKeys[lane];
    const mask = this.#buckets.length - 1;
    for (let other = this.#buckets[key & mask]; other !== 0; other = this.#next[other]) {
      if (this.#keys[other] === key && this.#differOnlyIn(set, other, lane)) return other;
    }
    if (this.#free === 0 && this.#top === this.#keys.length) this.#grow();
    const made = this.#free !== 0 ? this.#free : this.#top++;
    if (made === this.#free) this.#free = this.#next[made];
    const words = this.words;
    const rows = this.rows;
    for (let j = 0; j < words; j++) rows[made * words + j] = rows[set * words + j];
    rows[made * words + (lane >>> 5)] ^= 1 << (lane & 31);
    const bucket = key & (this.#buckets.length - 1);
    this.#keys[made] = key;
    this.#references[made] = 0;
    this.#next[made] = this.#buckets[bucket];
    this.#buckets[bucket] = made;
    this.#live++;
    return made;
  }

  #differOnlyIn(set: number, other: number, lane: number): boolean {
    const words = this.words;
    const rows = this.rows;
    const word = lane >>> 5;
    for (let j = 0; j < words; j++) {
      const difference = rows[set * words + j] ^ rows[other * words + j];
      if (difference !== (j === word ? 1 << (lane & 31) : 0)) return false;
    }
    return true;
  }

  #release(set: number): void {
    const bucket = this.#keys[set] & (this.#buckets.length - 1);
    let at = this.#buckets[bucket];
    if (at === set) this.#buckets[bucket] = this.#next[set];
    else {
      while (this.#next[at] !== set) at = this.#next[at];
      this.#next[at] = this.#next[set];
    }
    this.#next[set] = this.#free;
    this.#free = set;
    this.#live--;
  }

  /** Only called with an empty free list: every set below `#top` is live. */
  #grow(): void {
    const sets = this.#keys.length * 2;
    this.rows = enlarged(this.rows, sets * this.words);
    this.#references = enlarged(this.#references, sets);
    this.#keys = enlarged(this.#keys, sets);
    this.#next = enlarged(this.#next, sets);
    this.#buckets = new Int32Array(sets);
    for (let set = 1; set < this.#top; set++) {
      const bucket = this.#keys[set] & (sets - 1);
      this.#next[set] = this.#buckets[bucket];
      this.#buckets[bucket] = set;
    }
  }
}

/** One fixed pseudo-random word per lane. */
function laneKeys(lanes: number): Int32Array {
  const keys = new Int32Array(lanes);
  let x = 0x243f6a88;
  for (let lane = 0; lane < lanes; lane++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    keys[lane] = x;
  }
  return keys;
}
