// @hot
import { U64Map } from '@armature/tokens';

export const TIERS = ['device', 'host'] as const;
/** Attention data-parallel ranks that can be told apart: one bit each. */
export const MAX_RANKS = 32;

/** Blocks as rows: the engine's hash, ours, our hash of the block before, and which ranks hold it in which tier. A row lives while a rank holds it. */
export class BlockTable {
  readonly #rows: U64Map;
  /** Two words a row: engine's hash, our hash, our hash of the block before. */
  #engine: Int32Array;
  #sequence: Int32Array;
  #parent: Int32Array;
  #hasParent: Uint8Array;
  /** A mask of ranks per tier. */
  #held: Int32Array;
  readonly #free: number[];
  #end: number;

  constructor() {
    this.#rows = new U64Map(1024);
    this.#engine = new Int32Array(2048);
    this.#sequence = new Int32Array(2048);
    this.#parent = new Int32Array(2048);
    this.#hasParent = new Uint8Array(1024);
    this.#held = new Int32Array(2048);
    this.#free = [];
    this.#end = 0;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** Rows are below this number; not all of them are in use. */
  get end(): number {
    return this.#end;
  }

  /** -1: unknown. */
  find(lo: number, hi: number): number {
    return this.#rows.get(lo, hi);
  }

  /** Our hash of a row; a copy. */
  sequence(row: number): Int32Array {
    return this.#sequence.slice(2 * row, 2 * row + 2);
  }

  /** Our hash of the block before; empty at the start of a prompt. */
  parent(row: number): Int32Array {
    return this.#hasParent[row] === 0 ? new Int32Array(0) : this.#parent.slice(2 * row, 2 * row + 2);
  }

  isHeld(row: number, tier: number): boolean {
    return this.#held[2 * row + tier] !== 0;
  }

  /** Held by nobody yet: `hold` it. `parent`: as `parent()` gives it. */
  add(lo: number, hi: number, sequence: Int32Array, parent: Int32Array): number {
    const row = this.#free.pop() ?? this.#end++;
    if (row >= this.#hasParent.length) this.#grow();
    this.#rows.set(lo, hi, row);
    this.#engine[2 * row] = lo;
    this.#engine[2 * row + 1] = hi;
    this.#sequence.set(sequence, 2 * row);
    this.#parent.set(parent, 2 * row);
    this.#hasParent[row] = parent.length === 0 ? 0 : 1;
    return row;
  }

  /** True: the tier did not hold it before, in any rank. */
  hold(row: number, tier: number, rank: number): boolean {
    const at = 2 * row + tier;
    const before = this.#held[at];
    this.#held[at] = before | (1 << rank);
    return before === 0;
  }

  /** True: no rank holds it in this tier any more. The row is gone then, if no tier holds it. */
  release(row: number, tier: number, rank: number): boolean {
    const at = 2 * row + tier;
    const before = this.#held[at];
    this.#held[at] = before & ~(1 << rank);
    if (before === 0 || this.#held[at] !== 0) return false;
    if (this.#held[2 * row] === 0 && this.#held[2 * row + 1] === 0) {
      this.#rows.delete(this.#engine[2 * row], this.#engine[2 * row + 1]);
      this.#free.push(row);
    }
    return true;
  }

  clear(): void {
    this.#rows.clear();
    this.#held.fill(0);
    this.#free.length = 0;
    this.#end = 0;
  }

  #grow(): void {
    this.#engine = doubled(this.#engine);
    this.#sequence = doubled(this.#sequence);
    this.#parent = doubled(this.#parent);
    this.#held = doubled(this.#held);
    const hasParent = new Uint8Array(2 * this.#hasParent.length);
    hasParent.set(this.#hasParent);
    this.#hasParent = hasParent;
  }
}

function doubled(column: Int32Array): Int32Array {
  const grown = new Int32Array(2 * column.length);
  grown.set(column);
  return grown;
}
