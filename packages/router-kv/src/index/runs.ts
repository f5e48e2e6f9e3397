// @hot
import { enlarged } from './columns.ts';
import { MAX_SLOT_BITS } from './hash-table.ts';
import type { HashTable } from './hash-table.ts';

/** Slots per chunk: 8 hashes are one cache line. */
export const CHUNK = 8;
/** `slot & CHUNK_OF` is the first slot of its chunk. */
export const CHUNK_OF = ~(CHUNK - 1);
/** Longest run allocated at once, in chunks. */
const MAX_CHUNKS = 16;
/** Capacities below this are copied to grow (at most 1 MB); then everything is reserved at once and nothing is copied again. */
const COPIED_SLOTS = 1 << 16;
const FIRST_SLOTS = 1 << 8;
/** A run that follows a full one is at least as long as it, up to this: chains that grow block by block get longer runs. */
const FOLLOWING_SLOTS = 32;

/** Words of a run's record, one cache line with the run's facts: `records[first slot + word]`. */
export const Run = {
  /** First slot of the run this chunk belongs to. The only word used in chunks that are not a run's first, but for `DIVERGENCE`. */
  Head: 0,
  /** Slot behind the last block; the next free run while on a free list. */
  End: 1,
  /** Slot behind the last usable one. */
  Limit: 2,
  /** Blocks that somebody holds. */
  Live: 3,
  /** The set of the blocks up to slot `Same`, the first block at least. Never a guess. */
  Set: 4,
  Same: 5,
  /** Hint: slot that last followed the run. */
  Successor: 6,
  /** Slots up to here are consecutive blocks of one chain: a query went through them. */
  Proven: 7,
} as const;

/** Hint: slot where a query last left a run of two chunks or more. In the second chunk's record, the first one being full. */
export const DIVERGENCE = CHUNK + Run.Same;

/**
 * The arena: a run is a stretch of blocks in consecutive slots, by all appearances consecutive blocks of a chain (that is how
 * they were stored), so that a query reads hashes and sets as columns instead of probing the table per block. A block without
 * holders keeps its slot until the blocks behind it are gone too.
 */
export class Runs {
  /** Worker set of each slot's block. */
  setOf: Int32Array;
  records: Int32Array;
  readonly #table: HashTable;
  readonly #maxSlots: number;
  /** First free run of each length in chunks, 0 = none. */
  readonly #free: Int32Array;
  /** Next slot never used. */
  #top: number;
  #capacity: number;

  constructor(table: HashTable, slotBits: number) {
    this.#table = table;
    this.#maxSlots = 2 ** Math.min(slotBits, MAX_SLOT_BITS);
    this.#free = new Int32Array(MAX_CHUNKS + 1);
    this.#top = CHUNK; // chunk 0 is not used: slot 0 means none
    this.setOf = new Int32Array(0);
    this.records = new Int32Array(0);
    this.#capacity = 0;
    this.#resize(Math.min(this.#maxSlots, FIRST_SLOTS));
  }

  /** Slots below this have been used. */
  get top(): number {
    return this.#top;
  }

