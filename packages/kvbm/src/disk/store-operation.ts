import { KvBlockStatus, TransferStatus } from '@armature/contracts';
import type { KvBlockBatch } from '@armature/contracts';
import { BlockCopies, isMediumFailure } from './block-copies.ts';
import { countRuns, fits, isRow } from './disk-parts.ts';
import type { DiskParts } from './disk-parts.ts';
import type { Medium } from './medium.ts';
import type { DiskOperation } from './operation-queue.ts';

/** Longest a store may take; beyond that the disk hangs. */
const STORE_DEADLINE_MS = 60_000;

/**
 * Takes a batch in, by the ordering rule of the format: (1) the records of the slots it takes are invalid in the file, (2) the bytes are in the slabs, (3) the new
 * records are in the file, (4) the blocks may be matched.
 */
export class StoreOperation implements DiskOperation {
  readonly #parts: DiskParts;
  readonly #batch: KvBlockBatch;
  readonly #done: () => void;
  #ended: () => void = () => undefined;
  #medium: Medium | undefined = undefined;
  /** Rows that are written, by slot. */
  #rows = new Int32Array(0);
  #slots = new Int32Array(0);
  #copies: BlockCopies | undefined = undefined;
  #isStopped = false;
  #startedMs = 0;

  constructor(parts: DiskParts, batch: KvBlockBatch, done: () => void) {
    this.#parts = parts;
    this.#batch = batch;
    this.#done = done;
  }

  drop(reason: 'cancelled' | 'closed' | 'full'): void {
    const status = reason === 'full' ? KvBlockStatus.Refused : KvBlockStatus.Canceled;
    if (status === KvBlockStatus.Refused) this.#parts.counters.refusals += this.#batch.count;
    this.#batch.statuses.fill(status, 0, this.#batch.count);
    this.#done();
  }

  stop(): void {
    this.#isStopped = true;
    this.#copies?.cancel();
  }

  start(ended: () => void): void {
    this.#ended = ended;
    this.#medium = this.#parts.medium();
    const { count, statuses } = this.#batch;
    if (this.#medium === undefined || !this.#parts.health.isWritable) {
      this.#parts.counters.refusals += count;
      statuses.fill(KvBlockStatus.Refused, 0, count);
      this.#finish();
      return;
    }
    if (!fits(this.#batch, this.#medium)) {
      this.#parts.counters.failures += count;
      statuses.fill(KvBlockStatus.Failed, 0, count);
      this.#finish();
      return;
    }
    this.#allocate();
    if (this.#slots.length === 0) {
      this.#finish();
      return;
    }
    // Rule 1. What was evicted just now, or earlier by whoever freed these slots.
    this.#medium.index.flushed((error) => {
      if (error !== undefined) this.#parts.health.writeFailed(error);
      if (error !== undefined || this.#isStopped) this.#giveUp(error === undefined ? KvBlockStatus.Canceled : KvBlockStatus.Failed);
      else this.#write();
    });
  }

  #allocate(): void {
    const { table, counters, removals } = this.#parts;
    const { hashes, count, statuses, tenant } = this.#batch;
    // First all that is held: so that no newcomer takes the place of its own forerunner. Last row first: leaves are older than their parents.
    for (let row = count - 1; row >= 0; row--) {
      const place = table.find(hashes[2 * row]!, hashes[2 * row + 1]!);
      statuses[row] = place >= 0 ? KvBlockStatus.Present : KvBlockStatus.Refused;
      if (place < 0) continue;
      table.touch(place);
      this.#medium!.index.use(place);
      counters.duplicates++;
    }
    const rows: number[] = [];
    const slots: number[] = [];
    for (let row = 0; row < count; row++) {
      if (statuses[row] === KvBlockStatus.Present) continue;
      if (!isRow(this.#batch, row)) {
        statuses[row] = KvBlockStatus.Failed;
        counters.failures++;
        continue;
      }
      const slot = table.allocate(tenant, hashes[2 * row]!, hashes[2 * row + 1]!);
      if (slot < 0) counters.refusals++;
      else {
        rows.push(row);
        slots.push(slot);
        statuses[row] = KvBlockStatus.Failed;
      }
    }
    this.#rows = Int32Array.from(rows);
    // Rows of a chain in slots that rise: written, and later read, in one sweep.
    this.#slots = Int32Array.from(slots).sort();
    removals.flush();
  }

