import { U64Map } from '@armature/tokens';

const WORDS = 8;
const LO = 0;
const HI = 1;
const PARENT = 2;
const FIRST = 4;
const INDEX = 6;
const TICK = 7;
/** Stamps are in these, so that int32 lasts for years. */
const TICK_MS = 64;

/** Flags of a row. */
export const Known = {
  Used: 1,
  /** Its bytes are in this process: the object is not written yet. Never evicted, never expires. */
  Pending: 2,
  /** Somebody was told that it is held, so its going must be told too. */
  Announced: 4,
  /** Looked up since the hand of the clock last passed. */
  Recent: 16,
} as const;

/**
 * What this process knows to be in the store, one row per block: which object, which place in it, when that was last confirmed. Bounded: the clock algorithm
 * (second chance) makes room. Rows are numbers that stay valid until the row is removed.
 */
export class KnownBlocks {
  readonly capacity: number;
  readonly #map: U64Map;
  readonly #words: Int32Array;
  readonly #flags: Uint8Array;
  readonly #free: Int32Array;
  #freeCount: number;
  #hand: number;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#map = new U64Map();
    this.#words = new Int32Array(capacity * WORDS);
    this.#flags = new Uint8Array(capacity);
    this.#free = new Int32Array(capacity);
    for (let i = 0; i < capacity; i++) this.#free[i] = capacity - 1 - i;
    this.#freeCount = capacity;
    this.#hand = 0;
  }

  get size(): number {
    return this.#map.size;
  }

  get isFull(): boolean {
    return this.#freeCount === 0;
  }

  find(lo: number, hi: number): number {
    return this.#map.get(lo, hi);
  }

  /** A free row must be there, and the hash not. */
  add(lo: number, hi: number, parentLo: number, parentHi: number, flags: number): number {
    const row = this.#free[--this.#freeCount] as number;
    const at = row * WORDS;
    this.#words[at + LO] = lo;
    this.#words[at + HI] = hi;
    this.#words[at + PARENT] = parentLo;
    this.#words[at + PARENT + 1] = parentHi;
    this.#flags[row] = Known.Used | flags;
    this.#map.set(lo, hi, row);
    return row;
  }

  /** Where its bytes are: block `index` of the object that begins with block (firstLo, firstHi). */
  place(row: number, firstLo: number, firstHi: number, index: number): void {
    const at = row * WORDS;
    this.#words[at + FIRST] = firstLo;
    this.#words[at + FIRST + 1] = firstHi;
    this.#words[at + INDEX] = index;
  }

  confirm(row: number, nowMs: number): void {
    this.#words[row * WORDS + TICK] = nowMs / TICK_MS;
  }

  ageMs(row: number, nowMs: number): number {
    return nowMs - (this.#words[row * WORDS + TICK] as number) * TICK_MS;
  }

  has(row: number, flag: number): boolean {
    return (this.#flags[row]! & flag) !== 0;
  }

  mark(row: number, flag: number): void {
    this.#flags[row]! |= flag;
  }

  unmark(row: number, flag: number): void {
    this.#flags[row]! &= ~flag;
  }

  lo = (row: number): number => this.#words[row * WORDS + LO]!;
  hi = (row: number): number => this.#words[row * WORDS + HI]!;
  parentLo = (row: number): number => this.#words[row * WORDS + PARENT]!;
  parentHi = (row: number): number => this.#words[row * WORDS + PARENT + 1]!;
  firstLo = (row: number): number => this.#words[row * WORDS + FIRST]!;
  firstHi = (row: number): number => this.#words[row * WORDS + FIRST + 1]!;
  index = (row: number): number => this.#words[row * WORDS + INDEX]!;

  remove(row: number): void {
    this.#map.delete(this.lo(row), this.hi(row));
    this.#flags[row] = 0;
    this.#free[this.#freeCount++] = row;
  }

  /** The row to give up for a new one; -1 when all are pending. */
  victim(): number {
    for (let looked = 0; looked < this.capacity * 2; looked++) {
      const row = this.#hand;
      this.#hand = (row + 1) % this.capacity;
      const flags = this.#flags[row]!;
      if ((flags & Known.Used) === 0 || (flags & Known.Pending) !== 0) continue;
      if ((flags & Known.Recent) === 0) return row;
      this.#flags[row] = flags & ~Known.Recent;
    }
    return -1;
  }

  /** Every row, parents before their children. */
  forEach(visit: (row: number) => void): void {
    const seen = new Uint8Array(this.capacity);
    const path: number[] = [];
    for (let start = 0; start < this.capacity; start++) {
      for (let row = start; row !== -1 && this.has(row, Known.Used) && seen[row] === 0; row = this.find(this.parentLo(row), this.parentHi(row))) {
        seen[row] = 1;
        path.push(row);
      }
      for (let row = path.pop(); row !== undefined; row = path.pop()) visit(row);
    }
  }

  /** Rows used between `from` and `to`. For sweeps in slices. */
  slice(from: number, to: number, visit: (row: number) => void): void {
    for (let row = from; row < Math.min(to, this.capacity); row++) if (this.has(row, Known.Used)) visit(row);
  }
}
