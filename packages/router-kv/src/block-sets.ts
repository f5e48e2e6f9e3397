// @hot
import { U64Map } from '@armature/tokens';
import { TIER_COUNT, Tier } from './overlap.ts';
import type { OverlapColumns } from './overlap.ts';

export { OverlapColumns, TIER_COUNT, Tier } from './overlap.ts';

const CHUNK_BITS = 12;
const CHUNK_ROWS = 1 << CHUNK_BITS;
const CHUNK_MASK = CHUNK_ROWS - 1;

/**
 * For each block (64-bit sequence hash) the set of worker slots that hold it, per tier. One map entry and one row of
 * columns per distinct block; a set is one bit per slot. Columns grow by chunks of rows and by planes of 32 slots, so
 * nothing is copied when they grow. A row lives while any bit of it is set.
 */
export class BlockSets {
  readonly #rows: U64Map;
  readonly #maxBlocks: number;
  /** Planes `word * TIER_COUNT + tier`, each a list of chunks; empty until that tier is used by one of those 32 slots. */
  readonly #planes: Int32Array[][];
  /** Chunks of (lo, hi) per row; in a free row lo is the next free row. */
  readonly #hashes: Int32Array[];
  #words: number;
  #alive: Int32Array;
  #nextRow: number;
  #freeRow: number;
  /** Bits set per slot. */
  #held: Float64Array;

  constructor(maxBlocks = Number.MAX_SAFE_INTEGER) {
    this.#rows = new U64Map();
    this.#maxBlocks = Math.min(maxBlocks, 0x7fffffff);
    this.#planes = [];
    this.#hashes = [];
    this.#words = 0;
    this.#alive = new Int32Array(1);
    this.#nextRow = 0;
    this.#freeRow = -1;
    this.#held = new Float64Array(32);
  }

  /** Distinct blocks. */
  get size(): number {
    return this.#rows.size;
  }

  /** Slots that fit; all names below are valid arguments. */
  get slots(): number {
    return this.#words * 32;
  }

  /** Blocks of a slot, one per tier that holds it. */
  held(slot: number): number {
    return slot < this.#held.length ? this.#held[slot] : 0;
  }

