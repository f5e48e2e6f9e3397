// @hot
import { TIER_COUNT, Tier } from '../overlap.ts';
import type { OverlapColumns } from '../overlap.ts';
import type { HashTable } from './hash-table.ts';
import { NO_LANE } from './lanes.ts';
import type { Lanes } from './lanes.ts';
import { CHUNK, CHUNK_OF, DIVERGENCE, Run } from './runs.ts';
import type { Runs } from './runs.ts';
import { EMPTY_SET } from './worker-sets.ts';
import type { WorkerSets } from './worker-sets.ts';

/** `#workers` is what holds, not the number of a set. */
const IN_WORDS = -1;
const NOT_BEGUN = -2;

/**
 * Finds what each worker holds of a chain. Goes from run to run; the workers that hold every block so far shrink at each
 * block whose set differs from the one before, and whoever drops out is done. No block is passed over unless its run is known
 * to have one set throughout, so holes are seen wherever they are.
 */
export class OverlapQuery {
  readonly #table: HashTable;
  readonly #runs: Runs;
  readonly #sets: WorkerSets;
  readonly #lanes: Lanes;
  /** Workers that hold all blocks so far, by the bit of their device lane. */
  #workers: Int32Array;
  /** The same as the number of the only set met so far, or IN_WORDS. */
  #onlySet: number;
  /** Scratch: holders of a block in any tier. */
  #holders: Int32Array;
  #remaining: number;

  constructor(table: HashTable, runs: Runs, sets: WorkerSets, lanes: Lanes) {
    this.#table = table;
    this.#runs = runs;
    this.#sets = sets;
    this.#lanes = lanes;
    this.#workers = new Int32Array(1);
    this.#holders = new Int32Array(1);
    this.#onlySet = 0;
    this.#remaining = 0;
  }

  /** See `PrefixIndex.findOverlap`. */
  run(hashes: Int32Array, blocks: number, out: OverlapColumns, from: number): void {
    out.begin(this.#lanes.slots);
    const { records, setOf } = this.#runs;
    const stored = this.#table.hashes;
    const stopAt = from + blocks;
    let depth = from; // next block of the query
    let set = NOT_BEGUN; // set of the last block
    let since = from; // where it began
    let run = 0; // record 0 is empty: it has no successor
    while (depth < stopAt) {
      let slot = records[run + Run.Successor];
      if (!same(stored, slot, hashes, depth) || isZero(hashes, depth)) {
        slot = this.#find(hashes, depth, run);
        if (slot === 0) break;
      }
      run = records[(slot & CHUNK_OF) + Run.Head];
      let stop = Math.min(records[run + Run.End], slot + stopAt - depth);
      // The usual run was walked before, agrees to its end and has one set throughout: two comparisons and no column is read.
      if (stop > records[run + Run.Proven] || !same(stored, stop - 1, hashes, depth + stop - slot - 1)) stop = slot + this.#agreed(hashes, depth, slot, run, stop - slot);
      const sameStop = records[run + Run.Same];
      if (stop <= sameStop && records[run + Run.Set] === set) {
        depth += stop - slot;
        continue;
      }
      for (let at = slot; at < stop; ) {
        const next = at < sameStop ? records[run + Run.Set] : setOf[at];
        if (next !== set) {
          const here = depth + at - slot;
          if (set !== NOT_BEGUN) this.#fetch(hashes, depth + stop - slot, stopAt);
          this.#enter(set, next, here - since, here - from, out);
          if (this.#remaining === 0) return;
          set = next;
          since = here;
        }
        at = at < sameStop ? sameStop : at + 1;
        while (at < stop && setOf[at] === set) at++;
      }
      if (since <= depth) this.#noteSame(run, slot, stop);
      depth += stop - slot;
    }
    if (set !== NOT_BEGUN) this.#enter(set, EMPTY_SET, depth - since, depth - from, out);
  }

  /** Blocks `slot .. stop` of a run turned out to have one set. */
  #noteSame(run: number, slot: number, stop: number): void {
    const records = this.#runs.records;
    if (slot < records[run + Run.Same] && records[run + Run.Same] < stop) records[run + Run.Same] = stop;
  }

  /** Slot of the block at `depth` by the table, 0 when absent; noted as what follows `run`. */
  #find(hashes: Int32Array, depth: number, run: number): number {
    const slot = this.#table.find(hashes[2 * depth], hashes[2 * depth + 1]);
    if (slot !== 0 && run !== 0) this.#runs.records[run + Run.Successor] = slot;
    return slot;
  }

