import type { DiskIo, IoEnded } from './disk-io.ts';
import { writeAll } from './disk-io.ts';
import { isBlank, isComplete, PAGE_BYTES, pagesOf, RECORD_WORDS, RECORDS_PER_PAGE, sealRecord, stampOf, Word, writeRecord } from './format.ts';
import type { RecordFacts, RecordSeed } from './format.ts';

/** Pages copied and written at a time: the event loop never copies more than this in one turn. */
const CHUNK_PAGES = 256;

export interface StoreIndexOptions {
  readonly slots: number;
  readonly generation: number;
  readonly seed: RecordSeed;
  readonly io: DiskIo;
  readonly fd: number;
}

/** For tests, benchmarks and `kv stats`. */
export interface IndexCounters {
  flushes: number;
  pagesWritten: number;
  writes: number;
}

/**
 * The records of all slots: what the file holds, or will hold with the next flush. A record enters by `put`, after its block's bytes are in the file, and
 * leaves by `invalidate`; `flushed` tells when everything said so far has been written. Whoever overwrites a slot waits for that between `invalidate`
 * and the first byte: that is the rule of the format.
 * Changed pages are written whole, neighbours in one call, one flush at a time. What could not be written stays to be written by the next flush.
 */
export class StoreIndex {
  readonly slots: number;
  readonly words: Int32Array;
  readonly counters: IndexCounters = { flushes: 0, pagesWritten: 0, writes: 0 };
  readonly #options: StoreIndexOptions;
  readonly #bytes: Uint8Array;
  readonly #chunk = new Uint8Array(CHUNK_PAGES * PAGE_BYTES);
  readonly #isDirty: Uint8Array;
  /** Pages whose records are valid as written, but whose stamps are behind: written with the next change there, or at the end. */
  readonly #isBehind: Uint8Array;
  #dirty: Int32Array;
  #dirtyCount = 0;
  #flushing: Int32Array;
  #isFlushing = false;
  #waiters: IoEnded[] = [];
  #stamp = 0;

  constructor(options: StoreIndexOptions) {
    const pages = pagesOf(options.slots);
    const buffer = new ArrayBuffer(pages * PAGE_BYTES);
    this.slots = options.slots;
    this.words = new Int32Array(buffer);
    this.#options = options;
    this.#bytes = new Uint8Array(buffer);
    this.#isDirty = new Uint8Array(pages);
    this.#isBehind = new Uint8Array(pages);
    this.#dirty = new Int32Array(pages);
    this.#flushing = new Int32Array(pages);
  }

  /** The file's content behind its header, to be filled by whoever opens the store, before `recover`. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get hasUnwritten(): boolean {
    return this.#dirtyCount > 0 || this.#isFlushing;
  }

  /** Clears every slot that is not a complete block. Returns how many of them were not blank: torn, foreign or noise. */
  recover(): number {
    const { words } = this;
    const { seed } = this.#options;
    let torn = 0;
    // To the end of the last page: what lies there behind the last slot must not come back when the store grows again.
    for (let slot = 0; slot < words.length / RECORD_WORDS; slot++) {
      if (slot < this.slots && isComplete(words, slot, seed)) this.#stamp = Math.max(this.#stamp, stampOf(words, slot));
      else {
        if (!isBlank(words, slot)) {
          torn++;
          this.#markDirty(slot);
        }
        words.fill(0, slot * RECORD_WORDS, (slot + 1) * RECORD_WORDS);
      }
    }
    return torn;
  }

  isHeld(slot: number): boolean {
    return this.words[slot * RECORD_WORDS + Word.State] !== 0;
  }

  /** The slot's bytes are complete. Row `row` of `facts`. */
  put(slot: number, facts: RecordFacts, row: number): void {
    writeRecord(this.words, slot, facts, row);
    this.#seal(slot);
    this.#markDirty(slot);
  }

  /** The slot's block is not held any more. False: it was not. */
  invalidate(slot: number): boolean {
    if (!this.isHeld(slot)) return false;
    this.words.fill(0, slot * RECORD_WORDS, (slot + 1) * RECORD_WORDS);
    this.#markDirty(slot);
    return true;
  }

