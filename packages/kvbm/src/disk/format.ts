// @hot
/**
 * The index file of a disk store, byte by byte: docs/kvbm-format.md. One header page, then one record of 64 bytes per slot.
 * Numbers are little-endian; records are read and written as 32-bit words of the host, which is little-endian wherever this runs.
 */

export const FORMAT_VERSION = 2;
export const PAGE_BYTES = 4096;
export const RECORD_BYTES = 64;
export const RECORD_WORDS = RECORD_BYTES / 4;
export const RECORDS_PER_PAGE = PAGE_BYTES / RECORD_BYTES;

/** "KVR1" */
const RECORD_MAGIC = 0x3152_564b;
const STATE_COMPLETE = 1;

/** Words of a record. */
export const Word = { Magic: 0, State: 1, Hash: 2, Parent: 4, Checksum: 6, Tenant: 8, Generation: 9, Stamp: 10, Slot: 12, Reserved: 13, Check: 14 } as const;

/** Ties a record to the layout of its store: records of another one fail their check. */
export interface RecordSeed {
  readonly lo: number;
  readonly hi: number;
}

/** What a record says of a block; its hash, parent and checksum are rows of `columns`. */
export interface RecordFacts {
  readonly hashes: Int32Array;
  readonly parents: Int32Array;
  readonly checksums: Int32Array;
  readonly tenant: number;
}

const TWO_32 = 0x1_0000_0000;

/** Index pages for so many slots. */
export function pagesOf(slots: number): number {
  return Math.ceil(slots / RECORDS_PER_PAGE);
}

/** Writes the record of `slot` from row `row`. */
export function writeRecord(words: Int32Array, slot: number, facts: RecordFacts, row: number): void {
  const at = slot * RECORD_WORDS;
  words[at + Word.Magic] = RECORD_MAGIC;
  words[at + Word.State] = STATE_COMPLETE;
  for (let i = 0; i < 2; i++) {
    words[at + Word.Hash + i] = facts.hashes[2 * row + i]!;
    words[at + Word.Parent + i] = facts.parents[2 * row + i]!;
    words[at + Word.Checksum + i] = facts.checksums[2 * row + i]!;
  }
  words[at + Word.Tenant] = facts.tenant;
  words[at + Word.Slot] = slot;
  words[at + Word.Reserved] = 0;
}

/** Completes a record: who wrote it and when its block was last used; then the check over all of it. */
export function sealRecord(words: Int32Array, slot: number, generation: number, stamp: number, seed: RecordSeed): void {
  const at = slot * RECORD_WORDS;
  words[at + Word.Generation] = generation;
  words[at + Word.Stamp] = stamp % TWO_32;
  words[at + Word.Stamp + 1] = Math.floor(stamp / TWO_32);
  writeCheck(words, at, seed, words, at + Word.Check);
}

export function stampOf(words: Int32Array, slot: number): number {
  const at = slot * RECORD_WORDS + Word.Stamp;
  return (words[at]! >>> 0) + (words[at + 1]! >>> 0) * TWO_32;
}

/** Whether the slot holds a complete block: everything else (zeros, torn, moved, of another layout, noise) is a free slot. */
export function isComplete(words: Int32Array, slot: number, seed: RecordSeed): boolean {
  const at = slot * RECORD_WORDS;
  if (words[at + Word.State] !== STATE_COMPLETE || words[at + Word.Magic] !== RECORD_MAGIC || words[at + Word.Slot] !== slot) return false;
  writeCheck(words, at, seed, found, 0);
  return found[0] === words[at + Word.Check] && found[1] === words[at + Word.Check + 1];
}

/** A slot that is neither complete nor clean: what a crash, a bad disk or a stranger left. */
export function isBlank(words: Int32Array, slot: number): boolean {
  return words[slot * RECORD_WORDS + Word.State] === 0;
}

const found = new Int32Array(2);

/**
 * Check word over words 0 to 13. Every step is a bijection of the first lane for a given word, and of the word for a given lane: one wrong word is
 * always seen, anything else with 1 - 2^-64.
 */
function writeCheck(words: Int32Array, at: number, seed: RecordSeed, out: Int32Array, outAt: number): void {
  let a = seed.lo ^ 0x9e37_79b1;
  let b = seed.hi ^ 0x85eb_ca77;
  for (let i = 0; i < Word.Check; i++) {
    const word = words[at + i]!;
    a = Math.imul(a ^ word, 0x9e37_79b1);
    a ^= a >>> 15;
    b = Math.imul((b + word) ^ a, 0x85eb_ca77);
    b ^= b >>> 13;
  }
  out[outAt] = a;
  out[outAt + 1] = b;
}