  /** Who drops out takes a while to write down: the run at `depth` is fetched meanwhile (deep row: 0.8 → 0.5 us). */
  #fetch(hashes: Int32Array, depth: number, stopAt: number): void {
    if (depth >= stopAt) return;
    const slot = this.#table.peek(hashes[2 * depth], hashes[2 * depth + 1]);
    this.#table.sink ^= this.#runs.records[slot & CHUNK_OF];
  }

  /**
   * Blocks from `depth` on, `most` at most, that are those from `slot` on, the first being known to be. Where earlier queries proved that the
   * slots are one chain, the last block decides: a sequence hash names its whole prefix. Beyond, every block is compared.
   */
  #agreed(hashes: Int32Array, depth: number, slot: number, run: number, most: number): number {
    const records = this.#runs.records;
    const stored = this.#table.hashes;
    const proven = records[run + Run.Proven];
    let agreed = 1;
    if (slot < proven) {
      agreed = Math.min(most, proven - slot);
      if (!same(stored, slot + agreed - 1, hashes, depth + agreed - 1)) return this.#divergence(hashes, depth, slot, run, agreed);
      if (agreed === most) return agreed;
    }
    let a = 2 * (slot + agreed);
    let b = 2 * (depth + agreed);
    while (agreed < most && stored[a] === hashes[b] && stored[a + 1] === hashes[b + 1]) {
      agreed++;
      a += 2;
      b += 2;
    }
    // A proof goes on where the last one ended: it must contain the step from block `proven - 1` to block `proven`.
    if ((slot < proven || slot === run) && slot + agreed > proven) records[run + Run.Proven] = slot + agreed;
    return agreed;
  }

  /** As `#agreed`, when the last of `limit` proven blocks differs: where the last query left the run, else by bisection. */
  #divergence(hashes: Int32Array, depth: number, slot: number, run: number, limit: number): number {
    const stored = this.#table.hashes;
    const records = this.#runs.records;
    let low = 1; // the blocks before it agree
    let high = limit - 1; // this one does not
    const isLong = records[run + Run.Limit] - run > CHUNK;
    const guess = isLong ? records[run + DIVERGENCE] - slot : 0;
    if (guess > low && guess <= high) {
      if (same(stored, slot + guess - 1, hashes, depth + guess - 1)) low = guess;
      else high = guess - 1;
    }
    if (low === guess && low < high) {
      if (same(stored, slot + low, hashes, depth + low)) low++;
      else high = low;
    }
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (same(stored, slot + middle, hashes, depth + middle)) low = middle + 1;
      else high = middle;
    }
    if (isLong) records[run + DIVERGENCE] = slot + low;
    return low;
  }

  /** At `depth` the holders change from `before`, theirs for `length` blocks, to `next`; the first call begins (before = NOT_BEGUN). */
  #enter(before: number, next: number, length: number, depth: number, out: OverlapColumns): void {
    if (this.#lanes.lowerCount !== 0) {
      this.#enterTiered(before, next, length, depth, out);
      return;
    }
    const rows = this.#sets.rows;
    const words = this.#sets.words;
    const open = this.#lanes.device;
    if (this.#workers.length < words) this.#widen(words);
    if (before === NOT_BEGUN) {
      // A set of closed lanes only is as good as empty; else its row is not copied until another set comes.
      let some = 0;
      for (let j = 0; j < words; j++) some |= rows[next * words + j] & open[j];
      this.#remaining = some;
      this.#onlySet = next;
      return;
    }
    const workers = this.#workers;
    const only = this.#onlySet;
    let remaining = 0;
    for (let j = 0; j < words; j++) {
      const had = only === IN_WORDS ? workers[j] : rows[only * words + j] & open[j];
      if (had === 0) {
        workers[j] = 0;
        continue;
      }
      const has = had & rows[next * words + j];
      workers[j] = has;
      remaining |= has;
      if (had !== has) this.#emit(had ^ has, j << 5, depth, out);
    }
    this.#onlySet = IN_WORDS;
    this.#remaining = remaining;
  }

  /** As `#enter` where lower tiers are in use: a worker holds a block when any of its lanes does. */
  #enterTiered(before: number, next: number, length: number, depth: number, out: OverlapColumns): void {
    const words = this.#sets.words;
    if (this.#workers.length < words) this.#widen(words);
    const workers = this.#workers;
    const holders = this.#holders;
    if (before !== NOT_BEGUN) this.#countLower(before, length, out);
    this.#findHolders(next);
    let remaining = 0;
    for (let j = 0; j < words; j++) {
      const had = before === NOT_BEGUN ? holders[j] : workers[j];
      const has = had & holders[j];
      workers[j] = has;
      remaining |= has;
      if (had !== has) this.#emit(had ^ has, j << 5, depth, out);
    }
    this.#remaining = remaining;
  }

  #widen(words: number): void {
    this.#workers = new Int32Array(words);
    this.#holders = new Int32Array(words);
  }

  #findHolders(set: number): void {
    const { device, lower, slotOf, laneOf } = this.#lanes;
    const words = this.#sets.words;
    const rows = this.#sets.rows;
    const holders = this.#holders;
    for (let j = 0; j < words; j++) holders[j] = rows[set * words + j] & device[j];
    for (let j = 0; j < words; j++) {
      for (let bits = rows[set * words + j] & lower[j]; bits !== 0; bits &= bits - 1) {
        const worker = laneOf[slotOf[(j << 5) + 31 - Math.clz32(bits & -bits)] * TIER_COUNT];
        holders[worker >>> 5] |= 1 << (worker & 31);
      }
    }
  }

  /** Of `length` blocks with this set: which lower tier is the best of each remaining worker. */
  #countLower(set: number, length: number, out: OverlapColumns): void {
    const { lower, slotOf, tierOf, laneOf } = this.#lanes;
    const words = this.#sets.words;
    const rows = this.#sets.rows;
    for (let j = 0; j < words; j++) {
      for (let bits = rows[set * words + j] & lower[j]; bits !== 0; bits &= bits - 1) {
        const lane = (j << 5) + 31 - Math.clz32(bits & -bits);
        const slot = slotOf[lane];
        const worker = laneOf[slot * TIER_COUNT];
        if ((this.#workers[worker >>> 5] & (1 << (worker & 31))) === 0) continue;
        const tier = tierOf[lane];
        let best = Tier.Device as number;
        while (best < tier) {
          const better = laneOf[slot * TIER_COUNT + best];
          if (better !== NO_LANE && this.#sets.has(set, better)) break;
          best++;
        }
        if (best < tier) continue;
        out.hasLower = true;
        if (tier === Tier.Host) out.host[slot] += length;
        else if (tier === Tier.Disk) out.disk[slot] += length;
        else out.object[slot] += length;
      }
    }
  }

  /** These workers end at `depth`. */
  #emit(bits: number, firstLane: number, depth: number, out: OverlapColumns): void {
    const slotOf = this.#lanes.slotOf;
    const { total, found } = out;
    let count = out.count;
    if (bits === -1) {
      for (let lane = firstLane; lane < firstLane + 32; lane++) {
        const slot = slotOf[lane];
        total[slot] = depth;
        found[count++] = slot;
      }
      out.count = count;
      return;
    }
    for (let left = bits; left !== 0; left &= left - 1) {
      const slot = slotOf[firstLane + 31 - Math.clz32(left & -left)];
      total[slot] = depth;
      found[count++] = slot;
    }
    out.count = count;
  }
}

function same(stored: Int32Array, slot: number, hashes: Int32Array, depth: number): boolean {
  return stored[2 * slot] === hashes[2 * depth] && stored[2 * slot + 1] === hashes[2 * depth + 1];
}

/** The hash that free slots have. */
function isZero(hashes: Int32Array, depth: number): boolean {
  return (hashes[2 * depth] | hashes[2 * depth + 1]) === 0;
}
