// @hot
import type { ModelJson } from './tokenizer-json.ts';

const NONE = 0x7fffffff;
/** Words of more symbols than this take a heap; below, looking at all pairs is faster. */
const LINEAR_LIMIT = 64;
/** Heap keys are rank * 2^26 + position: exact in a double, lowest rank first, leftmost on ties. */
const POSITIONS = 2 ** 26;

/** Pair of token ids → rank and id of the merged token. Open addressing, 4 words per slot: left, right, rank, -. */
export class Merges {
  readonly #slots: Int32Array;
  readonly #mask: number;
  readonly #merged: Int32Array;
  #ranks: Int32Array;
  #heap: PairHeap | undefined;

  private constructor(slots: Int32Array, merged: Int32Array) {
    this.#slots = slots;
    this.#mask = slots.length / 4 - 1;
    this.#merged = merged;
    this.#ranks = new Int32Array(1024);
    this.#heap = undefined;
  }

  /** Undefined when a merge names a token that the vocabulary lacks. */
  static build(model: ModelJson): Merges | undefined {
    const list = model.merges ?? [];
    let capacity = 16;
    while (capacity < list.length * 2) capacity *= 2;
    const slots = new Int32Array(capacity * 4).fill(-1);
    const merged = new Int32Array(list.length);
    for (let rank = 0; rank < list.length; rank++) {
      const entry = list[rank];
      const split = typeof entry === 'string' ? entry.indexOf(' ') : 0;
      const left = typeof entry === 'string' ? entry.slice(0, split) : entry[0];
      const right = typeof entry === 'string' ? entry.slice(split + 1) : entry[1];
      const leftId = model.vocab[left];
      const rightId = model.vocab[right];
      const id = model.vocab[left + right];
      if (leftId === undefined || rightId === undefined || id === undefined) return undefined;
      merged[rank] = id;
      let slot = home(leftId, rightId) & (capacity - 1);
      while (slots[slot * 4] !== -1 && !(slots[slot * 4] === leftId && slots[slot * 4 + 1] === rightId)) slot = (slot + 1) & (capacity - 1);
      slots.set([leftId, rightId, rank], slot * 4);
    }
    return new Merges(slots, merged);
  }

  get memoryBytes(): number {
    return this.#slots.byteLength + this.#merged.byteLength + this.#ranks.byteLength;
  }

  #rank(left: number, right: number): number {
    const slots = this.#slots;
    let slot = home(left, right) & this.#mask;
    for (;;) {
      const at = slot * 4;
      const l = slots[at];
      if (l === left && slots[at + 1] === right) return slots[at + 2];
      if (l === -1) return NONE;
      slot = (slot + 1) & this.#mask;
    }
  }

  /** Merges `symbols[0 .. count)` in place as BPE does (lowest rank first, leftmost on ties); returns the new count. */
  apply(symbols: Int32Array, count: number): number {
    if (count > LINEAR_LIMIT) return this.#applyHeap(symbols, count);
    const ranks = this.#ranks;
    let n = count;
    for (let i = 0; i + 1 < n; i++) ranks[i] = this.#rank(symbols[i], symbols[i + 1]);
    for (;;) {
      let best = NONE;
      let at = -1;
      for (let i = 0; i + 1 < n; i++) {
        if (ranks[i] < best) {
          best = ranks[i];
          at = i;
        }
      }
      if (at < 0) return n;
      symbols[at] = this.#merged[best];
      n--;
      for (let i = at + 1; i < n; i++) {
        symbols[i] = symbols[i + 1];
        ranks[i] = ranks[i + 1];
      }
      if (at + 1 < n) ranks[at] = this.#rank(symbols[at], symbols[at + 1]);
      if (at > 0) ranks[at - 1] = this.#rank(symbols[at - 1], symbols[at]);
    }
  }

  /** O(n log n) over a linked list; entries of the heap whose pair has changed since are skipped. */
  #applyHeap(symbols: Int32Array, count: number): number {
    if (this.#ranks.length < count) this.#ranks = new Int32Array(count * 2);
    const ranks = this.#ranks;
    const heap = (this.#heap ??= new PairHeap());
    heap.clear();
    const previous = new Int32Array(count);
    const next = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      previous[i] = i - 1;
      next[i] = i + 1 < count ? i + 1 : -1;
      ranks[i] = i + 1 < count ? this.#rank(symbols[i], symbols[i + 1]) : NONE;
      if (ranks[i] !== NONE) heap.push(ranks[i] * POSITIONS + i);
    }
    while (heap.size > 0) {
      const key = heap.pop();
      const rank = Math.floor(key / POSITIONS);
      const at = key - rank * POSITIONS;
      if (ranks[at] !== rank) continue;
      const gone = next[at];
      const after = next[gone];
      symbols[at] = this.#merged[rank];
      ranks[gone] = NONE;
      next[at] = after;
      if (after >= 0) previous[after] = at;
      ranks[at] = after >= 0 ? this.#rank(symbols[at], symbols[after]) : NONE;
      if (ranks[at] !== NONE) heap.push(ranks[at] * POSITIONS + at);
      const before = previous[at];
      if (before < 0) continue;
      ranks[before] = this.#rank(symbols[before], symbols[at]);
      if (ranks[before] !== NONE) heap.push(ranks[before] * POSITIONS + before);
    }
    let n = 0;
    for (let i = 0; i >= 0; i = next[i]) symbols[n++] = symbols[i];
    if (count > 1 << 20) {
      this.#ranks = new Int32Array(1024);
      this.#heap = undefined;
    }
    return n;
  }
}

function home(left: number, right: number): number {
  const h = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  return h ^ (h >>> 15);
}

/** Binary min-heap of doubles. */
class PairHeap {
  size: number;
  #keys: Float64Array;

  constructor() {
    this.size = 0;
    this.#keys = new Float64Array(256);
  }

  clear(): void {
    this.size = 0;
  }

  push(key: number): void {
    if (this.size === this.#keys.length) {
      const grown = new Float64Array(this.size * 2);
      grown.set(this.#keys);
      this.#keys = grown;
    }
    const keys = this.#keys;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent] <= key) break;
      keys[at] = keys[parent];
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number {
    const keys = this.#keys;
    const top = keys[0];
    const key = keys[--this.size];
    const n = this.size;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= n) break;
      if (child + 1 < n && keys[child + 1] < keys[child]) child++;
      if (keys[child] >= key) break;
      keys[at] = keys[child];
      at = child;
    }
    keys[at] = key;
    return top;
  }
}
