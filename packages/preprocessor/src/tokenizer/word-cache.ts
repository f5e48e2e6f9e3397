// @hot
// Word → token ids. Two generations: when the current one is full it becomes the old one and a new one starts; a hit in the
// old one is copied to the current one. Memory is bounded and there are no lists to keep.

/** Slot of an ASCII word of at most 16 bytes, 8 words: 4 of key, length << 8 | count, id or offset into `ids`, -, -. */
export const SHORT_SLOT = 8;
/** Longest word in the cache of short words. */
export const SHORT_BYTES = 16;
const UNIT_SLOT = 4;
/** A longer word is not cached. */
export const UNIT_WORD_LIMIT = 96;

export const SHORT_KEY = { K0: 0, K1: 1, K2: 2, K3: 3, Length: 4, Hash: 5 } as const;

/** Words whose key is their bytes, as four int32: no key storage, no compare loop. The encoder probes `slots` itself. */
export class ShortWordCache {
  /** Key of the word that missed, set by the caller (SHORT_KEY). */
  readonly key: Int32Array;
  /** Current generation; replaced by `insert` when full. */
  slots: Int32Array;
  ids: Int32Array;
  readonly mask: number;
  readonly #limit: number;
  #words: number;
  #used: number;
  #oldSlots: Int32Array | undefined;
  #oldIds: Int32Array;

  constructor(words: number) {
    this.key = new Int32Array(6);
    this.mask = words * 2 - 1;
    this.slots = new Int32Array(words * 2 * SHORT_SLOT);
    this.ids = new Int32Array(words * 3);
    this.#limit = words;
    this.#words = 0;
    this.#used = 0;
    this.#oldSlots = undefined;
    this.#oldIds = this.ids;
  }

