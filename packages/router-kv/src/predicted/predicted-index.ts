// @hot
import type { OverlapColumns } from '../overlap.ts';
import { MARK_WORDS, NEWER, NONE, OLDER, RunTree, VALUE } from '../prefix/run-tree.ts';

export interface PredictedIndexOptions {
  /** Distinct blocks kept at most over all workers; prompts beyond are not predicted (counted). */
  readonly maxBlocks: number;
}

/** What is assumed of one worker. */
export interface PredictedWorker {
  /** A prediction is believed for this long: about 120,000 for workers without KV events, 5,000 on top of events. */
  readonly ttlMs: number;
  /** Blocks its cache holds; 0 = unknown, predictions end by time only. */
  readonly totalBlocks: number;
}

/** Slots looked at for old predictions per prompt that is routed. */
const SWEEP_SLOTS = 2;

/**
 * What workers will hold because prompts were sent there: for workers without KV events, and to bridge the time between routing a
 * prompt and its `stored` event, so that a burst of siblings goes to one worker.
 *
 * A prediction ends when its time is over or when the worker must have evicted the block: least recently routed first, and within
 * a chain from its end, so that prefixes stay unbroken. Both orders are one list per worker, oldest first: a chain is touched from
 * its end up to its first block, so a block is never older than what follows it. A mark's VALUE is the number of leading blocks
 * of its run that the worker holds; only the one at the old end of the list can be less than the run's length.
 */
export class PredictedIndex {
  readonly #options: PredictedIndexOptions;
  readonly #tree: RunTree;
  /** By mark. */
  #expiresAtMs: Float64Array;
  /** By slot. `#ttlMs` 0 = no such worker. */
  #ttlMs: Float64Array;
  #capacity: Float64Array;
  #held: Float64Array;
  #oldest: Int32Array;
  #newest: Int32Array;
  #cursor: number;
  #expired: number;
  #evicted: number;
  #dropped: number;

  constructor(options: PredictedIndexOptions) {
    this.#options = options;
    this.#tree = new RunTree({ cut: (upper, lower) => this.#cut(upper, lower) });
    this.#expiresAtMs = new Float64Array(64);
    this.#ttlMs = new Float64Array(32);
    this.#capacity = new Float64Array(32);
    this.#held = new Float64Array(32);
    this.#oldest = new Int32Array(32).fill(NONE);
    this.#newest = new Int32Array(32).fill(NONE);
    this.#cursor = 0;
    this.#expired = 0;
    this.#evicted = 0;
    this.#dropped = 0;
  }

  /** Distinct blocks, those whose time is over but that were not met yet included. */
  get size(): number {
    return this.#tree.blocks;
  }

  /** (worker, block) pairs forgotten because their time was over. */
  get expired(): number {
    return this.#expired;
  }

  /** (worker, block) pairs forgotten because the worker's cache would be full. */
  get evicted(): number {
    return this.#evicted;
  }

  /** Blocks not predicted because of `maxBlocks`. */
  get dropped(): number {
    return this.#dropped;
  }

  get memoryBytes(): number {
    return this.#tree.bytes + this.#expiresAtMs.byteLength;
  }

  /** Blocks predicted for a worker, as `size`. */
  held(slot: number): number {
    return this.#has(slot) ? this.#held[slot] : 0;
  }

