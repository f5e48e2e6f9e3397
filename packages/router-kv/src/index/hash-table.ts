// @hot
import { enlarged } from './columns.ts';

/** Arena slots that can be addressed; 0 is never used. An entry keeps `32 - 5 - slotBits` bits of the hash as a tag. */
export const MAX_SLOT_BITS = 25;
/** Too many hashes with one home: only an adversary finds them, and pays with blocks that are not recorded. */
export const TABLE_FULL = -1;
/** An entry is this far from its home at most when it is entered. Doubling the table never takes the last cluster further beyond the end. */
const MAX_DISTANCE = 1024;

const DISTANCE_BITS = 5;
/** Distance from home kept in an entry: 0..30 exactly, 31 = that or more. */
const FAR = (1 << DISTANCE_BITS) - 1;
const FILL = 0.55;
/** Fill of the largest table at which it takes no more. */
const FULL = 0.85;
/** Old positions carried over per block stored while doubling: twice what keeps up with the stores. */
const MOVES = 8;
const FIRST_BITS = 6;
const MIX_HIGH = 0x9e3779b1 | 0;
const MIX = 0x85ebca6b | 0;

/**
 * 64-bit hash → arena slot. Linear probing, ordered by the top bits of the mixed hash; an entry is one word,
 * `tag | distance from home | slot`, and the hash itself is in `hashes`, so an unequal tag costs no second cache miss.
 * Ordered by top bits, position p becomes 2p or 2p + 1 when the table doubles: it doubles inside one array, from the top
 * down, a few clusters per store. Homes below `#cut` still lie at half their position.
 * No tombstones: the distances tell which entries close up behind one that leaves.
 */
export class HashTable {
  /** (lo, hi) per arena slot. Zero where a slot is free, so that stale hints do not match. */
  hashes: Int32Array;
  /** Where prefetching loads end up, so that they are not optimised away; nobody reads it. */
  sink: number;
  #entries: Int32Array;
  readonly #slotBits: number;
  #shift: number;
  #minShift: number;
  #cut: number;
  #count: number;

  /** For arena slots below `1 << slotBits`; room for none until `resize`. */
  constructor(slotBits: number) {
    this.#slotBits = slotBits;
    this.#shift = 32 - FIRST_BITS;
    this.#minShift = this.#shift;
    this.hashes = new Int32Array(2);
    this.#entries = new Int32Array(0);
    this.#cut = 0;
    this.#count = 0;
    this.sink = 0;
  }

  get count(): number {
    return this.#count;
  }

  /** Longer searches than this are not worth it: nothing should be entered any more. */
  get isFull(): boolean {
    return this.#count > FULL * 2 ** (32 - this.#minShift);
  }

