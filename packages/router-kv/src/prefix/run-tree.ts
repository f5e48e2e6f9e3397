// @hot
import { U64Map } from '@armature/tokens';
import { HashSlabs, SLAB_HASHES } from './hash-slabs.ts';

export const NONE = -1;

// Words of a run.
const PARENT = 0;
const START = 1;
const LENGTH = 2;
/** Where its hashes are. */
const ADDRESS = 3;
/** Its first mark. */
const MARKS = 4;
const RUN_WORDS = 8;

// Words of a mark. VALUE, OLDER and NEWER belong to the tree's owner.
const RUN = 0;
const SLOT = 1;
const NEXT = 2;
const PREVIOUS = 3;
export const VALUE = 4;
export const OLDER = 5;
export const NEWER = 6;
export const MARK_WORDS = 8;

/** Told when a run is cut: `upper` is new and holds the first blocks of what was `lower`; it needs marks like those of `lower`. */
export interface RunOwner {
  cut(upper: number, lower: number): void;
}

/**
 * Block chains of many workers as a tree: a run is a stretch of consecutive blocks without a branch. Equal sequence hashes mean
 * equal prefixes, so a chain is found by one table look-up and one comparison per run (a bisection where it leaves one), and
 * what is known of a worker is kept per (run, worker), in marks, rather than per block.
 *
 *     run 0  [b0 b1 b2 b3]  marks: worker 3, worker 7
 *     ├ run 1  [b4 … b99]   marks: worker 3
 *     └ run 2  [c4 c5]      marks: worker 7
 *
 * A worker that has a mark on a run has one on every run above it; a run without marks does not exist. Owners keep to that:
 * after `insert` they mark every run from the one returned up to the root, and they take marks away bottom first.
 *
 * Hashes that are no chain (a hash twice, one block after two different ones) cannot do harm: what does not fit is left out of
 * the tree (`covered` says how much is in, `conflicts` counts).
 */
export class RunTree {
  /** Marks, `MARK_WORDS` words each; replaced when it grows. */
  marks: Int32Array;
  /** Blocks that are in the tree after the last `insert`. */
  covered: number;
  readonly #owner: RunOwner;
  readonly #slabs: HashSlabs;
  /** First hash → run. */
  readonly #runOf: U64Map;
  /** (run, slot) → mark. */
  readonly #markOf: U64Map;
  #runs: Int32Array;
  #freeRun: number;
  #nextRun: number;
  #freeMark: number;
  #nextMark: number;
  #blocks: number;
  #conflicts: number;

  constructor(owner: RunOwner) {
    this.#owner = owner;
    this.#slabs = new HashSlabs();
    this.#runOf = new U64Map(64);
    this.#markOf = new U64Map(64);
    this.#runs = new Int32Array(64 * RUN_WORDS);
    this.marks = new Int32Array(64 * MARK_WORDS);
    this.covered = 0;
    this.#freeRun = NONE;
    this.#nextRun = 0;
    this.#freeMark = NONE;
    this.#nextMark = 0;
    this.#blocks = 0;
    this.#conflicts = 0;
  }

  /** Distinct blocks. */
  get blocks(): number {
    return this.#blocks;
  }

  get runs(): number {
    return this.#runOf.size;
  }

  get markCount(): number {
    return this.#markOf.size;
  }

  /** Chains that could not be kept whole because their hashes contradict another's. */
  get conflicts(): number {
    return this.#conflicts;
  }

  get bytes(): number {
    return this.#slabs.bytes + this.#runOf.memoryBytes + this.#markOf.memoryBytes + this.#runs.byteLength + this.marks.byteLength;
  }

  parentOf(run: number): number {
    return this.#runs[run * RUN_WORDS + PARENT];
  }

  /** Number of its first block in the chain. */
  startOf(run: number): number {
    return this.#runs[run * RUN_WORDS + START];
  }

  lengthOf(run: number): number {
    return this.#runs[run * RUN_WORDS + LENGTH];
  }

  firstMark(run: number): number {
    return this.#runs[run * RUN_WORDS + MARKS];
  }

  nextMark(mark: number): number {
    return this.marks[mark * MARK_WORDS + NEXT];
  }

  slotOf(mark: number): number {
    return this.marks[mark * MARK_WORDS + SLOT];
  }

  runOf(mark: number): number {
    return this.marks[mark * MARK_WORDS + RUN];
  }

  /** The run below `parent` (NONE: at the root) that begins with block `at` of the chain, or NONE. */
  child(parent: number, hashes: Int32Array, at: number): number {
    const run = this.#runOf.get(hashes[at * 2], hashes[at * 2 + 1]);
    return run !== NONE && this.#runs[run * RUN_WORDS + PARENT] === parent ? run : NONE;
  }

