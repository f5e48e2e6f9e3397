// @hot
import { TIER_COUNT, Tier } from '../overlap.ts';
import type { OverlapColumns } from '../overlap.ts';
import { HashTable, MAX_SLOT_BITS } from './hash-table.ts';
import { Lanes, NO_LANE } from './lanes.ts';
import { OverlapQuery } from './overlap-query.ts';
import { CHUNK, Run, Runs } from './runs.ts';
import { statsOf } from './stats.ts';
import type { PrefixIndexStats } from './stats.ts';
import { Sweep } from './sweep.ts';
import { EMPTY_SET, WorkerSets } from './worker-sets.ts';

export const DEFAULT_MAX_BLOCKS = 1 << 24;

const NO_PARENT = new Int32Array(0);
/** Slots looked at by each write while a sweep is due, and at once by `clear`: 0.1 ms or less. */
const SLICE = 512;
/** Removals of more blocks than this read the table ahead. */
const FEW = 2;

/** Called per block. */
export type BlockVisitor = (lo: number, hi: number, tier: number) => void;

/**
 * Which workers hold which blocks in which tiers, for blocks named by 64-bit sequence hashes (interleaved lo, hi words). A
 * worker is a small slot number given by the caller. Flat columns only: no object per block, no copy of a large column, no
 * allocation in a query. Layout, invariants and measurements: docs/kv-index.md.
 */
export class PrefixIndex {
  readonly #maxBlocks: number;
  readonly #table: HashTable;
  readonly #runs: Runs;
  readonly #sets: WorkerSets;
  readonly #lanes: Lanes;
  readonly #query: OverlapQuery;
  readonly #sweep: Sweep;
  #size: number;
  #dropped: number;
  /** Slot of the block that `#append` wrote last. */
  #tail: number;