  /** Positions in use; the array behind them may be larger. */
  get positions(): number {
    return 2 ** (32 - this.#shift);
  }

  /** Room for arena slots below `slots` (a power of two), at most half of the positions taken. Copies what is there. */
  resize(slots: number): void {
    this.hashes = enlarged(this.hashes, slots * 2);
    const positions = Math.min(Math.max(slots * 2, 2 ** FIRST_BITS), 2 ** MAX_SLOT_BITS);
    // Room for the last cluster, and a word that stays 0 and ends every search.
    this.#entries = enlarged(this.#entries, positions + MAX_DISTANCE + 1);
    this.#minShift = 32 - Math.round(Math.log2(positions));
  }

  /** Empty tables only: start at the size that `blocks` blocks need. */
  presize(blocks: number): void {
    if (this.#count > 0) return;
    while (blocks > FILL * this.positions && this.#shift > this.#minShift) this.#shift--;
  }

  /** Arena slot of a hash, 0 when absent. */
  find(lo: number, hi: number): number {
    const entries = this.#entries;
    const hashes = this.hashes;
    const slotBits = this.#slotBits;
    const step = 1 << slotBits;
    let wanted = lo << (slotBits + DISTANCE_BITS); // an entry of this hash at distance 0, less its slot
    let distance = 0;
    for (let p = this.#home(lo, hi); ; p++) {
      const entry = entries[p];
      if (entry === 0) return 0;
      const slot = entry ^ wanted;
      if (slot >>> slotBits === 0 && hashes[2 * slot] === lo && hashes[2 * slot + 1] === hi) return slot;
      if (distance < FAR) {
        distance++;
        wanted = (wanted + step) | 0;
      }
    }
  }

  /** The slot where the hash is already; or 0 after entering it with `slot`; or TABLE_FULL. */
  place(lo: number, hi: number, slot: number): number {
    const entries = this.#entries;
    const hashes = this.hashes;
    const slotBits = this.#slotBits;
    const step = 1 << slotBits;
    let wanted = lo << (slotBits + DISTANCE_BITS);
    let distance = 0;
    const home = this.#home(lo, hi);
    for (let p = home; ; p++) {
      const entry = entries[p];
      if (entry === 0) {
        if (p - home > MAX_DISTANCE) return TABLE_FULL;
        entries[p] = wanted | slot;
        hashes[2 * slot] = lo;
        hashes[2 * slot + 1] = hi;
        this.#count++;
        return 0;
      }
      const other = entry ^ wanted;
      if (other >>> slotBits === 0 && hashes[2 * other] === lo && hashes[2 * other + 1] === hi) return other;
      if (distance < FAR) {
        distance++;
        wanted = (wanted + step) | 0;
      }
    }
  }

  /** Takes out the hash of an arena slot. */
  erase(slot: number): void {
    const entries = this.#entries;
    const hashes = this.hashes;
    const slotBits = this.#slotBits;
    const slotMask = (1 << slotBits) - 1;
    let hole = this.#home(hashes[2 * slot], hashes[2 * slot + 1]);
    while ((entries[hole] & slotMask) !== slot) hole++;
    for (let p = hole + 1; ; p++) {
      const entry = entries[p];
      if (entry === 0) break;
      let distance = (entry >>> slotBits) & FAR;
      if (distance === FAR) {
        const other = entry & slotMask;
        distance = p - this.#home(hashes[2 * other], hashes[2 * other + 1]);
      }
      distance -= p - hole;
      if (distance < 0) continue;
      entries[hole] = (entry & ~(FAR << slotBits)) | (Math.min(distance, FAR) << slotBits);
      hole = p;
    }
    entries[hole] = 0;
    hashes[2 * slot] = 0;
    hashes[2 * slot + 1] = 0;
    this.#count--;
  }

  /** Reads the table lines of blocks `from .. to` with independent loads, so that their cache misses overlap (77 → 40 ns per block). */
  touch(hashes: Int32Array, from: number, to: number): void {
    const entries = this.#entries;
    const shift = this.#shift;
    const cut = this.#cut;
    let sink = 0;
    for (let k = 2 * from; k < 2 * to; k += 2) {
      const p = Math.imul(hashes[k] ^ Math.imul(hashes[k + 1], MIX_HIGH), MIX) >>> shift;
      sink ^= entries[p < cut ? p >>> 1 : p];
    }
    this.sink = sink;
  }

  /** Starts the cache misses that a `find` would wait for, without waiting: table line, then the hash of the entry there. Its slot, perhaps. */
  peek(lo: number, hi: number): number {
    const slot = this.#entries[this.#home(lo, hi)] & ((1 << this.#slotBits) - 1);
    this.sink = this.hashes[2 * slot];
    return slot;
  }

  /** Before `blocks` more entries: starts a doubling when one is due and carries it on by a few clusters. */
  makeRoom(blocks: number): void {
    do {
      if (this.#cut === 0) {
        if (this.#count + blocks <= FILL * this.positions || this.#shift <= this.#minShift) return;
        this.#cut = this.positions * 2;
        this.#shift--;
      }
      this.#double(MOVES * blocks + 64);
    } while (this.#cut === 0);
  }

  #home(lo: number, hi: number): number {
    const p = Math.imul(lo ^ Math.imul(hi, MIX_HIGH), MIX) >>> this.#shift;
    return p < this.#cut ? p >>> 1 : p;
  }

  /** Moves the topmost old positions, about `budget` of them and whole clusters only, to where the doubled table wants them. */
  #double(budget: number): void {
    const entries = this.#entries;
    const end = this.#cut >>> 1;
    let from = end > 2 * budget + 4096 ? end - budget : 0;
    while (from > 0 && entries[from - 1] !== 0) from--;
    let to = end;
    while (to < 2 * end && entries[to] !== 0) to++;
    let source = entries;
    if (from === 0) {
      // Last step: old and new positions overlap.
      source = entries.slice(0, to);
      entries.fill(0, 0, to);
    }
    this.#cut = 2 * from;
    this.#prefetch(source, from, to);
    const hashes = this.hashes;
    const slotBits = this.#slotBits;
    const shift = this.#shift;
    for (let p = from; p < to; p++) {
      const entry = source[p];
      if (entry === 0) continue;
      source[p] = 0;
      const slot = entry & ((1 << slotBits) - 1);
      const lo = hashes[2 * slot];
      const home = Math.imul(lo ^ Math.imul(hashes[2 * slot + 1], MIX_HIGH), MIX) >>> shift;
      let at = home;
      while (entries[at] !== 0) at++;
      entries[at] = (lo << (slotBits + DISTANCE_BITS)) | (Math.min(at - home, FAR) << slotBits) | slot;
    }
  }

  #prefetch(source: Int32Array, from: number, to: number): void {
    const hashes = this.hashes;
    const slotMask = (1 << this.#slotBits) - 1;
    let sink = 0;
    for (let p = from; p < to; p++) sink ^= hashes[2 * (source[p] & slotMask)];
    this.sink = sink;
  }
}
