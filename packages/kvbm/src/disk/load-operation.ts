import { KvBlockStatus, TransferStatus } from '@armature/contracts';
import type { KvBlockBatch, Timer } from '@armature/contracts';
import { BlockCopies, isMediumFailure } from './block-copies.ts';
import { countRuns, fits, isRow } from './disk-parts.ts';
import type { DiskParts } from './disk-parts.ts';
import type { Medium } from './medium.ts';
import type { DiskOperation } from './operation-queue.ts';

/** Gives a batch out. Its slots are pinned while bytes move; a slot that cannot be read is given up. */
export class LoadOperation implements DiskOperation {
  readonly #parts: DiskParts;
  readonly #batch: KvBlockBatch;
  readonly #expiresAtMs: number;
  readonly #done: () => void;
  readonly #expired: () => void;
  #timer: Timer | undefined = undefined;
  #isLate = false;
  isStarted = false;
  #ended: () => void = () => undefined;
  /** Rows that are read, by slot. */
  #rows = new Int32Array(0);
  #slots = new Int32Array(0);
  #copies: BlockCopies | undefined = undefined;

  /** `expired`: its time is over and it has not begun; the queue's `cancel`. */
  constructor(parts: DiskParts, batch: KvBlockBatch, deadlineMs: number, done: () => void, expired: () => void) {
    this.#parts = parts;
    this.#batch = batch;
    this.#expiresAtMs = parts.clock.nowMs() + deadlineMs;
    this.#done = done;
    this.#expired = expired;
  }

  /** Once it is known that it has to wait. */
  watch(): void {
    const { clock } = this.#parts;
    this.#timer = clock.setTimer(Math.max(0, this.#expiresAtMs - clock.nowMs()), () => {
      this.#timer = undefined;
      this.#isLate = true;
      this.#expired();
    });
  }

  drop(reason: 'cancelled' | 'closed' | 'full'): void {
    this.#unwatch();
    const status = reason === 'full' ? KvBlockStatus.Missing : this.#isLate || reason === 'closed' ? KvBlockStatus.Failed : KvBlockStatus.Canceled;
    if (status === KvBlockStatus.Missing) this.#parts.counters.misses += this.#batch.count;
    if (status === KvBlockStatus.Failed) this.#parts.counters.failures += this.#batch.count;
    this.#batch.statuses.fill(status, 0, this.#batch.count);
    this.#done();
  }

  stop(): void {
    this.#copies?.cancel();
  }

  start(ended: () => void): void {
    this.isStarted = true;
    this.#unwatch();
    this.#ended = ended;
    const { count, statuses } = this.#batch;
    const medium = this.#parts.medium();
    if (medium === undefined || !this.#parts.health.isReadable || !fits(this.#batch, medium)) {
      this.#parts.counters.failures += count;
      statuses.fill(KvBlockStatus.Failed, 0, count);
      this.#finish();
      return;
    }
    this.#pin(medium);
    if (this.#rows.length === 0) this.#finish();
    else this.#read(medium);
  }

  #pin(medium: Medium): void {
    const { table, counters } = this.#parts;
    const { hashes, checksums, count, statuses } = this.#batch;
    const places = new Int32Array(count);
    const rows: number[] = [];
    for (let row = 0; row < count; row++) {
      const [lo, hi] = [hashes[2 * row]!, hashes[2 * row + 1]!];
      table.seen(lo, hi);
      const place = table.find(lo, hi);
      places[row] = place;
      if (place < 0) {
        statuses[row] = KvBlockStatus.Missing;
        counters.misses++;
        continue;
      }
      statuses[row] = KvBlockStatus.Failed;
      if (!isRow(this.#batch, row)) {
        counters.failures++;
        continue;
      }
      table.acquire(place);
      medium.index.checksum(place, checksums, row);
      rows.push(row);
    }
    for (let i = rows.length - 1; i >= 0; i--) {
      const place = places[rows[i]!]!;
      table.touch(place);
      medium.index.use(place);
    }
    this.#rows = Int32Array.from(rows).sort((a, b) => places[a]! - places[b]!);
    this.#slots = this.#rows.map((row) => places[row]!);
  }

  #read(medium: Medium): void {
    const { mover, clock, reading, counters, table, health } = this.#parts;
    const { statuses, blocks, memory } = this.#batch;
    const startedMs = clock.nowMs();
    counters.slotRuns += countRuns(this.#slots);
    counters.slotsMoved += this.#slots.length;
    let failed = -1;
    this.#copies = new BlockCopies({
      op: 'read',
      slabs: medium.slabs,
      mover,
      throttle: reading,
      clock,
      memory,
      blocks: this.#rows.map((row) => blocks[row]!),
      slots: this.#slots,
      expiresAtMs: this.#expiresAtMs,
      ended: (from, to, status) => {
        for (let i = from; i < to; i++) statuses[this.#rows[i]!] = status === TransferStatus.Done ? KvBlockStatus.Done : status === TransferStatus.Canceled ? KvBlockStatus.Canceled : KvBlockStatus.Failed;
        if (!isMediumFailure(status)) return;
        failed = from;
        for (let i = from; i < to; i++) table.invalidate(this.#slots[i]!, 'failed');
      },
      done: () => {
        this.#copies = undefined;
        const finish = (): void => this.#ending(medium, clock.nowMs() - startedMs);
        if (failed < 0) finish();
        else health.diagnoseRead(medium, this.#slots[failed]!, finish);
      },
    });
    this.#copies.start();
  }

  #ending(medium: Medium, tookMs: number): void {
    const { table, counters, removals } = this.#parts;
    const { statuses } = this.#batch;
    let loaded = 0;
    // Leaves become unused before their parents.
    const byRow = this.#rows.map((_row, i) => i).sort((a, b) => this.#rows[b]! - this.#rows[a]!);
    for (const i of byRow) {
      const status = statuses[this.#rows[i]!];
      if (status === KvBlockStatus.Done) loaded++;
      else if (status === KvBlockStatus.Failed) counters.failures++;
      table.release(this.#slots[i]!);
    }
    counters.loads += loaded;
    if (loaded > 0) this.#parts.measured('load', loaded, loaded * medium.geometry.blockBytes, tookMs);
    removals.flush();
    this.#parts.scheduleFlush();
    this.#finish();
  }

  #unwatch(): void {
    if (this.#timer !== undefined) this.#parts.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  #finish(): void {
    this.#done();
    this.#ended();
  }
}
