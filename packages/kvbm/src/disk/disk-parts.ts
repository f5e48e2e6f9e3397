import type { Clock, KvBlockBatch, KvBlockMover } from '@armature/contracts';
import type { BlockTable } from '../store/block-table.ts';
import type { Removals } from '../store/removals.ts';
import type { Health } from './health.ts';
import type { Medium } from './medium.ts';
import type { Throttle } from './throttle.ts';

/** What grows while a store is open. `KvTierStats`, and more for tests and `kv stats`. */
export interface DiskCounters {
  stores: number;
  duplicates: number;
  refusals: number;
  loads: number;
  misses: number;
  failures: number;
  dropped: number;
  /** Blocks found and kept when the store was opened. */
  recovered: number;
  /** Openings that found a content they could not keep. */
  resets: number;
  /** Copies begun, and the slots that followed each other within them: long runs make sequential I/O. */
  slotRuns: number;
  slotsMoved: number;
}

/** What the operations of one store share. */
export interface DiskParts {
  readonly table: BlockTable;
  readonly mover: KvBlockMover;
  readonly clock: Clock;
  readonly health: Health;
  readonly counters: DiskCounters;
  readonly reading: Throttle;
  readonly writing: Throttle;
  readonly removals: Removals;
  readonly measured: (kind: 'store' | 'load', blocks: number, bytes: number, milliseconds: number) => void;
  /** Undefined while there is none to write to or read from. */
  medium(): Medium | undefined;
  /** Writes changed records soon. */
  scheduleFlush(): void;
}

/** Blocks of another size: no row of the batch can be right. */
export function fits({ memory }: KvBlockBatch, medium: Medium): boolean {
  return memory.pieces * memory.pieceBytes === medium.geometry.blockBytes;
}

export function isRow({ memory, blocks }: KvBlockBatch, row: number): boolean {
  return blocks[row]! >= 0 && blocks[row]! < memory.blocks;
}

/** How many runs of slots that follow each other. */
export function countRuns(slots: Int32Array): number {
  let runs = 0;
  for (let i = 0; i < slots.length; i++) if (i === 0 || slots[i] !== slots[i - 1]! + 1) runs++;
  return runs;
}
