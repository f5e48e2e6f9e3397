import type { KvOperation, KvReservation, Timer } from '@armature/contracts';
import { promptRows } from './batches.ts';
import type { KvFetchRequest, KvFetchResult } from './face.ts';
import type { FetchJournal } from './fetch-journal.ts';
import type { BlockSource, HostLoads, LoadOutcome } from './host-loads.ts';
import { Landing } from './landing.ts';
import type { ManagerParts } from './parts.ts';
import type { PlannedBatch } from './plan.ts';

/** Batches loaded ahead of the one that lands next. */
const AHEAD = 4;
/** A copy to the device that was told to stop gets so long; then the reservation is left behind in quarantine. */
const HANDOVER_GRACE_MS = 2;
/** How often the engine is asked for blocks when it has none. */
const RESERVE_RETRY_MS = 2;
/** The engine keeps the reservation at least so long after the longest fetch. */
const RESERVATION_MARGIN_MS = 30_000;

export interface FetchJobOptions {
  readonly parts: ManagerParts;
  readonly loads: HostLoads;
  readonly request: KvFetchRequest;
  readonly batches: readonly PlannedBatch[];
  readonly journal: FetchJournal;
  readonly sourceOf: (batch: PlannedBatch) => BlockSource | undefined;
  /** From the start of the request until when it may wait with that many leading blocks on the device. */
  readonly waitLimitMs: (row: number) => number;
  readonly startMs: number;
  readonly done: (result: KvFetchResult) => void;
}

interface Load {
  operation: KvOperation | undefined;
  outcome: LoadOutcome | undefined;
}

/**
 * Brings the planned batches to the device: loads ahead, lands in order, and moves the deadline on with every batch that landed. However it ends, the leading part that is
 * right is what the request gets; blocks are given away only when nothing is copied into them any more.
 */
export class FetchJob implements KvOperation {
  readonly #options: FetchJobOptions;
  readonly #loads: Load[];
  #reservation: KvReservation | undefined = undefined;
  #row: number;
  #next = 0;
  #landing: Landing | undefined = undefined;
  #timer: Timer | undefined = undefined;
  #ending: { readonly outcome: LoadOutcome } | undefined = undefined;
  #isOver = false;
  #isPumping = false;

  constructor(options: FetchJobOptions) {
    this.#options = options;
    this.#loads = options.batches.map(() => ({ operation: undefined, outcome: undefined }));
    this.#row = options.batches[0].from;
  }