  /** The slot's block was used: younger than all others. Not worth a write of its own. */
  use(slot: number): void {
    if (!this.isHeld(slot)) return;
    this.#seal(slot);
    this.#isBehind[Math.floor(slot / RECORDS_PER_PAGE)] = 1;
  }

  /** The checksum of a held block, into two words. */
  checksum(slot: number, out: Int32Array, row: number): void {
    const at = slot * RECORD_WORDS + Word.Checksum;
    out[2 * row] = this.words[at]!;
    out[2 * row + 1] = this.words[at + 1]!;
  }

  /** Calls back, possibly before return, when everything said until now is in the file, or with the error that prevented it. */
  flushed(done: IoEnded): void {
    if (!this.hasUnwritten) {
      done(undefined);
      return;
    }
    this.#waiters.push(done);
    if (!this.#isFlushing) this.#flush();
  }

  /** Also the stamps that are behind. For a clean end. */
  finish(done: IoEnded): void {
    for (let page = 0; page < this.#isBehind.length; page++) if (this.#isBehind[page] === 1) this.#markDirty(page * RECORDS_PER_PAGE);
    this.flushed(done);
  }

  #seal(slot: number): void {
    this.#stamp++;
    sealRecord(this.words, slot, this.#options.generation, this.#stamp, this.#options.seed);
  }

  #markDirty(slot: number): void {
    const page = Math.floor(slot / RECORDS_PER_PAGE);
    if (this.#isDirty[page] === 1) return;
    this.#isDirty[page] = 1;
    this.#dirty[this.#dirtyCount++] = page;
  }

  /** One round: the pages changed until now. Waiters that come meanwhile belong to the next one. */
  #flush(): void {
    const count = this.#dirtyCount;
    const pages = this.#dirty;
    this.#dirty = this.#flushing;
    this.#flushing = pages;
    this.#dirtyCount = 0;
    this.#isFlushing = true;
    this.counters.flushes++;
    const waiters = this.#waiters;
    this.#waiters = [];
    pages.subarray(0, count).sort();
    this.#writeFrom(pages, 0, count, (error) => {
      this.#isFlushing = false;
      for (const waiter of waiters) waiter(error);
      // A waiter may have begun the next round already.
      if (this.#waiters.length > 0 && !this.#isFlushing) this.#settle();
    });
  }

  #settle(): void {
    if (this.#dirtyCount > 0) {
      this.#flush();
      return;
    }
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter(undefined);
  }

  #writeFrom(pages: Int32Array, from: number, count: number, done: IoEnded): void {
    if (from === count) {
      done(undefined);
      return;
    }
    const to = Math.min(count, from + CHUNK_PAGES);
    this.#writeChunk(pages.subarray(from, to), (error) => {
      if (error === undefined) {
        this.#writeFrom(pages, to, count, done);
        return;
      }
      // Pages of this chunk may or may not have been written; those behind it are still marked.
      for (let i = from; i < to; i++) this.#markDirty(pages[i]! * RECORDS_PER_PAGE);
      for (let i = to; i < count; i++) this.#dirty[this.#dirtyCount++] = pages[i]!;
      done(error);
    });
  }

  /** A copy of the pages is written: what changes meanwhile is never seen half. */
  #writeChunk(pages: Int32Array, done: IoEnded): void {
    for (let i = 0; i < pages.length; i++) {
      const page = pages[i]!;
      this.#isDirty[page] = 0;
      this.#isBehind[page] = 0;
      this.#chunk.set(this.#bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES), i * PAGE_BYTES);
    }
    this.counters.pagesWritten += pages.length;
    let running = 1;
    let failed: NodeJS.ErrnoException | undefined;
    const ended: IoEnded = (error) => {
      failed ??= error;
      if (--running === 0) done(failed);
    };
    for (let from = 0; from < pages.length; ) {
      let to = from + 1;
      while (to < pages.length && pages[to] === pages[to - 1]! + 1) to++;
      running++;
      this.counters.writes++;
      writeAll(this.#options.io, this.#options.fd, this.#chunk.subarray(from * PAGE_BYTES, to * PAGE_BYTES), (1 + pages[from]!) * PAGE_BYTES, ended);
      from = to;
    }
    ended(undefined);
  }
}