  /** Room for `slots` slots without copying later. */
  reserve(slots: number): void {
    if (Math.min(slots, this.#maxSlots) > this.#capacity) this.#resize(slots >= COPIED_SLOTS ? this.#maxSlots : 2 ** Math.ceil(Math.log2(slots)));
  }

  runOf(slot: number): number {
    return this.records[(slot & CHUNK_OF) + Run.Head];
  }

  /** A new run for about `slots` blocks behind run `after` (0 = none); 0 when the arena is full. */
  allocate(slots: number, after: number): number {
    if (after !== 0) slots = Math.max(slots, Math.min(FOLLOWING_SLOTS, this.records[after + Run.Limit] - after));
    const chunks = Math.min(MAX_CHUNKS, (slots + CHUNK - 1) >>> 3);
    const run = this.#takeFree(chunks);
    if (run === 0) return 0;
    const records = this.records;
    const length = records[run + Run.Limit];
    for (let slot = run; slot < run + length; slot += CHUNK) records[slot + Run.Head] = run;
    records[run + Run.End] = run;
    records[run + Run.Limit] = run + length;
    records[run + Run.Live] = 0;
    records[run + Run.Set] = 0;
    records[run + Run.Same] = run;
    records[run + Run.Successor] = 0;
    records[run + Run.Proven] = run;
    return run;
  }

  /** More room at the end of the newest run; false for any other. */
  extend(run: number, slots: number): boolean {
    if (this.records[run + Run.Limit] !== this.#top) return false;
    const chunks = Math.min(MAX_CHUNKS, (slots + CHUNK - 1) >>> 3);
    if (!this.#hasRoom(chunks * CHUNK)) return false;
    for (let i = 0; i < chunks; i++) this.records[this.#top + i * CHUNK + Run.Head] = run;
    this.#top += chunks * CHUNK;
    this.records[run + Run.Limit] = this.#top;
    return true;
  }

  /** Takes blocks without holders off the end of a run; frees the run when none is left. */
  trim(run: number): void {
    const records = this.records;
    let end = records[run + Run.End];
    if (records[run + Run.Live] === 0) {
      while (end > run) this.#table.erase(--end);
      this.#release(run, (records[run + Run.Limit] - run) >>> 3);
      return;
    }
    while (this.setOf[end - 1] === 0) this.#table.erase(--end);
    records[run + Run.End] = end;
    if (records[run + Run.Proven] > end) records[run + Run.Proven] = end;
    if (records[run + Run.Same] > end) records[run + Run.Same] = end;
  }

  /** Whether a chunk's first slot is the first of a run with blocks. */
  isRun(slot: number): boolean {
    return this.records[slot + Run.Head] === slot && this.records[slot + Run.Live] !== 0;
  }

  /** Slots on free lists. */
  get freeSlots(): number {
    let slots = 0;
    for (let chunks = 1; chunks <= MAX_CHUNKS; chunks++) {
      for (let run = this.#free[chunks]; run !== 0; run = this.records[run + Run.End]) slots += chunks * CHUNK;
    }
    return slots;
  }

  /** First slot of `chunks` unused chunks, or fewer where the arena is full and fragmented; their slots in `Run.Limit`. */
  #takeFree(chunks: number): number {
    const free = this.#free;
    let length = chunks;
    while (length <= MAX_CHUNKS && free[length] === 0) length++;
    if (length > MAX_CHUNKS) {
      if (this.#hasRoom(chunks * CHUNK)) {
        const run = this.#top;
        this.#top += chunks * CHUNK;
        this.records[run + Run.Limit] = chunks * CHUNK;
        return run;
      }
      length = chunks;
      while (length > 0 && free[length] === 0) length--;
      if (length === 0) return 0;
      chunks = length;
    }
    const run = free[length];
    free[length] = this.records[run + Run.End];
    if (length > chunks) this.#release(run + chunks * CHUNK, length - chunks);
    this.records[run + Run.Limit] = chunks * CHUNK;
    return run;
  }

  #release(run: number, chunks: number): void {
    for (let left = chunks; left > 0; left -= MAX_CHUNKS) {
      const length = Math.min(MAX_CHUNKS, left);
      this.records[run + Run.End] = this.#free[length];
      this.records[run + Run.Live] = 0;
      this.#free[length] = run;
      run += MAX_CHUNKS * CHUNK;
    }
  }

  #hasRoom(slots: number): boolean {
    if (this.#top + slots <= this.#capacity) return true;
    if (this.#top + slots > this.#maxSlots) return false;
    const wanted = this.#capacity * 4;
    this.#resize(wanted > COPIED_SLOTS ? this.#maxSlots : Math.min(wanted, this.#maxSlots));
    return true;
  }

  /** The last step is a reservation: the system commits its pages as they are written (24 B of memory per slot used). */
  #resize(slots: number): void {
    this.#capacity = slots;
    this.setOf = enlarged(this.setOf, slots);
    this.records = enlarged(this.records, slots);
    this.#table.resize(slots);
  }
}