  /** How many blocks of a run found by `child` the chain shares, at least 1. */
  match(run: number, hashes: Int32Array, at: number, blocks: number): number {
    const address = this.#runs[run * RUN_WORDS + ADDRESS];
    const words = this.#slabs.slab(address);
    const base = this.#slabs.offset(address) - at * 2;
    const most = at + Math.min(this.#runs[run * RUN_WORDS + LENGTH], blocks - at);
    if (isSame(words, base, hashes, most - 1)) return most - at;
    let low = at + 1;
    let high = most - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isSame(words, base, hashes, middle)) low = middle + 1;
      else high = middle;
    }
    return low - at;
  }

  /** Makes the chain end at the end of a run and returns it, NONE when nothing is covered. See `covered`. */
  insert(hashes: Int32Array, blocks: number): number {
    let above = NONE;
    let at = 0;
    while (at < blocks) {
      let run = this.child(above, hashes, at);
      if (run === NONE) run = this.#create(above, hashes, at, Math.min(blocks - at, SLAB_HASHES));
      else {
        const shared = this.match(run, hashes, at, blocks);
        if (shared < this.lengthOf(run)) run = this.#cut(run, shared);
      }
      if (run === NONE) {
        this.#conflicts++;
        break;
      }
      at += this.lengthOf(run);
      above = run;
    }
    this.covered = at;
    return above;
  }

  /** The slot's mark on a run, or NONE. */
  mark(run: number, slot: number): number {
    return this.#markOf.get(run, slot);
  }

  /** A new mark, VALUE 0. */
  addMark(run: number, slot: number): number {
    let mark = this.#freeMark;
    if (mark === NONE) {
      mark = this.#nextMark++;
      if ((mark + 1) * MARK_WORDS > this.marks.length) this.marks = doubled(this.marks);
    } else this.#freeMark = this.marks[mark * MARK_WORDS + NEXT];
    const marks = this.marks;
    const at = mark * MARK_WORDS;
    const first = this.#runs[run * RUN_WORDS + MARKS];
    marks[at + RUN] = run;
    marks[at + SLOT] = slot;
    marks[at + NEXT] = first;
    marks[at + PREVIOUS] = NONE;
    marks[at + VALUE] = 0;
    marks[at + OLDER] = NONE;
    marks[at + NEWER] = NONE;
    if (first !== NONE) marks[first * MARK_WORDS + PREVIOUS] = mark;
    this.#runs[run * RUN_WORDS + MARKS] = mark;
    this.#markOf.set(run, slot, mark);
    return mark;
  }

  /** The last mark takes its run along. */
  removeMark(mark: number): void {
    const marks = this.marks;
    const at = mark * MARK_WORDS;
    const run = marks[at + RUN];
    const next = marks[at + NEXT];
    const previous = marks[at + PREVIOUS];
    this.#markOf.delete(run, marks[at + SLOT]);
    if (next !== NONE) marks[next * MARK_WORDS + PREVIOUS] = previous;
    if (previous !== NONE) marks[previous * MARK_WORDS + NEXT] = next;
    else this.#runs[run * RUN_WORDS + MARKS] = next;
    marks[at + NEXT] = this.#freeMark;
    this.#freeMark = mark;
    if (next === NONE && previous === NONE) this.#release(run);
  }

  /** NONE when another run begins with the same hash. */
  #create(above: number, hashes: Int32Array, at: number, length: number): number {
    const lo = hashes[at * 2];
    const hi = hashes[at * 2 + 1];
    if (this.#runOf.has(lo, hi)) return NONE;
    const run = this.#newRun(above, at, length, this.#slabs.store(hashes, at, length));
    this.#runOf.set(lo, hi, run);
    this.#blocks += length;
    return run;
  }

  /** Cuts a run behind its first `length` blocks; returns the upper part. The lower keeps the number, so what ends there still does. */
  #cut(lower: number, length: number): number {
    const at = lower * RUN_WORDS;
    const address = this.#runs[at + ADDRESS];
    const words = this.#slabs.slab(address);
    const first = this.#slabs.offset(address);
    const lo = words[first + length * 2];
    const hi = words[first + length * 2 + 1];
    if (this.#runOf.has(lo, hi)) return NONE;
    const from = first >> 1;
    const rest = this.#runs[at + LENGTH] - length;
    const start = this.#runs[at + START];
    const upper = this.#newRun(this.#runs[at + PARENT], start, length, this.#slabs.store(words, from, length));
    const runs = this.#runs;
    runs[at + ADDRESS] = this.#slabs.store(words, from + length, rest);
    runs[at + PARENT] = upper;
    runs[at + START] = start + length;
    runs[at + LENGTH] = rest;
    this.#runOf.set(words[first], words[first + 1], upper);
    this.#runOf.set(lo, hi, lower);
    this.#slabs.free(address);
    this.#owner.cut(upper, lower);
    return upper;
  }

  #newRun(above: number, start: number, length: number, address: number): number {
    let run = this.#freeRun;
    if (run === NONE) {
      run = this.#nextRun++;
      if ((run + 1) * RUN_WORDS > this.#runs.length) this.#runs = doubled(this.#runs);
    } else this.#freeRun = this.#runs[run * RUN_WORDS + PARENT];
    const at = run * RUN_WORDS;
    this.#runs[at + PARENT] = above;
    this.#runs[at + START] = start;
    this.#runs[at + LENGTH] = length;
    this.#runs[at + ADDRESS] = address;
    this.#runs[at + MARKS] = NONE;
    return run;
  }

  #release(run: number): void {
    const at = run * RUN_WORDS;
    const address = this.#runs[at + ADDRESS];
    const words = this.#slabs.slab(address);
    const first = this.#slabs.offset(address);
    this.#runOf.delete(words[first], words[first + 1]);
    this.#blocks -= this.#runs[at + LENGTH];
    this.#slabs.free(address);
    this.#runs[at + PARENT] = this.#freeRun;
    this.#freeRun = run;
  }
}

function isSame(words: Int32Array, base: number, hashes: Int32Array, block: number): boolean {
  return words[base + block * 2] === hashes[block * 2] && words[base + block * 2 + 1] === hashes[block * 2 + 1];
}

function doubled(array: Int32Array): Int32Array {
  const twice = new Int32Array(array.length * 2);
  twice.set(array);
  return twice;
}
