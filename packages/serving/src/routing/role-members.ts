// @hot
import type { WorkerRecord } from '@armature/contracts';
import { newCandidateColumns } from './candidate-columns.ts';
import type { CandidateColumns } from './candidate-columns.ts';

const START_CAPACITY = 16;

/**
 * The workers of one role that get requests, by ascending slot. They stand in the very columns that a decision over all of them is told in: slots, records
 * and what a record says are written when a worker comes or goes, and a decision has only loads to fill in.
 */
export class RoleMembers {
  #columns: CandidateColumns;
  /** Workers of the role, those too that get no requests at present. */
  #workers: number;

  constructor() {
    this.#columns = newCandidateColumns(START_CAPACITY);
    this.#workers = 0;
  }

  get columns(): CandidateColumns {
    return this.#columns;
  }

  get workers(): number {
    return this.#workers;
  }

  joined(slot: number, record: WorkerRecord): void {
    this.#workers++;
    this.admit(slot, record);
  }

  left(slot: number): void {
    this.#workers--;
    this.exclude(slot);
  }

  /** It gets requests. Once more: no change. */
  admit(slot: number, record: WorkerRecord): void {
    const row = this.#rowOf(slot);
    if (row < this.#columns.count && this.#columns.slots[row] === slot) return;
    if (this.#columns.count === this.#columns.slots.length) this.#grow();
    const columns = this.#columns;
    const { slots, totalBlocks, costPerHour, workers, count } = columns;
    slots.copyWithin(row + 1, row, count);
    totalBlocks.copyWithin(row + 1, row, count);
    costPerHour.copyWithin(row + 1, row, count);
    slots[row] = slot;
    totalBlocks[row] = record.totalBlocks;
    costPerHour[row] = record.costPerHour;
    workers.splice(row, 0, record);
    columns.count = count + 1;
  }

  /** It gets none, whatever the reason. */
  exclude(slot: number): void {
    const columns = this.#columns;
    const { slots, totalBlocks, costPerHour, workers, count } = columns;
    const row = this.#rowOf(slot);
    if (row === count || slots[row] !== slot) return;
    slots.copyWithin(row, row + 1, count);
    totalBlocks.copyWithin(row, row + 1, count);
    costPerHour.copyWithin(row, row + 1, count);
    workers.splice(row, 1);
    columns.count = count - 1;
  }

  /** The row of a slot, or the one it would get. */
  #rowOf(slot: number): number {
    const { slots, count } = this.#columns;
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (slots[middle] < slot) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #grow(): void {
    const { count, slots, totalBlocks, costPerHour, workers } = this.#columns;
    const grown = newCandidateColumns(slots.length * 2);
    grown.count = count;
    grown.slots.set(slots);
    grown.totalBlocks.set(totalBlocks);
    grown.costPerHour.set(costPerHour);
    grown.workers = workers;
    this.#columns = grown;
  }
}
