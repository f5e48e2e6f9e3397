// @hot
/** Called per entry. Return value is ignored. */
export type U64MapVisitor = (lo: number, hi: number, value: number) => void;

/** Slot = 4 words: lo, hi, value, 1 when used. 16 bytes, so a slot never crosses a cache line. */
const WORDS = 4;
/** Slots of the old table looked at per insertion while growing; two would be enough to finish before the next growth. */
const MOVES = 16;

/**
 * Hash table u64 → int32, open addressing with linear probing, no tombstones. Grows incrementally: an insertion moves a few
 * entries, so none takes longer because the table is large. Words may come signed or unsigned; they go out signed.
 * `forEach` must not change the map.
 */
export class U64Map {
  #slots: Int32Array;
  #mask: number;
  #size: number;
  /** Table being emptied while growing; its capacity mask, entries left, the slot to go on from. */
  #old: Int32Array | null;
  #oldMask: number;
  #oldSize: number;
  #cursor: number;

  /** `expected` entries fit without growing. */
  constructor(expected = 8) {
    let capacity = 16;
    while (capacity * 5 < expected * 8) capacity *= 2;
    this.#slots = new Int32Array(capacity * WORDS);
    this.#mask = capacity - 1;
    this.#size = 0;
    this.#old = null;
    this.#oldMask = 0;
    this.#oldSize = 0;
    this.#cursor = 0;
  }

  get size(): number {
    return this.#size;
  }

  /** Bytes of the tables. */
  get memoryBytes(): number {
    return this.#slots.byteLength + (this.#old === null ? 0 : this.#old.byteLength);
  }

  /** The value, -1 when absent (`has` tells a stored -1 from absence). */
  get(lo: number, hi: number): number {
    const at = find(this.#slots, this.#mask, lo | 0, hi | 0);
    if (this.#slots[at + 3] !== 0) return this.#slots[at + 2];
    if (this.#old === null) return -1;
    const oldAt = find(this.#old, this.#oldMask, lo | 0, hi | 0);
    return this.#old[oldAt + 3] !== 0 ? this.#old[oldAt + 2] : -1;
  }

  has(lo: number, hi: number): boolean {
    if (this.#slots[find(this.#slots, this.#mask, lo | 0, hi | 0) + 3] !== 0) return true;
    return this.#old !== null && this.#old[find(this.#old, this.#oldMask, lo | 0, hi | 0) + 3] !== 0;
  }

  /** Inserts or replaces. True when the key is new. */
  set(lo: number, hi: number, value: number): boolean {
    lo |= 0;
    hi |= 0;
    if (this.#old !== null) this.#move();
    let at = find(this.#slots, this.#mask, lo, hi);
    if (this.#slots[at + 3] !== 0) {
      this.#slots[at + 2] = value;
      return false;
    }
    if (this.#old !== null) {
      const oldAt = find(this.#old, this.#oldMask, lo, hi);
      if (this.#old[oldAt + 3] !== 0) {
        this.#old[oldAt + 2] = value;
        return false;
      }
    }
    if ((this.#size + 1) * 8 > (this.#mask + 1) * 5) {
      this.#grow();
      at = find(this.#slots, this.#mask, lo, hi);
    }
    put(this.#slots, at, lo, hi, value);
    this.#size++;
    return true;
  }

  /** True when the key was there. */
  delete(lo: number, hi: number): boolean {
    lo |= 0;
    hi |= 0;
    if (remove(this.#slots, this.#mask, lo, hi)) {
      this.#size--;
      return true;
    }
    if (this.#old === null || !remove(this.#old, this.#oldMask, lo, hi)) return false;
    this.#size--;
    if (--this.#oldSize === 0) this.#old = null;
    return true;
  }

  /** Keeps the capacity. */
  clear(): void {
    this.#slots.fill(0);
    this.#size = 0;
    this.#old = null;
    this.#oldSize = 0;
  }

  forEach(visit: U64MapVisitor): void {
    visitAll(this.#slots, visit);
    if (this.#old !== null) visitAll(this.#old, visit);
  }

  #grow(): void {
    while (this.#old !== null) this.#move();
    this.#old = this.#slots;
    this.#oldMask = this.#mask;
    this.#oldSize = this.#size;
    // Start behind a free slot: then only whole probe runs leave, and the runs that stay remain findable.
    let cursor = 0;
    while (this.#old[cursor * WORDS + 3] !== 0) cursor++;
    this.#cursor = cursor;
    const capacity = (this.#mask + 1) * 2;
    this.#slots = new Int32Array(capacity * WORDS);
    this.#mask = capacity - 1;
  }

  /** Moves the entries of the next slots, and on to the end of the run that they are in. */
  #move(): void {
    const old = this.#old as Int32Array;
    let cursor = this.#cursor;
    for (let looked = 0; ; looked++) {
      cursor = (cursor + 1) & this.#oldMask;
      const at = cursor * WORDS;
      if (old[at + 3] === 0) {
        if (looked >= MOVES) break;
        continue;
      }
      put(this.#slots, find(this.#slots, this.#mask, old[at], old[at + 1]), old[at], old[at + 1], old[at + 2]);
      old[at + 3] = 0;
      if (--this.#oldSize === 0) {
        this.#old = null;
        return;
      }
    }
    this.#cursor = cursor;
  }
}

/** Keys are hashes already, but any may come (worker ids, weak test keys): one multiply per word spreads them. */
function home(lo: number, hi: number, mask: number): number {
  const h = Math.imul(lo, 0x9e3779b1) ^ Math.imul(hi, 0x85ebca6b);
  return (h ^ (h >>> 15)) & mask;
}

/** Word offset of the key's slot, or of the free slot where it would go. */
function find(slots: Int32Array, mask: number, lo: number, hi: number): number {
  let slot = home(lo, hi, mask);
  for (;;) {
    const at = slot * WORDS;
    if (slots[at + 3] === 0 || (slots[at] === lo && slots[at + 1] === hi)) return at;
    slot = (slot + 1) & mask;
  }
}

function put(slots: Int32Array, at: number, lo: number, hi: number, value: number): void {
  slots[at] = lo;
  slots[at + 1] = hi;
  slots[at + 2] = value;
  slots[at + 3] = 1;
}

/** Backward shift: later members of the run move into the hole unless they would pass their home slot. */
function remove(slots: Int32Array, mask: number, lo: number, hi: number): boolean {
  const at = find(slots, mask, lo, hi);
  if (slots[at + 3] === 0) return false;
  let hole = at / WORDS;
  let next = hole;
  for (;;) {
    next = (next + 1) & mask;
    const from = next * WORDS;
    if (slots[from + 3] === 0) break;
    const distance = (next - home(slots[from], slots[from + 1], mask)) & mask;
    if (distance < ((next - hole) & mask)) continue;
    put(slots, hole * WORDS, slots[from], slots[from + 1], slots[from + 2]);
    hole = next;
  }
  slots[hole * WORDS + 3] = 0;
  return true;
}

function visitAll(slots: Int32Array, visit: U64MapVisitor): void {
  for (let at = 0; at < slots.length; at += WORDS) if (slots[at + 3] !== 0) visit(slots[at], slots[at + 1], slots[at + 2]);
}
