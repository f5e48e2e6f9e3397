// @hot
const NONE = -1;
/** Children per node. Four keys lie in half a cache line: a sift looks at half the levels of a binary heap for the same line fetches. */
const ARITY = 4;

/**
 * Which of some places has the smallest key; of equal keys the smallest age. The columns belong to the caller, who calls `update` after changing
 * a key of a place that is in. O(log n), typed arrays only.
 */
export class PlaceHeap {
  readonly #keys: Float64Array;
  readonly #ages: Float64Array;
  readonly #heap: Int32Array;
  /** Of a place: where it is in the heap, -1 = not in. */
  readonly #at: Int32Array;
  #size: number;

  constructor(keys: Float64Array, ages: Float64Array) {
    this.#keys = keys;
    this.#ages = ages;
    this.#heap = new Int32Array(keys.length);
    this.#at = new Int32Array(keys.length).fill(NONE);
    this.#size = 0;
  }

  get size(): number {
    return this.#size;
  }

  has(place: number): boolean {
    return this.#at[place] !== NONE;
  }

  /** The place with the smallest key, -1 when empty. */
  least(): number {
    return this.#size === 0 ? NONE : this.#heap[0];
  }

  /** No effect on a place that is in. */
  add(place: number): void {
    if (this.#at[place] === NONE) this.#up(this.#size++, place);
  }

  /** No effect on a place that is not in. */
  remove(place: number): void {
    const at = this.#at[place];
    if (at === NONE) return;
    this.#at[place] = NONE;
    const last = this.#heap[--this.#size];
    if (last !== place) this.#settle(at, last);
  }

  /** Its key has changed. No effect on a place that is not in. */
  update(place: number): void {
    const at = this.#at[place];
    if (at !== NONE) this.#settle(at, place);
  }

  #settle(at: number, place: number): void {
    if (at > 0 && this.#isBefore(place, this.#heap[((at - 1) / ARITY) | 0])) this.#up(at, place);
    else this.#down(at, place);
  }

  #up(at: number, place: number): void {
    while (at > 0) {
      const above = ((at - 1) / ARITY) | 0;
      const other = this.#heap[above];
      if (!this.#isBefore(place, other)) break;
      this.#put(at, other);
      at = above;
    }
    this.#put(at, place);
  }

  #down(at: number, place: number): void {
    for (let first = at * ARITY + 1; first < this.#size; first = at * ARITY + 1) {
      const end = Math.min(first + ARITY, this.#size);
      let least = first;
      for (let i = first + 1; i < end; i++) if (this.#isBefore(this.#heap[i], this.#heap[least])) least = i;
      const other = this.#heap[least];
      if (!this.#isBefore(other, place)) break;
      this.#put(at, other);
      at = least;
    }
    this.#put(at, place);
  }

  #put(at: number, place: number): void {
    this.#heap[at] = place;
    this.#at[place] = at;
  }

  #isBefore(a: number, b: number): boolean {
    const keyA = this.#keys[a];
    const keyB = this.#keys[b];
    return keyA < keyB || (keyA === keyB && this.#ages[a] < this.#ages[b]);
  }
}
