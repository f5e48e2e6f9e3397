import { U64Map } from '@armature/tokens';

/**
 * Bounded memory of hashes: the newest `capacity` entries are kept for sure, twice as many at most, the older half forgotten at once. No list to keep, no entry to evict.
 */
export class Generations {
  readonly #capacity: number;
  #young: U64Map;
  #old: U64Map;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#young = new U64Map();
    this.#old = new U64Map();
  }

  /** The value, -1 when absent. */
  get(lo: number, hi: number): number {
    const value = this.#young.get(lo, hi);
    return value === -1 ? this.#old.get(lo, hi) : value;
  }

  /** `value` >= 0. */
  set(lo: number, hi: number, value: number): void {
    this.#young.set(lo, hi, value);
    if (this.#young.size >= this.#capacity) this.rotate();
  }

  delete(lo: number, hi: number): void {
    this.#young.delete(lo, hi);
    this.#old.delete(lo, hi);
  }

  /** Forgets what was set before the last rotation and not since. */
  rotate(): void {
    this.#old = this.#young;
    this.#young = new U64Map();
  }
}