  get memoryBytes(): number {
    return (this.slots.byteLength + this.ids.byteLength) * (this.#oldSlots === undefined ? 1 : 2);
  }

  /** Copies the ids of `key` from the old generation to `out` at `to`; returns the count, 0 when it is not there. */
  recall(out: Int32Array, to: number): number {
    const slots = this.#oldSlots;
    if (slots === undefined) return 0;
    const at = findShort(slots, this.mask, this.key);
    const count = slots[at + 4] & 255;
    if (count === 1) out[to] = slots[at + 5];
    else for (let i = 0, from = slots[at + 5]; i < count; i++) out[to + i] = this.#oldIds[from + i];
    return count;
  }

  /** Stores `key` → `out[from .. to)`. */
  insert(out: Int32Array, from: number, to: number): void {
    const count = to - from;
    if (count === 0 || count > 255) return;
    if (this.#words >= this.#limit || this.#used + count > this.ids.length) {
      this.#oldSlots = this.slots;
      this.#oldIds = this.ids;
      this.slots = new Int32Array(this.slots.length);
      this.ids = new Int32Array(this.ids.length);
      this.#words = 0;
      this.#used = 0;
    }
    const { slots, key } = this;
    const at = findShort(slots, this.mask, key);
    for (let i = 0; i < 4; i++) slots[at + i] = key[i];
    slots[at + 4] = (key[SHORT_KEY.Length] << 8) | count;
    if (count === 1) slots[at + 5] = out[from];
    else {
      slots[at + 5] = this.#used;
      for (let i = from; i < to; i++) this.ids[this.#used++] = out[i];
    }
    this.#words++;
  }
}

/** Offset of the key's slot or of the free slot where it would go. */
function findShort(slots: Int32Array, mask: number, key: Int32Array): number {
  let at = (key[5] & mask) * SHORT_SLOT;
  for (;;) {
    const meta = slots[at + 4];
    if (meta === 0) return at;
    if (slots[at] === key[0] && slots[at + 1] === key[1] && slots[at + 2] === key[2] && slots[at + 3] === key[3] && meta >>> 8 === key[4]) return at;
    at = (at + SHORT_SLOT) & (mask * SHORT_SLOT + SHORT_SLOT - 1);
  }
}

interface UnitGeneration {
  /** hash, length << 8 | count, offset of the key, id or offset into ids */
  readonly slots: Int32Array;
  readonly keys: Uint16Array;
  readonly ids: Int32Array;
  words: number;
  keysUsed: number;
  idsUsed: number;
}

/** Words of any UTF-16 units up to UNIT_WORD_LIMIT. */
export class UnitWordCache {
  readonly #mask: number;
  readonly #limit: number;
  #current: UnitGeneration;
  #old: UnitGeneration | undefined;
  /** Of the word last looked up. */
  #hash: number;

  constructor(words: number) {
    this.#mask = words * 2 - 1;
    this.#limit = words;
    this.#current = unitGeneration(words);
    this.#old = undefined;
    this.#hash = 0;
  }

  get memoryBytes(): number {
    const { slots, keys, ids } = this.#current;
    return (slots.byteLength + keys.byteLength + ids.byteLength) * (this.#old === undefined ? 1 : 2);
  }

  /** Copies the ids of the word to `out` at `out.length`; returns the count, 0 when it is not cached (then `insert` it). */
  lookup(units: Uint16Array, start: number, end: number, out: IdSink): number {
    let h = end - start;
    for (let i = start; i < end; i++) h = Math.imul(h ^ units[i], 0x01000193);
    h ^= h >>> 15;
    h = Math.imul(h, 0x85ebca6b);
    h ^= h >>> 13;
    this.#hash = h;
    const count = this.#copy(this.#current, units, start, end, out);
    if (count > 0 || this.#old === undefined) return count;
    const recalled = this.#copy(this.#old, units, start, end, out);
    if (recalled > 0) {
      out.length -= recalled;
      this.#store(units.subarray(start, end), out.ids.subarray(out.length, out.length + recalled));
      out.length += recalled;
    }
    return recalled;
  }

  /** Stores the word that `lookup` missed. */
  insert(units: Uint16Array, start: number, end: number, ids: Int32Array): void {
    this.#store(units.subarray(start, end), ids);
  }

  #copy(from: UnitGeneration, units: Uint16Array, start: number, end: number, out: IdSink): number {
    const { slots, keys } = from;
    const length = end - start;
    let at = (this.#hash & this.#mask) * UNIT_SLOT;
    for (;;) {
      const meta = slots[at + 1];
      if (meta === 0) return 0;
      if (slots[at] === this.#hash && meta >>> 8 === length) {
        const key = slots[at + 2];
        let i = 0;
        while (i < length && keys[key + i] === units[start + i]) i++;
        if (i === length) {
          const count = meta & 255;
          if (count === 1) out.ids[out.length++] = slots[at + 3];
          else for (let k = 0, o = slots[at + 3]; k < count; k++) out.ids[out.length++] = from.ids[o + k];
          return count;
        }
      }
      at = (at + UNIT_SLOT) & (this.#mask * UNIT_SLOT + UNIT_SLOT - 1);
    }
  }

  #store(word: Uint16Array, ids: Int32Array): void {
    const count = ids.length;
    if (count === 0 || count > 255) return;
    let g = this.#current;
    if (g.words >= this.#limit || g.keysUsed + word.length > g.keys.length || g.idsUsed + count > g.ids.length) {
      this.#old = g;
      g = unitGeneration(this.#limit);
      this.#current = g;
    }
    let at = (this.#hash & this.#mask) * UNIT_SLOT;
    while (g.slots[at + 1] !== 0) at = (at + UNIT_SLOT) & (this.#mask * UNIT_SLOT + UNIT_SLOT - 1);
    g.slots[at] = this.#hash;
    g.slots[at + 1] = (word.length << 8) | count;
    g.slots[at + 2] = g.keysUsed;
    g.keys.set(word, g.keysUsed);
    g.keysUsed += word.length;
    if (count === 1) g.slots[at + 3] = ids[0];
    else {
      g.slots[at + 3] = g.idsUsed;
      g.ids.set(ids, g.idsUsed);
      g.idsUsed += count;
    }
    g.words++;
  }
}

/** Where ids go: room is reserved by the caller. */
export interface IdSink {
  readonly ids: Int32Array;
  length: number;
}

function unitGeneration(words: number): UnitGeneration {
  return {
    slots: new Int32Array(words * 2 * UNIT_SLOT),
    keys: new Uint16Array(words * 10),
    ids: new Int32Array(words * 4),
    words: 0,
    keysUsed: 0,
    idsUsed: 0,
  };
}
