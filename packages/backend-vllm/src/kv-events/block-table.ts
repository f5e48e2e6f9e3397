// @hot
import type { KvTier } from '@armature/contracts';
import { U64Map } from '@armature/tokens';

export const TIERS: readonly KvTier[] = ['device', 'host', 'disk', 'object'];
const TIER_COUNT = 4;

/**
 * The blocks an engine has told of, as rows: its hash and ours, the row of the block before, and how often each tier holds it. A row lives while a tier
 * holds it or a row has it as its parent, so that children always find the hash they continue.
 */
export class BlockTable {
  readonly #rows: U64Map;
  #engine: Int32Array;
  #sequence: Int32Array;
  #parent: Int32Array;
  #children: Int32Array;
  /** Number of its tenant; -1: its hash cannot be made from tokens, nor that of any child. */
  #salt: Int32Array;
  #copies: Int32Array;
  #free: Int32Array;
  #freeCount: number;
  #end: number;
  /** Rows with a copy, by tier. */
  readonly #held: Int32Array;
  #deviceCopies: number;

  constructor() {
    this.#rows = new U64Map(1024);
    this.#engine = new Int32Array(2048);
    this.#sequence = new Int32Array(2048);
    this.#parent = new Int32Array(1024);
    this.#children = new Int32Array(1024);
    this.#salt = new Int32Array(1024);
    this.#copies = new Int32Array(1024 * TIER_COUNT);
    this.#free = new Int32Array(1024);
    this.#freeCount = 0;
    this.#end = 0;
    this.#held = new Int32Array(TIER_COUNT);
    this.#deviceCopies = 0;
  }

  /** Blocks of the device in use for them: a hash may be held more than once. */
  get deviceCopies(): number {
    return this.#deviceCopies;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** Rows are below this number; not all of them are in use. */
  get end(): number {
    return this.#end;
  }

  held(tier: number): number {
    return this.#held[tier];
  }

  /** -1: unknown. */
  find(lo: number, hi: number): number {
    return this.#rows.get(lo, hi);
  }

  sequenceLo(row: number): number {
    return this.#sequence[2 * row];
  }

  sequenceHi(row: number): number {
    return this.#sequence[2 * row + 1];
  }

  /** -1: the start of a prompt. */
  parent(row: number): number {
    return this.#parent[row];
  }

  salt(row: number): number {
    return this.#salt[row];
  }

  isHeld(row: number, tier: number): boolean {
    return this.#copies[row * TIER_COUNT + tier] > 0;
  }

  add(lo: number, hi: number, parent: number, salt: number): number {
    const row = this.#freeCount > 0 ? this.#free[--this.#freeCount] : this.#end++;
    if (row >= this.#parent.length) this.#grow();
    this.#rows.set(lo, hi, row);
    this.#engine[2 * row] = lo;
    this.#engine[2 * row + 1] = hi;
    this.#parent[row] = parent;
    this.#children[row] = 0;
    this.#salt[row] = salt;
    if (parent !== -1) this.#children[parent]++;
    return row;
  }

  name(row: number, sequenceLo: number, sequenceHi: number): void {
    this.#sequence[2 * row] = sequenceLo;
    this.#sequence[2 * row + 1] = sequenceHi;
  }

  /** True: the tier did not hold it before. The device counts copies: vLLM tells of each of them, and of the end of each. */
  hold(row: number, tier: number): boolean {
    const at = row * TIER_COUNT + tier;
    if (tier === 0) this.#deviceCopies++;
    if (this.#copies[at] > 0) {
      if (tier === 0) this.#copies[at]++;
      return false;
    }
    this.#copies[at] = 1;
    this.#held[tier]++;
    return true;
  }

  /** True: that was the last copy of this tier. The row may be gone then. */
  release(row: number, tier: number, freed: (salt: number) => void): boolean {
    const at = row * TIER_COUNT + tier;
    if (this.#copies[at] === 0) return false;
    if (tier === 0) this.#deviceCopies--;
    if (--this.#copies[at] > 0) return false;
    this.#held[tier]--;
    this.#prune(row, freed);
    return true;
  }

  /** All copies of a tier end. */
  clearTier(tier: number, freed: (salt: number) => void): void {
    for (let row = 0; row < this.#end; row++) {
      const at = row * TIER_COUNT + tier;
      if (this.#copies[at] === 0) continue;
      if (tier === 0) this.#deviceCopies -= this.#copies[at] - 1;
      this.#copies[at] = 1;
      this.release(row, tier, freed);
    }
  }

  clear(): void {
    this.#rows.clear();
    this.#copies.fill(0);
    this.#held.fill(0);
    this.#deviceCopies = 0;
    this.#freeCount = 0;
    this.#end = 0;
  }

  /** Rows that nobody holds and nobody continues go, up the chain. */
  #prune(from: number, freed: (salt: number) => void): void {
    for (let row = from; row !== -1 && this.#children[row] === 0; ) {
      const at = row * TIER_COUNT;
      if (this.#copies[at] + this.#copies[at + 1] + this.#copies[at + 2] + this.#copies[at + 3] > 0) return;
      const parent = this.#parent[row];
      this.#rows.delete(this.#engine[2 * row], this.#engine[2 * row + 1]);
      freed(this.#salt[row]);
      if (this.#freeCount === this.#free.length) this.#free = doubled(this.#free);
      this.#free[this.#freeCount++] = row;
      if (parent !== -1) this.#children[parent]--;
      row = parent;
    }
  }

  #grow(): void {
    this.#engine = doubled(this.#engine);
    this.#sequence = doubled(this.#sequence);
    this.#parent = doubled(this.#parent);
    this.#children = doubled(this.#children);
    this.#salt = doubled(this.#salt);
    this.#copies = doubled(this.#copies);
  }
}

function doubled(column: Int32Array): Int32Array {
  const grown = new Int32Array(2 * column.length);
  grown.set(column);
  return grown;
}
