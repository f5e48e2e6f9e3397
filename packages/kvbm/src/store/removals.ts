import type { KvRemovalReason } from '@armature/contracts';

/**
 * Hashes that a tier lost during one of its calls, to be told once the call is through: the listener may then call the tier again. In order;
 * one call of `told` for each run of the same reason.
 */
export class Removals {
  readonly #told: (hashes: Int32Array, count: number, reason: KvRemovalReason) => void;
  #words: Int32Array;
  #count: number;
  #reason: KvRemovalReason;

  constructor(told: (hashes: Int32Array, count: number, reason: KvRemovalReason) => void) {
    this.#told = told;
    this.#words = new Int32Array(64);
    this.#count = 0;
    this.#reason = 'removed';
  }

  add(lo: number, hi: number, reason: KvRemovalReason): void {
    if (reason !== this.#reason) this.flush();
    this.#reason = reason;
    if (2 * this.#count === this.#words.length) {
      const words = new Int32Array(2 * this.#words.length);
      words.set(this.#words);
      this.#words = words;
    }
    this.#words[2 * this.#count] = lo;
    this.#words[2 * this.#count + 1] = hi;
    this.#count++;
  }

  /** Tells nobody of what was added since the last flush. */
  forget(): void {
    this.#count = 0;
  }

  flush(): void {
    if (this.#count === 0) return;
    const count = this.#count;
    const words = this.#words;
    this.#count = 0;
    // Borrowed until return: what the listener causes meanwhile is gathered elsewhere.
    this.#words = new Int32Array(64);
    this.#told(words, count, this.#reason);
    if (this.#count === 0) this.#words = words;
  }
}