  /** Makes room for `slot`. Called when a worker joins, never per event. */
  reserveSlot(slot: number): void {
    while (this.#words * 32 <= slot) {
      for (let tier = 0; tier < TIER_COUNT; tier++) this.#planes.push([]);
      this.#words++;
    }
    if (this.#alive.length < this.#words) this.#alive = new Int32Array(this.#words * 2);
    if (this.#held.length < this.#words * 32) {
      const held = new Float64Array(this.#words * 64);
      held.set(this.#held);
      this.#held = held;
    }
  }

  has(slot: number, tier: number, lo: number, hi: number): boolean {
    const row = this.#rows.get(lo, hi);
    return row !== -1 && (this.#word(slot >>> 5, tier, row) & (1 << (slot & 31))) !== 0;
  }

  /** False when the set is full (`maxBlocks`) and the block is not recorded. */
  add(slot: number, tier: number, lo: number, hi: number): boolean {
    let row = this.#rows.get(lo, hi);
    if (row === -1) {
      if (this.#rows.size >= this.#maxBlocks) return false;
      row = this.#newRow(lo, hi);
    }
    const plane = this.#planes[(slot >>> 5) * TIER_COUNT + tier];
    while (plane.length <= row >>> CHUNK_BITS) plane.push(new Int32Array(CHUNK_ROWS));
    const chunk = plane[row >>> CHUNK_BITS];
    const at = row & CHUNK_MASK;
    const bit = 1 << (slot & 31);
    if ((chunk[at] & bit) === 0) {
      chunk[at] |= bit;
      this.#held[slot]++;
    }
    return true;
  }

  remove(slot: number, tier: number, lo: number, hi: number): void {
    const row = this.#rows.get(lo, hi);
    if (row === -1) return;
    const chunk = this.#planes[(slot >>> 5) * TIER_COUNT + tier][row >>> CHUNK_BITS];
    if (chunk !== undefined) this.#clearBit(chunk, row, slot);
  }

  /** Forgets everything a slot holds. One linear pass over its 32 neighbours' columns. */
  drop(slot: number): void {
    if (this.held(slot) === 0) return;
    const bit = 1 << (slot & 31);
    for (let tier = 0; tier < TIER_COUNT; tier++) {
      const plane = this.#planes[(slot >>> 5) * TIER_COUNT + tier];
      for (let c = 0; c < plane.length; c++) {
        const chunk = plane[c];
        for (let at = 0; at < CHUNK_ROWS; at++) {
          if ((chunk[at] & bit) !== 0) this.#clearBit(chunk, (c << CHUNK_BITS) + at, slot);
        }
      }
    }
  }

  /**
   * For each slot the number of leading blocks of `hashes` that it holds without a hole, by best tier, into `out`
   * (zeroed here). Stops as soon as no slot is left. Allocates nothing once `out` is large enough.
   */
  findOverlap(hashes: Int32Array, blocks: number, out: OverlapColumns): void {
    const words = this.#words;
    const alive = this.#alive;
    const planes = this.#planes;
    out.reset(words * 32);
    let depth = 0;
    for (; depth < blocks; depth++) {
      const row = this.#rows.get(hashes[depth * 2], hashes[depth * 2 + 1]);
      if (row === -1) break;
      const chunkAt = row >>> CHUNK_BITS;
      const at = row & CHUNK_MASK;
      let some = 0;
      for (let w = 0; w < words; w++) {
        const before = depth === 0 ? -1 : alive[w];
        if (before === 0) continue;
        const base = w * TIER_COUNT;
        const device = wordOf(planes[base], chunkAt, at);
        const held = device | wordOf(planes[base + 1], chunkAt, at) | wordOf(planes[base + 2], chunkAt, at) | wordOf(planes[base + 3], chunkAt, at);
        const now = before & held;
        if (now !== before && depth !== 0) emit(before & ~now, w << 5, depth, out.total);
        const below = now & ~device;
        if (below !== 0) this.#countBelow(below, w, row, out);
        alive[w] = now;
        some |= now;
      }
      if (some === 0) return;
    }
    if (depth > 0) for (let w = 0; w < words; w++) emit(alive[w], w << 5, depth, out.total);
  }

  /** Which lower tier serves the blocks that the device does not hold. */
  #countBelow(below: number, w: number, row: number, out: OverlapColumns): void {
    const onHost = below & this.#word(w, Tier.Host, row);
    const onDisk = below & ~onHost & this.#word(w, Tier.Disk, row);
    increment(onHost, w << 5, out.host);
    increment(onDisk, w << 5, out.disk);
    increment(below & ~onHost & ~onDisk, w << 5, out.object);
  }

  #word(w: number, tier: number, row: number): number {
    return wordOf(this.#planes[w * TIER_COUNT + tier], row >>> CHUNK_BITS, row & CHUNK_MASK);
  }

  #newRow(lo: number, hi: number): number {
    let row = this.#freeRow;
    if (row === -1) {
      row = this.#nextRow++;
      if (this.#hashes.length <= row >>> CHUNK_BITS) this.#hashes.push(new Int32Array(CHUNK_ROWS * 2));
    } else {
      this.#freeRow = this.#hashes[row >>> CHUNK_BITS][(row & CHUNK_MASK) * 2];
    }
    const hashes = this.#hashes[row >>> CHUNK_BITS];
    hashes[(row & CHUNK_MASK) * 2] = lo;
    hashes[(row & CHUNK_MASK) * 2 + 1] = hi;
    this.#rows.set(lo, hi, row);
    return row;
  }

  #clearBit(chunk: Int32Array, row: number, slot: number): void {
    const at = row & CHUNK_MASK;
    const bit = 1 << (slot & 31);
    if ((chunk[at] & bit) === 0) return;
    chunk[at] &= ~bit;
    this.#held[slot]--;
    if (chunk[at] !== 0) return;
    for (let p = 0; p < this.#planes.length; p++) if (wordOf(this.#planes[p], row >>> CHUNK_BITS, at) !== 0) return;
    this.#freeRowAt(row);
  }

  #freeRowAt(row: number): void {
    const hashes = this.#hashes[row >>> CHUNK_BITS];
    const at = (row & CHUNK_MASK) * 2;
    this.#rows.delete(hashes[at], hashes[at + 1]);
    hashes[at] = this.#freeRow;
    this.#freeRow = row;
  }
}

function wordOf(plane: Int32Array[], chunkAt: number, at: number): number {
  return chunkAt < plane.length ? plane[chunkAt][at] : 0;
}

/** Writes `depth` for every set bit. */
function emit(bits: number, base: number, depth: number, column: Int32Array): void {
  while (bits !== 0) {
    const low = bits & -bits;
    column[base + 31 - Math.clz32(low)] = depth;
    bits ^= low;
  }
}

function increment(bits: number, base: number, column: Int32Array): void {
  while (bits !== 0) {
    const low = bits & -bits;
    column[base + 31 - Math.clz32(low)]++;
    bits ^= low;
  }
}