  /** Without room on the device the engine could not begin either: it is asked again while what is to be brought would still land in time. */
  start(): void {
    const { parts, request, batches } = this.#options;
    const { to: rows, landsMs } = batches[batches.length - 1];
    this.#reservation = parts.kv.reserve(request.sequenceHashes.slice(0, 2 * rows), rows, parts.config.fetchDeadlineMs + RESERVATION_MARGIN_MS, request.cacheSalt);
    if (this.#reservation === undefined) {
      if (this.#leftMs(this.#row) <= landsMs + RESERVE_RETRY_MS) return this.#end('full');
      this.#timer = parts.clock.setTimer(RESERVE_RETRY_MS, () => {
        this.#timer = undefined;
        this.start();
      });
      return;
    }
    this.#row = Math.max(this.#row, this.#reservation.matchedBlocks);
    this.#setTimer();
    this.#pump();
  }

  cancel(): void {
    if (this.#ending === undefined) this.#end('cancelled');
    else this.#ending = { outcome: 'cancelled' };
  }

  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    while (this.#ending === undefined && this.#landing === undefined && this.#step());
    this.#isPumping = false;
  }

  /** True: something has changed, go on. */
  #step(): boolean {
    const { batches } = this.#options;
    while (this.#next < batches.length && batches[this.#next].to <= this.#row) this.#next++;
    if (this.#next === batches.length) {
      this.#end('done');
      return false;
    }
    for (let i = this.#next; i < Math.min(batches.length, this.#next + AHEAD); i++) this.#load(i);
    const { outcome } = this.#loads[this.#next];
    if (outcome === undefined || this.#ending !== undefined) return false;
    this.#land(batches[this.#next], outcome);
    return true;
  }

  #load(i: number): void {
    const { batches, loads, parts, request, sourceOf } = this.#options;
    const load = this.#loads[i];
    if (load.outcome !== undefined || load.operation !== undefined) return;
    const source = sourceOf(batches[i]);
    if (source === undefined) {
      load.outcome = 'done';
      return;
    }
    const from = Math.max(batches[i].from, this.#row);
    const rows = promptRows(request.sequenceHashes, from, batches[i].to, parts.tenants.numberOf(request.cacheSalt));
    load.operation = loads.bring(rows, source, { urgency: 'request', deadlineMs: this.#leftMs(this.#endRow()) }, (outcome) => {
      load.outcome = outcome;
      this.#pump();
    });
  }

  /** What came is landed, also when some of the batch did not come. */
  #land(batch: PlannedBatch, loaded: LoadOutcome): void {
    const { parts, request } = this.#options;
    const reservation = this.#reservation as KvReservation;
    const rows = { hashes: request.sequenceHashes, from: this.#row, to: batch.to, blocks: reservation.blocks, deadlineMs: this.#leftMs(this.#endRow()) };
    const landing = new Landing(
      parts,
      rows,
      () => this.#copied(),
      (good, landed) => {
        this.#landing = undefined;
        const outcome = landed === 'missing' && loaded !== 'done' ? loaded : landed;
        if (good > 0) this.#advance(batch, good, outcome);
        if (outcome === 'done') this.#pump();
        else this.#end(outcome);
      },
    );
    this.#landing = landing;
    landing.start();
  }

  #advance(batch: PlannedBatch, good: number, outcome: LoadOutcome): void {
    const { parts, journal } = this.#options;
    journal.landed(batch, this.#row, good, outcome);
    this.#row += good;
    parts.kv.commit((this.#reservation as KvReservation).id, this.#row);
    this.#setTimer();
  }

  /** When the end was near already, this copy was what it waited for. */
  #copied(): void {
    if (this.#ending !== undefined) this.#handOver();
  }

  #end(outcome: LoadOutcome): void {
    if (this.#ending !== undefined) return;
    const { parts, journal, batches } = this.#options;
    this.#ending = { outcome };
    this.#stopTimer();
    for (const load of this.#loads) if (load.outcome === undefined) load.operation?.cancel();
    if (outcome !== 'done' && this.#next < batches.length) journal.failed(batches, this.#next, this.#row, outcome);
    this.#landing?.cancel();
    if (this.#landing?.isCopying === true) this.#timer = parts.clock.setTimer(HANDOVER_GRACE_MS, () => this.#leaveBehind());
    else this.#handOver();
  }

  #handOver(): void {
    const { parts, journal, request } = this.#options;
    this.#stopTimer();
    const reservation = this.#reservation;
    if (this.#isOver) {
      if (reservation !== undefined) parts.kv.release(reservation.id);
      return;
    }
    this.#isOver = true;
    const isUsed = reservation !== undefined && this.#ending?.outcome !== 'cancelled' && journal.onboardedBlocks > 0;
    if (reservation !== undefined && !isUsed) parts.kv.release(reservation.id);
    const readyTokens = isUsed ? Math.min(this.#row * parts.blockSize, request.promptTokens) : 0;
    this.#options.done({ reservation: isUsed ? reservation.id : undefined, readyTokens, record: journal.close(this.#row) });
  }

  /** The copy does not stop: nobody may use its blocks. What had landed before is in the prefix cache; the engine finds it there. */
  #leaveBehind(): void {
    const { parts, journal } = this.#options;
    this.#timer = undefined;
    this.#isOver = true;
    parts.kv.quarantine((this.#reservation as KvReservation).id);
    this.#options.done({ reservation: undefined, readyTokens: 0, record: journal.close(this.#row) });
  }

  #setTimer(): void {
    this.#stopTimer();
    this.#timer = this.#options.parts.clock.setTimer(this.#leftMs(this.#row), () => {
      this.#timer = undefined;
      this.#end('late');
    });
  }

  #stopTimer(): void {
    if (this.#timer !== undefined) this.#options.parts.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  #endRow(): number {
    const { batches } = this.#options;
    return batches[batches.length - 1].to;
  }

  #leftMs(row: number): number {
    const { startMs, waitLimitMs, parts } = this.#options;
    return Math.max(0, startMs + waitLimitMs(row) - parts.clock.nowMs());
  }
}