  joined(slot: number, worker: PredictedWorker): void {
    this.left(slot);
    if (slot >= this.#ttlMs.length) this.#growSlots(slot + 1);
    this.#ttlMs[slot] = worker.ttlMs;
    this.#capacity[slot] = worker.totalBlocks > 0 ? worker.totalBlocks : Number.POSITIVE_INFINITY;
  }

  left(slot: number): void {
    this.cleared(slot);
    if (this.#has(slot)) this.#ttlMs[slot] = 0;
  }

  /** The worker said that its cache is empty. */
  cleared(slot: number): void {
    if (!this.#has(slot)) return;
    while (this.#oldest[slot] !== NONE) this.#remove(this.#oldest[slot], slot);
  }

  /** A prompt goes to the worker: it will hold these blocks, just used. */
  routed(slot: number, hashes: Int32Array, blocks: number, nowMs: number): void {
    if (!this.#has(slot)) return;
    this.#expire(slot, nowMs);
    this.#sweep(nowMs);
    if (this.#tree.blocks + blocks > this.#options.maxBlocks) {
      this.#dropped += blocks;
      return;
    }
    const tree = this.#tree;
    const expiresAtMs = nowMs + this.#ttlMs[slot];
    const end = tree.insert(hashes, Math.min(blocks, hashes.length >> 1));
    for (let run = end; run !== NONE; run = tree.parentOf(run)) {
      let mark = tree.mark(run, slot);
      if (mark === NONE) mark = this.#add(run, slot);
      else this.#unlink(mark, slot);
      const length = tree.lengthOf(run);
      this.#held[slot] += length - tree.marks[mark * MARK_WORDS + VALUE];
      tree.marks[mark * MARK_WORDS + VALUE] = length;
      this.#expiresAtMs[mark] = expiresAtMs;
      this.#linkBehind(mark, this.#newest[slot], slot);
    }
    this.#evict(slot);
  }

  /**
   * Merges into `out`, which holds what is known exactly: per worker the longer of the two prefixes. Predicted blocks count as on the
   * device; where both know blocks, at least the predicted number is on the device, taken from host, disk, object in this order.
   * Without an exact index, empty `out` with `begin(0)` first. Allocates nothing once `out` is large enough.
   */
  findOverlap(hashes: Int32Array, blocks: number, out: OverlapColumns, nowMs: number): void {
    const tree = this.#tree;
    if (out.total.length < this.#ttlMs.length) widen(out, this.#ttlMs.length);
    let above = NONE;
    let at = 0;
    while (at < blocks) {
      const run = tree.child(above, hashes, at);
      if (run === NONE) return;
      const shared = tree.match(run, hashes, at, blocks);
      for (let mark = tree.firstMark(run); mark !== NONE; mark = tree.nextMark(mark)) {
        if (this.#expiresAtMs[mark] <= nowMs) continue;
        raise(out, tree.slotOf(mark), at + Math.min(shared, tree.marks[mark * MARK_WORDS + VALUE]));
      }
      if (shared < tree.lengthOf(run)) return;
      at += shared;
      above = run;
    }
  }

  /** Forgets what is over on every worker. `routed` does it little by little; needed only to free memory while nothing is routed. */
  expire(nowMs: number): void {
    for (let slot = 0; slot < this.#ttlMs.length; slot++) this.#expire(slot, nowMs);
  }

  #expire(slot: number, nowMs: number): void {
    for (let mark = this.#oldest[slot]; mark !== NONE && this.#expiresAtMs[mark] <= nowMs; mark = this.#oldest[slot]) {
      this.#expired += this.#tree.marks[mark * MARK_WORDS + VALUE];
      this.#remove(mark, slot);
    }
  }

  /** Workers that get no prompts are met in turn. */
  #sweep(nowMs: number): void {
    for (let i = 0; i < SWEEP_SLOTS; i++) {
      this.#cursor = this.#cursor + 1 < this.#ttlMs.length ? this.#cursor + 1 : 0;
      this.#expire(this.#cursor, nowMs);
    }
  }

  /** What does not fit goes, oldest first; of the last mark only as many blocks as needed, from its end. */
  #evict(slot: number): void {
    while (this.#held[slot] > this.#capacity[slot]) {
      const mark = this.#oldest[slot];
      const at = mark * MARK_WORDS + VALUE;
      const value = this.#tree.marks[at];
      const excess = this.#held[slot] - this.#capacity[slot];
      if (value > excess) {
        const whole = Math.ceil(excess);
        this.#evicted += whole;
        this.#held[slot] -= whole;
        this.#tree.marks[at] = value - whole;
        if (this.#tree.marks[at] > 0) return;
      } else this.#evicted += value;
      this.#remove(mark, slot);
    }
  }

  #cut(upper: number, lower: number): void {
    const tree = this.#tree;
    const length = tree.lengthOf(upper);
    for (let mark = tree.firstMark(lower); mark !== NONE; ) {
      const next = tree.nextMark(mark);
      const slot = tree.slotOf(mark);
      const value = tree.marks[mark * MARK_WORDS + VALUE];
      const copy = this.#add(upper, slot);
      tree.marks[copy * MARK_WORDS + VALUE] = Math.min(value, length);
      this.#expiresAtMs[copy] = this.#expiresAtMs[mark];
      this.#linkBehind(copy, mark, slot);
      tree.marks[mark * MARK_WORDS + VALUE] = value - Math.min(value, length);
      if (value <= length) this.#remove(mark, slot);
      mark = next;
    }
  }

  #add(run: number, slot: number): number {
    const mark = this.#tree.addMark(run, slot);
    if (mark >= this.#expiresAtMs.length) {
      const expiresAtMs = new Float64Array(this.#expiresAtMs.length * 2);
      expiresAtMs.set(this.#expiresAtMs);
      this.#expiresAtMs = expiresAtMs;
    }
    return mark;
  }

  #remove(mark: number, slot: number): void {
    this.#held[slot] -= this.#tree.marks[mark * MARK_WORDS + VALUE];
    this.#unlink(mark, slot);
    this.#tree.removeMark(mark);
  }

  /** `before` NONE = as the oldest. */
  #linkBehind(mark: number, before: number, slot: number): void {
    const marks = this.#tree.marks;
    const after = before === NONE ? this.#oldest[slot] : marks[before * MARK_WORDS + NEWER];
    marks[mark * MARK_WORDS + OLDER] = before;
    marks[mark * MARK_WORDS + NEWER] = after;
    if (before === NONE) this.#oldest[slot] = mark;
    else marks[before * MARK_WORDS + NEWER] = mark;
    if (after === NONE) this.#newest[slot] = mark;
    else marks[after * MARK_WORDS + OLDER] = mark;
  }

  #unlink(mark: number, slot: number): void {
    const marks = this.#tree.marks;
    const older = marks[mark * MARK_WORDS + OLDER];
    const newer = marks[mark * MARK_WORDS + NEWER];
    if (older === NONE) this.#oldest[slot] = newer;
    else marks[older * MARK_WORDS + NEWER] = newer;
    if (newer === NONE) this.#newest[slot] = older;
    else marks[newer * MARK_WORDS + OLDER] = older;
  }

  #has(slot: number): boolean {
    return slot >= 0 && slot < this.#ttlMs.length && this.#ttlMs[slot] > 0;
  }

  #growSlots(slots: number): void {
    const before = this.#ttlMs.length;
    const capacity = Math.max(slots, before * 2);
    const grow = (column: Float64Array): Float64Array => {
      const grown = new Float64Array(capacity);
      grown.set(column);
      return grown;
    };
    const growList = (column: Int32Array): Int32Array => {
      const grown = new Int32Array(capacity).fill(NONE);
      grown.set(column);
      return grown;
    };
    this.#ttlMs = grow(this.#ttlMs);
    this.#capacity = grow(this.#capacity);
    this.#held = grow(this.#held);
    this.#oldest = growList(this.#oldest);
    this.#newest = growList(this.#newest);
  }
}

/** The worker holds at least `blocks` leading blocks on its device. */
function raise(out: OverlapColumns, slot: number, blocks: number): void {
  const total = out.total[slot];
  if (total === 0) out.found[out.count++] = slot;
  if (blocks > total) out.total[slot] = blocks;
  let missing = blocks - (total - out.host[slot] - out.disk[slot] - out.object[slot]) - Math.max(0, blocks - total);
  if (missing <= 0) return;
  missing -= lower(out.host, slot, missing);
  missing -= lower(out.disk, slot, missing);
  lower(out.object, slot, missing);
}

/** Makes room and keeps what is there (`begin` empties). */
function widen(out: OverlapColumns, slots: number): void {
  const grow = (column: Int32Array): Int32Array => {
    const grown = new Int32Array(slots);
    grown.set(column);
    return grown;
  };
  out.total = grow(out.total);
  out.host = grow(out.host);
  out.disk = grow(out.disk);
  out.object = grow(out.object);
  out.found = grow(out.found);
}

function lower(column: Int32Array, slot: number, by: number): number {
  const taken = Math.min(column[slot], by);
  column[slot] -= taken;
  return taken;
}