  /** Rule 2. */
  #write(): void {
    const { mover, clock, writing, counters } = this.#parts;
    const medium = this.#medium!;
    this.#startedMs = clock.nowMs();
    counters.slotRuns += countRuns(this.#slots);
    counters.slotsMoved += this.#slots.length;
    let failed = -1;
    this.#copies = new BlockCopies({
      op: 'write',
      slabs: medium.slabs,
      mover,
      throttle: writing,
      clock,
      memory: this.#batch.memory,
      blocks: this.#rows.map((row) => this.#batch.blocks[row]!),
      slots: this.#slots,
      expiresAtMs: this.#startedMs + STORE_DEADLINE_MS,
      ended: (from, to, status) => {
        for (let i = from; i < to; i++) this.#batch.statuses[this.#rows[i]!] = status === TransferStatus.Done ? KvBlockStatus.Done : status === TransferStatus.Canceled ? KvBlockStatus.Canceled : KvBlockStatus.Failed;
        if (isMediumFailure(status)) failed = from;
      },
      done: () => {
        this.#copies = undefined;
        if (failed < 0) this.#record();
        else this.#parts.health.diagnoseWrite(medium, this.#slots[failed]!, () => this.#record());
      },
    });
    this.#copies.start();
  }

  /** Rule 3. */
  #record(): void {
    const { index, geometry } = this.#medium!;
    const { statuses } = this.#batch;
    let written = 0;
    // Last row first: a leaf is older than its parent.
    for (let i = this.#rows.length - 1; i >= 0; i--) {
      if (statuses[this.#rows[i]!] !== KvBlockStatus.Done) continue;
      index.put(this.#slots[i]!, this.#batch, this.#rows[i]!);
      written++;
    }
    if (written > 0) this.#parts.measured('store', written, written * geometry.blockBytes, this.#parts.clock.nowMs() - this.#startedMs);
    index.flushed((error) => {
      if (error !== undefined) this.#parts.health.writeFailed(error);
      // Let go of meanwhile: what is written there is in no file of the store any more.
      this.#register(error !== undefined || this.#parts.medium() !== this.#medium);
    });
  }

  /** Rule 4. */
  #register(isLost: boolean): void {
    const { table, counters } = this.#parts;
    const { hashes, parents, statuses } = this.#batch;
    for (let i = 0; i < this.#rows.length; i++) {
      const row = this.#rows[i]!;
      const slot = this.#slots[i]!;
      if (statuses[row] === KvBlockStatus.Done) {
        if (isLost) statuses[row] = KvBlockStatus.Failed;
        else if (table.register(slot, hashes[2 * row]!, hashes[2 * row + 1]!, parents[2 * row]!, parents[2 * row + 1]!)) counters.stores++;
        else {
          // Another batch was faster with the same block.
          statuses[row] = KvBlockStatus.Present;
          counters.duplicates++;
        }
        if (statuses[row] !== KvBlockStatus.Done) this.#medium!.index.invalidate(slot);
      }
      if (statuses[row] === KvBlockStatus.Failed) counters.failures++;
    }
    this.#release();
    this.#parts.scheduleFlush();
    this.#finish();
  }

  #giveUp(status: KvBlockStatus): void {
    for (const row of this.#rows) this.#batch.statuses[row] = status;
    if (status === KvBlockStatus.Failed) this.#parts.counters.failures += this.#rows.length;
    this.#release();
    this.#finish();
  }

  /** Last row first: leaves go before their parents. */
  #release(): void {
    for (let i = this.#slots.length - 1; i >= 0; i--) this.#parts.table.release(this.#slots[i]!);
  }

  #finish(): void {
    this.#done();
    this.#ended();
  }
}
