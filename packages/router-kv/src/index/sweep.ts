// @hot
import { NO_LANE } from './lanes.ts';
import type { Lanes } from './lanes.ts';
import { CHUNK, Run } from './runs.ts';
import type { Runs } from './runs.ts';
import { EMPTY_SET } from './worker-sets.ts';
import type { WorkerSets } from './worker-sets.ts';

/** Takes the bits of closed lanes out of all sets, a slice of the arena at a time; then the lane numbers are free again. */
export class Sweep {
  readonly #runs: Runs;
  readonly #sets: WorkerSets;
  readonly #lanes: Lanes;
  /** Where the sweep goes on; 0 = none is running. */
  #at: number;

  constructor(runs: Runs, sets: WorkerSets, lanes: Lanes) {
    this.#runs = runs;
    this.#sets = sets;
    this.#lanes = lanes;
    this.#at = 0;
  }

  /** Looks at about `budget` slots; how many blocks have no holder any more. */
  advance(budget: number): number {
    const runs = this.#runs;
    let left = budget;
    let freed = 0;
    while (left > 0 && this.#lanes.closedCount !== 0) {
      if (this.#at === 0) {
        this.#lanes.beginSweep();
        this.#at = CHUNK;
      }
      let at = this.#at;
      while (left > 0 && at < runs.top) {
        if (!runs.isRun(at)) {
          at += CHUNK;
          left -= 2;
          continue;
        }
        const next = runs.records[at + Run.Limit];
        left -= runs.records[at + Run.End] - at;
        freed += this.#sweepRun(at);
        at = next;
      }
      this.#at = at;
      if (at < runs.top) return freed;
      this.#at = 0;
      for (let lane = this.#lanes.takeSwept(); lane !== NO_LANE; lane = this.#lanes.takeSwept()) this.#sets.closeLane(lane);
    }
    return freed;
  }

  #sweepRun(run: number): number {
    const { records, setOf } = this.#runs;
    const end = records[run + Run.End];
    let isChanged = false;
    let freed = 0;
    for (let from = run; from < end; ) {
      const set = setOf[from];
      let to = from + 1;
      while (to < end && setOf[to] === set) to++;
      const next = this.#withoutClosed(set);
      if (next !== set) {
        for (let at = from; at < to; at++) setOf[at] = next;
        this.#sets.move(set, next, to - from);
        if (next === EMPTY_SET) {
          records[run + Run.Live] -= to - from;
          freed += to - from;
        }
        isChanged = true;
      }
      from = to;
    }
    if (!isChanged) return 0;
    records[run + Run.Set] = setOf[run];
    records[run + Run.Same] = run + 1;
    if (records[run + Run.Live] === 0 || setOf[end - 1] === EMPTY_SET) this.#runs.trim(run);
    return freed;
  }

  #withoutClosed(set: number): number {
    const { closed, words } = this.#lanes;
    let next = set;
    for (let j = 0; j < words; j++) {
      for (let bits = this.#sets.rows[set * words + j] & closed[j]; bits !== 0; bits &= bits - 1) {
        const shorter = this.#sets.toggled(next, (j << 5) + 31 - Math.clz32(bits & -bits));
        if (next !== set) this.#sets.discard(next);
        next = shorter;
      }
    }
    return next;
  }
}
