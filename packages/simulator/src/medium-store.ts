import { KvBlockStatus, TransferStatus } from '@armature/contracts';
import type { Clock, KvBlockBatch, KvBlockMover, KvMemory, KvMemoryLayout, KvOperation, KvRecordVisitor, KvRemovalReason, KvTierHost, KvTierStats, KvTierStore } from '@armature/contracts';
import { HostStore } from '@armature/kvbm';
import type { Medium } from './simulated-tiers.ts';

export interface MediumStoreOptions {
  readonly host: KvTierHost;
  readonly blocks: number;
  readonly medium: Medium;
}

/** A tier below host memory: kvbm's bookkeeping without bytes, each operation as long as the medium takes, failing while that is broken. */
export class MediumStore implements KvTierStore {
  readonly tier = 'disk';
  readonly capacityBlocks: number;
  readonly #host: KvTierHost;
  readonly #medium: Medium;
  readonly #books: HostStore;
  readonly #running = new Set<Delayed>();
  #failures = 0;

  constructor({ host, blocks, medium }: MediumStoreOptions) {
    this.capacityBlocks = blocks;
    this.#host = host;
    this.#medium = medium;
    this.#books = booksOf(host, blocks);
  }

  match(hashes: Int32Array, from: number): number {
    return this.#books.match(hashes, from);
  }

  /** Rows are matched once they are written. */
  store(batch: KvBlockBatch, done: () => void): KvOperation {
    const blocks = rowsWhere(batch, (row) => this.#books.match(batch.hashes, row) === 0);
    const tookMs = blocks === 0 ? 0 : this.#medium.takes(blocks);
    return this.#after(tookMs, (isCanceled) => {
      if (isCanceled || this.#medium.isBroken) {
        this.#fail(batch, isCanceled, () => true);
        return done();
      }
      this.#books.store(batch, () => {
        this.#measured('store', rowsWhere(batch, (row) => batch.statuses[row] === KvBlockStatus.Done), tookMs);
        done();
      });
    });
  }

  /** The rows are read, and count as used, when it begins: nothing is given away under a load. */
  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation {
    const isRead = (row: number): boolean => batch.statuses[row] === KvBlockStatus.Done;
    this.#books.load(batch, deadlineMs, () => undefined);
    const blocks = rowsWhere(batch, isRead);
    const tookMs = blocks === 0 ? 0 : this.#medium.takes(blocks);
    const isLate = tookMs > deadlineMs;
    return this.#after(Math.min(tookMs, deadlineMs), (isCanceled) => {
      if (isCanceled || isLate || this.#medium.isBroken) this.#fail(batch, isCanceled || isLate, isRead);
      else this.#measured('load', blocks, tookMs);
      done();
    });
  }

  touch(hashes: Int32Array, from: number, count: number): void {
    this.#books.touch(hashes, from, count);
  }

  remove(hashes: Int32Array, count: number, reason: KvRemovalReason): number {
    return this.#books.remove(hashes, count, reason);
  }

  records(visit: KvRecordVisitor): void {
    this.#books.records(visit);
  }

  stats(): KvTierStats {
    const stats = this.#books.stats();
    return { ...stats, failures: stats.failures + this.#failures };
  }

  async close(): Promise<void> {
    for (const operation of [...this.#running]) operation.cancel();
    await this.#books.close();
  }

  #after(delayMs: number, finish: (isCanceled: boolean) => void): KvOperation {
    const operation = new Delayed(this.#host.clock, delayMs, (isCanceled) => {
      this.#running.delete(operation);
      finish(isCanceled);
    });
    this.#running.add(operation);
    return operation;
  }

  #fail(batch: KvBlockBatch, isCanceled: boolean, isMeant: (row: number) => boolean): void {
    for (let row = 0; row < batch.count; row++) {
      if (!isMeant(row)) continue;
      batch.statuses[row] = isCanceled ? KvBlockStatus.Canceled : KvBlockStatus.Failed;
      if (!isCanceled) this.#failures++;
    }
  }

  #measured(kind: 'store' | 'load', blocks: number, milliseconds: number): void {
    if (blocks > 0) this.#host.measured(kind, blocks, blocks * this.#host.blockBytes, milliseconds);
  }
}

/** Ends once: when its time has come, or when it is cancelled. */
class Delayed implements KvOperation {
  readonly #clock: Clock;
  readonly #timer;
  readonly #finish: (isCanceled: boolean) => void;
  #isOver = false;

  constructor(clock: Clock, delayMs: number, finish: (isCanceled: boolean) => void) {
    this.#clock = clock;
    this.#finish = finish;
    this.#timer = clock.setTimer(delayMs, () => this.#end(false));
  }

  cancel(): void {
    this.#clock.clearTimer(this.#timer);
    this.#end(true);
  }

  #end(isCanceled: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#finish(isCanceled);
  }
}

function rowsWhere({ count }: KvBlockBatch, holds: (row: number) => boolean): number {
  let rows = 0;
  for (let row = 0; row < count; row++) if (holds(row)) rows++;
  return rows;
}

/** Moves nothing, at once; time and measurements are the medium's. */
function booksOf(host: KvTierHost, blocks: number): HostStore {
  const layout: KvMemoryLayout = { blocks, blockStrideBytes: host.blockBytes, pieces: 1, pieceBytes: host.blockBytes, pieceStrideBytes: host.blockBytes };
  const memory = memoryOf(layout);
  const mover = { ...nothingMoves, registerMemory: () => memory };
  return new HostStore({ ...host, mover, measured: () => undefined }, { memory, location: undefined, close: () => undefined });
}

function memoryOf(layout: KvMemoryLayout): KvMemory {
  return { segment: -1, bytes: undefined, ...layout };
}

const nothingMoves: Omit<KvBlockMover, 'registerMemory'> = {
  registerFile: (_file, _lengthBytes, layout) => memoryOf(layout),
  view: (_memory, layout) => memoryOf(layout),
  deregister: () => undefined,
  copy: (...[, , , , , done]) => {
    done(TransferStatus.Done);
    return { cancel: () => undefined };
  },
};
