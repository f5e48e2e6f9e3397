import type { HashTable } from './hash-table.ts';
import type { Lanes } from './lanes.ts';
import { CHUNK } from './runs.ts';
import type { Runs } from './runs.ts';
import type { WorkerSets } from './worker-sets.ts';

export interface PrefixIndexStats {
  /** Distinct blocks that somebody holds; of blocks and tiers held by workers, (worker, tier, block) triples. */
  readonly blocks: number;
  readonly pairs: number;
  /** Distinct sets of two or more lanes, and those of one lane that are not open any more. */
  readonly sets: number;
  /** Entries of the hash table: `blocks` and blocks without holders that wait for the blocks behind them. */
  readonly entries: number;
  /** Entries per position of the hash table. */
  readonly fill: number;
  /** Bytes written so far; reservations are larger. */
  readonly bytes: number;
  /** Arena slots in runs. */
  readonly slots: number;
}

export function statsOf(table: HashTable, runs: Runs, sets: WorkerSets, lanes: Lanes, blocks: number): PrefixIndexStats {
  let pairs = 0;
  for (const held of lanes.held) pairs += held;
  const { count, positions } = table;
  const slots = runs.top - CHUNK;
  return {
    blocks,
    pairs,
    sets: sets.live - lanes.open - lanes.closedCount,
    entries: count,
    fill: count / positions,
    bytes: slots * 16 + positions * 4 + sets.bytes,
    slots: slots - runs.freeSlots,
  };
}
