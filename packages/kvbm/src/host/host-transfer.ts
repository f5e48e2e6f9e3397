import { KvBlockStatus, TransferStatus } from '@armature/contracts';
import type { KvBlockBatch, KvOperation } from '@armature/contracts';

/** The rows of a batch that a copy moves, and the places they take part in. */
export class HostTransfer implements KvOperation {
  readonly kind: 'store' | 'load';
  readonly batch: KvBlockBatch;
  readonly done: () => void;
  readonly #rows: Int32Array;
  readonly #places: Int32Array;
  rows: number;
  startMs: number;
  copy: KvOperation | undefined;

  constructor(kind: 'store' | 'load', batch: KvBlockBatch, done: () => void) {
    this.kind = kind;
    this.batch = batch;
    this.done = done;
    this.#rows = new Int32Array(batch.count);
    this.#places = new Int32Array(batch.count);
    this.rows = 0;
    this.startMs = 0;
    this.copy = undefined;
  }

  add(row: number, place: number): void {
    this.#rows[this.rows] = row;
    this.#places[this.rows++] = place;
  }

  row(i: number): number {
    return this.#rows[i];
  }

  place(i: number): number {
    return this.#places[i];
  }

  /** Places of the rows to be copied. */
  places(): Int32Array {
    return this.#places.subarray(0, this.rows);
  }

  /** Blocks of the batch's memory, of the same rows. */
  blocks(): Int32Array {
    return Int32Array.from(this.#rows.subarray(0, this.rows), (row) => this.batch.blocks[row]);
  }

  /** What a copy that did not succeed means for its rows. */
  failure(status: TransferStatus): KvBlockStatus {
    if (status === TransferStatus.Canceled || status === TransferStatus.TimedOut) return KvBlockStatus.Canceled;
    if (status === TransferStatus.Overloaded) return this.kind === 'store' ? KvBlockStatus.Refused : KvBlockStatus.Missing;
    return KvBlockStatus.Failed;
  }

  cancel(): void {
    this.copy?.cancel();
  }
}
