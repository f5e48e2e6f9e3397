/** Words of a row: hash, parent's hash, tenant. */
const WORDS = 5;

/** Blocks taken from a queue, as the columns that a tier takes. */
export interface Rows {
  readonly count: number;
  readonly hashes: Int32Array;
  readonly parents: Int32Array;
  readonly tenant: number;
}

/** Blocks waiting to be copied: a bounded ring. What does not fit drops the oldest row: it waited longest, so it is the next to be gone anyway. */
export class RowQueue {
  readonly #capacity: number;
  readonly #rows: Int32Array;
  #head = 0;
  #count = 0;
  #dropped = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#rows = new Int32Array(WORDS * capacity);
  }

  get count(): number {
    return this.#count;
  }

  /** Rows that went without being taken. */
  get dropped(): number {
    return this.#dropped;
  }

  push(lo: number, hi: number, parentLo: number, parentHi: number, tenant: number): void {
    if (this.#count === this.#capacity) {
      this.#head = (this.#head + 1) % this.#capacity;
      this.#count--;
      this.#dropped++;
    }
    const at = WORDS * ((this.#head + this.#count++) % this.#capacity);
    this.#rows[at] = lo;
    this.#rows[at + 1] = hi;
    this.#rows[at + 2] = parentLo;
    this.#rows[at + 3] = parentHi;
    this.#rows[at + 4] = tenant;
  }

  /** At most `limit` rows of one tenant, oldest first, without those that `isSettled`. */
  take(limit: number, isSettled: (lo: number, hi: number) => boolean): Rows {
    const hashes = new Int32Array(2 * Math.min(limit, this.#count));
    const parents = new Int32Array(hashes.length);
    const tenant = this.#count === 0 ? 0 : this.#rows[WORDS * this.#head + 4];
    let count = 0;
    while (this.#count > 0 && 2 * count < hashes.length) {
      const at = WORDS * this.#head;
      if (this.#rows[at + 4] !== tenant) break;
      this.#head = (this.#head + 1) % this.#capacity;
      this.#count--;
      const lo = this.#rows[at];
      const hi = this.#rows[at + 1];
      if (isSettled(lo, hi)) continue;
      hashes[2 * count] = lo;
      hashes[2 * count + 1] = hi;
      parents[2 * count] = this.#rows[at + 2];
      parents[2 * count + 1] = this.#rows[at + 3];
      count++;
    }
    return { count, hashes: hashes.subarray(0, 2 * count), parents: parents.subarray(0, 2 * count), tenant };
  }

  clear(): void {
    this.#dropped += this.#count;
    this.#count = 0;
  }
}