  /** At most `maxBlocks` distinct blocks; further ones are not recorded (`droppedBlocks`), so overlap is under-reported. */
  constructor(maxBlocks: number = DEFAULT_MAX_BLOCKS) {
    this.#maxBlocks = Math.max(1, Math.min(maxBlocks, DEFAULT_MAX_BLOCKS));
    // Chains of single blocks take a chunk each.
    const slotBits = Math.min(MAX_SLOT_BITS, Math.ceil(Math.log2(this.#maxBlocks * CHUNK + 2 * CHUNK)));
    this.#table = new HashTable(slotBits);
    this.#runs = new Runs(this.#table, slotBits);
    this.#sets = new WorkerSets();
    this.#lanes = new Lanes();
    this.#query = new OverlapQuery(this.#table, this.#runs, this.#sets, this.#lanes);
    this.#sweep = new Sweep(this.#runs, this.#sets, this.#lanes);
    this.#size = 0;
    this.#dropped = 0;
    this.#tail = 0;
  }

  /** Distinct blocks; those of forgotten workers count until the sweep has come by. */
  get size(): number {
    return this.#size;
  }

  /** Blocks not recorded because the index was full. */
  get droppedBlocks(): number {
    return this.#dropped;
  }

  /** A forgotten worker's blocks still take room. */
  get isSweeping(): boolean {
    return this.#lanes.closedCount !== 0;
  }

  /** Blocks of a slot, once per tier. */
  held(slot: number): number {
    let blocks = 0;
    for (let tier = 0; tier < TIER_COUNT; tier++) {
      const lane = this.#lanes.laneFor(slot, tier);
      if (lane !== NO_LANE) blocks += this.#lanes.held[lane];
    }
    return blocks;
  }

  /** Sizes the columns for this many blocks, which halves the cost of storing them. A hint; may be wrong either way. */
  reserve(blocks: number): void {
    const expected = Math.min(blocks, this.#maxBlocks);
    this.#runs.reserve(expected + CHUNK);
    this.#table.presize(expected);
  }

  /** Results of queries cover the slot, whether or not it holds anything. */
  reserveSlot(slot: number): void {
    this.#lanes.reserveSlot(slot);
  }

  has(slot: number, tier: number, lo: number, hi: number): boolean {
    const lane = this.#lanes.laneFor(slot, tier);
    const at = this.#table.find(lo, hi);
    return lane !== NO_LANE && at !== 0 && this.#sets.has(this.#runs.setOf[at], lane);
  }

  /** For each slot the leading blocks it holds without a hole, by best tier, of the `blocks` blocks of a chain that begin with block `from` of `hashes`. */
  findOverlap(hashes: Int32Array, blocks: number, out: OverlapColumns, from = 0): void {
    this.#query.run(hashes, blocks, out, from);
  }

  /**
   * A slot holds `blocks` blocks that follow one another, the first one following `parent` (2 words, or empty). What is held
   * already stays. A wrong parent or order costs time, not correctness.
   */
  store(slot: number, tier: number, hashes: Int32Array, blocks: number, parent: Int32Array = NO_PARENT): void {
    if (blocks <= 0) return;
    const lane = this.#laneFor(slot, tier);
    this.#table.makeRoom(blocks);
    if (this.#lanes.closedCount !== 0) this.sweep(SLICE);
    let previous = 0;
    let isAhead = false;
    for (let k = 0; k < blocks; ) {
      const known = this.#table.find(hashes[2 * k], hashes[2 * k + 1]);
      if (known !== 0) {
        const count = this.#knownFrom(known, hashes, k, blocks);
        this.#toggle(known, known + count, lane, true);
        if (previous !== 0) this.#runs.records[this.#runs.runOf(previous) + Run.Successor] = known;
        previous = known + count - 1;
        k += count;
        continue;
      }
      if (!isAhead) this.#table.touch(hashes, k, blocks);
      isAhead = true;
      if (k === 0 && parent.length === 2) previous = this.#table.find(parent[0], parent[1]);
      const appended = this.#append(previous, hashes, k, blocks, lane);
      previous = appended === 0 ? 0 : this.#tail;
      if (appended === 0) this.#dropped++;
      k += Math.max(1, appended);
    }
  }

  /** A slot no longer holds these blocks in this tier, whatever their order; stretches in or against chain order are quickest. */
  remove(slot: number, tier: number, hashes: Int32Array, blocks: number): void {
    const lane = this.#lanes.laneFor(slot, tier);
    if (this.#lanes.closedCount !== 0) this.sweep(SLICE);
    if (lane === NO_LANE || this.#lanes.held[lane] === 0) return;
    const { records } = this.#runs;
    const stored = this.#table.hashes;
    if (blocks > FEW) this.#table.touch(hashes, 0, blocks);
    let run = 0; // being worked on
    for (let k = 0; k < blocks; ) {
      const at = this.#table.find(hashes[2 * k], hashes[2 * k + 1]);
      k++;
      if (at === 0) continue;
      const of = this.#runs.runOf(at);
      if (of !== run && run !== 0) this.#runs.trim(run);
      run = of;
      let from = at;
      let to = at + 1;
      const end = records[run + Run.End];
      while (k < blocks && from > run && stored[2 * from - 2] === hashes[2 * k] && stored[2 * from - 1] === hashes[2 * k + 1]) {
        from--;
        k++;
      }
      if (from === at) {
        while (k < blocks && to < end && stored[2 * to] === hashes[2 * k] && stored[2 * to + 1] === hashes[2 * k + 1]) {
          to++;
          k++;
        }
      }
      this.#toggle(from, to, lane, false);
    }
    if (run !== 0) this.#runs.trim(run);
  }

  /** Forgets everything a slot holds: gone from queries now, from memory by slices of later writes. The slot may be used again at once. */
  clear(slot: number): void {
    for (let tier = TIER_COUNT - 1; tier >= Tier.Device; tier--) {
      const lane = this.#lanes.laneFor(slot, tier);
      if (lane !== NO_LANE) this.#lanes.close(lane);
    }
    if (this.#lanes.closedCount !== 0) this.sweep(SLICE);
  }

  /** Forgets what a slot holds in one tier. */
  clearTier(slot: number, tier: number): void {
    const lane = this.#lanes.laneFor(slot, tier);
    if (lane === NO_LANE) return;
    this.#lanes.close(lane);
    // Queries name workers by their device lanes.
    if (tier === Tier.Device && this.#holdsLower(slot)) this.#laneFor(slot, Tier.Device);
    this.sweep(SLICE);
  }

  /** Gives back memory of forgotten workers, looking at about `budget` arena slots. */
  sweep(budget: number): void {
    this.#size -= this.#sweep.advance(budget);
  }

  /** Every block of a slot, once per tier, in no order. Looks at the whole index: for tools. Must not change it. */
  blocksOf(slot: number, visit: BlockVisitor): void {
    const { records, setOf } = this.#runs;
    const stored = this.#table.hashes;
    for (let run = CHUNK; run < this.#runs.top; run += CHUNK) {
      if (!this.#runs.isRun(run)) continue;
      for (let at = run; at < records[run + Run.End]; at++) {
        for (let tier = 0; tier < TIER_COUNT; tier++) {
          const lane = this.#lanes.laneFor(slot, tier);
          if (lane !== NO_LANE && this.#sets.has(setOf[at], lane)) visit(stored[2 * at], stored[2 * at + 1], tier);
        }
      }
    }
  }

  stats(): PrefixIndexStats {
    return statsOf(this.#table, this.#runs, this.#sets, this.#lanes, this.#size);
  }

  #holdsLower(slot: number): boolean {
    for (let tier = Tier.Device + 1; tier < TIER_COUNT; tier++) if (this.#lanes.laneFor(slot, tier) !== NO_LANE) return true;
    return false;
  }

  #laneFor(slot: number, tier: number): number {
    const lane = this.#lanes.laneFor(slot, tier);
    if (lane !== NO_LANE) return lane;
    // Queries name workers by their device lanes.
    if (tier !== Tier.Device) this.#laneFor(slot, Tier.Device);
    if (this.#lanes.isFull) {
      this.#lanes.grow();
      this.#sets.widen(this.#lanes.words);
    }
    const opened = this.#lanes.openLane(slot, tier);
    this.#sets.openLane(opened);
    return opened;
  }

  /** How many of `hashes[k ..]` are the blocks from slot `at` on, the first being known to be. */
  #knownFrom(at: number, hashes: Int32Array, k: number, blocks: number): number {
    const stored = this.#table.hashes;
    const stop = Math.min(this.#runs.records[this.#runs.runOf(at) + Run.End], at + blocks - k);
    let to = at + 1;
    for (let x = 2 * (k + 1); to < stop && stored[2 * to] === hashes[x] && stored[2 * to + 1] === hashes[x + 1]; x += 2) to++;
    return to - at;
  }

  /** Enters unknown blocks from `hashes[k]` on, behind slot `previous` (0 = none) if there is room; how many, 0 = the index is full. */
  #append(previous: number, hashes: Int32Array, k: number, blocks: number, lane: number): number {
    const runs = this.#runs;
    const room = Math.min(blocks - k, this.#maxBlocks - this.#size);
    if (room <= 0 || this.#table.isFull) return 0;
    let run = previous === 0 ? 0 : runs.runOf(previous);
    let at = previous + 1;
    const isBehind = run !== 0 && at === runs.records[run + Run.End];
    if (!isBehind || (at === runs.records[run + Run.Limit] && !runs.extend(run, blocks - k))) {
      const before = run;
      run = runs.allocate(blocks - k, isBehind ? before : 0);
      if (run === 0) return 0;
      if (before !== 0) runs.records[before + Run.Successor] = run;
      at = run;
    }
    const { records, setOf } = runs;
    const single = this.#sets.single(lane);
    const first = at;
    const stop = Math.min(records[run + Run.Limit], at + room);
    for (let x = 2 * k; at < stop && this.#table.place(hashes[x], hashes[x + 1], at) === 0; x += 2) setOf[at++] = single;
    const count = at - first;
    if (count === 0) {
      if (first === run) runs.trim(run);
      return 0;
    }
    if (first === run) records[run + Run.Set] = single;
    if (records[run + Run.Same] === first && records[run + Run.Set] === single) records[run + Run.Same] = at;
    records[run + Run.End] = at;
    records[run + Run.Live] += count;
    this.#sets.move(EMPTY_SET, single, count);
    this.#size += count;
    this.#lanes.held[lane] += count;
    this.#tail = at - 1;
    return count;
  }

  /**
   * Slots `from .. to`, all of one run, are held through `lane` from now on, or no longer. Sets change in groups: a stretch of
   * blocks with one set costs one look-up of the next set.
   */
  #toggle(from: number, to: number, lane: number, isHeld: boolean): void {
    const { records, setOf } = this.#runs;
    const sets = this.#sets;
    const run = this.#runs.runOf(from);
    for (let at = from; at < to; ) {
      const set = setOf[at];
      let end = at + 1;
      while (end < to && setOf[end] === set) end++;
      if (sets.has(set, lane) !== isHeld) this.#toggleGroup(at, end, lane, isHeld);
      if (at === run && (setOf[run] !== set || end > records[run + Run.Same])) {
        records[run + Run.Set] = setOf[run];
        records[run + Run.Same] = end;
      } else if (at < records[run + Run.Same] && setOf[at] !== set) records[run + Run.Same] = at;
      at = end;
    }
  }

  #toggleGroup(from: number, to: number, lane: number, isHeld: boolean): void {
    const { records, setOf } = this.#runs;
    const run = this.#runs.runOf(from);
    const set = setOf[from];
    const count = to - from;
    if (set === EMPTY_SET && this.#size + count > this.#maxBlocks) {
      this.#dropped += count;
      return;
    }
    const next = this.#sets.toggled(set, lane);
    for (let at = from; at < to; at++) setOf[at] = next;
    this.#sets.move(set, next, count);
    const change = (set === EMPTY_SET ? count : 0) - (next === EMPTY_SET ? count : 0);
    records[run + Run.Live] += change;
    this.#size += change;
    this.#lanes.held[lane] += isHeld ? count : -count;
  }
}
