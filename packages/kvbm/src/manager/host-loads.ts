import { KvBlockStatus } from '@armature/contracts';
import type { Clock, KvBlockBatch, KvOperation, Timer } from '@armature/contracts';
import { U64Map } from '@armature/tokens';
import { batchOf, keepRows } from './batches.ts';
import type { KvFetchRun, KvFetchSource } from './face.ts';
import type { ManagerParts } from './parts.ts';
import type { Rows } from './row-queue.ts';
import type { LoadVerdict, SourceCost } from './source-cost.ts';

export type LoadOutcome = KvFetchRun['outcome'];

/** Where blocks come from: a tier, or a peer. Fills the blocks of the batch, its checksums and statuses. */
export interface BlockSource {
  readonly name: Exclude<KvFetchSource, 'device' | 'recompute' | 'host'>;
  readonly cost: SourceCost;
  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation;
  /** A block that it gave out was not what it had stored. */
  corrupt(hashes: Int32Array, count: number): void;
}

/** Who waits for blocks. */
export interface Waiter {
  readonly urgency: 'request' | 'background';
  readonly deadlineMs: number;
}

const NOTHING: KvOperation = { cancel: () => undefined };
/** A load that was told to stop gets so long to end. */
const STOP_GRACE_MS = 20;

/** One batch on its way from a source into host memory, and all who wait for it. */
class Flight {
  readonly rows: Rows;
  readonly source: BlockSource;
  readonly startMs: number;
  readonly waiters = new Set<(outcome: LoadOutcome) => void>();
  operation: KvOperation = NOTHING;
  /** Asked for from the source. */
  bytes = 0;
  isCanceled = false;
  /** Told to stop and still running. */
  isStuck = false;
  grace: Timer | undefined = undefined;
  readonly #onLeft: () => void;

  constructor(rows: Rows, source: BlockSource, startMs: number, onLeft: () => void) {
    this.rows = rows;
    this.source = source;
    this.startMs = startMs;
    this.#onLeft = onLeft;
  }

  leave(waiter: (outcome: LoadOutcome) => void): void {
    if (!this.waiters.delete(waiter) || this.waiters.size > 0) return;
    this.isCanceled = true;
    this.operation.cancel();
    this.#onLeft();
  }
}

/**
 * Brings blocks from lower tiers and peers into the host tier: allocate, load, verify what has landed, register. A block is loaded once at a time however many ask for it;
 * a load ends early when nobody waits for it any more. A block that does not pass is dropped at its source.
 */
export class HostLoads {
  readonly #parts: ManagerParts;
  readonly #flights = new Map<number, Flight>();
  readonly #byHash = new U64Map();
  #nextId = 1;

  constructor(parts: ManagerParts) {
    this.#parts = parts;
  }

  /** Batches on their way. */
  get running(): number {
    return this.#flights.size;
  }

  /**
   * `done` exactly once, possibly before return, when every row is in the host tier (`done`) or why some are not. What is there is not pinned: acquire it within the
   * call of `done`. Cancelled: `done` is not called any more.
   */
  bring(rows: Rows, source: BlockSource, waiter: Waiter, done: (outcome: LoadOutcome) => void): KvOperation {
    const flights = this.#flightsFor(rows, source, waiter);
    const group = new LoadGroup(this.#parts.clock, flights, waiter.deadlineMs, done);
    group.start();
    return group;
  }

  /** Ends everything on its way; each still reports. */
  cancelAll(): void {
    for (const flight of this.#flights.values()) {
      flight.isCanceled = true;
      flight.operation.cancel();
    }
  }

  #flightsFor(rows: Rows, source: BlockSource, waiter: Waiter): Flight[] {
    const found = new Set<Flight>();
    const { host } = this.#parts;
    let from = -1;
    for (let row = 0; row <= rows.count; row++) {
      const lo = rows.hashes[2 * row];
      const hi = rows.hashes[2 * row + 1];
      const flight = row === rows.count ? undefined : this.#flights.get(this.#byHash.get(lo, hi));
      const isWanted = row < rows.count && flight === undefined && host.store.match(rows.hashes.subarray(2 * row, 2 * row + 2), 0) === 0;
      if (flight !== undefined) found.add(flight);
      if (isWanted && from === -1) from = row;
      if (isWanted || from === -1) continue;
      found.add(this.#launch(slice(rows, from, row), source, waiter));
      from = -1;
    }
    return [...found];
  }

  #launch(rows: Rows, source: BlockSource, waiter: Waiter): Flight {
    const { clock } = this.#parts;
    const id = this.#nextId++;
    const flight = new Flight(rows, source, clock.nowMs(), () => this.#left(id, flight));
    this.#flights.set(id, flight);
    for (let row = 0; row < rows.count; row++) this.#byHash.set(rows.hashes[2 * row], rows.hashes[2 * row + 1], id);
    // Deferred: whoever asked has joined before anything can end.
    clock.defer(() => this.#load(id, flight, waiter));
    return flight;
  }

  #load(id: number, flight: Flight, { deadlineMs, urgency }: Waiter): void {
    const { host, blockBytes } = this.#parts;
    const { rows, source } = flight;
    if (flight.isCanceled) return this.#end(id, flight, 'cancelled');
    const blocks = new Int32Array(rows.count);
    const given = host.store.allocate(rows.tenant, rows.count, blocks);
    if (given < rows.count) this.#parts.hostFull();
    if (given === 0) return this.#end(id, flight, 'full');
    const batch = batchOf(slice(rows, 0, given), host.store.memory, blocks.subarray(0, given));
    flight.bytes = given * blockBytes;
    source.cost.begin(flight.bytes);
    flight.operation = source.load(batch, deadlineMs, () => this.#landed({ id, flight, batch, isWhole: given === rows.count, urgency }));
  }

  /** Nobody waits any more. A medium that hangs would keep the host blocks of one load after the other, and no load would end to say how slow it is. */
  #left(id: number, flight: Flight): void {
    if (flight.bytes === 0 || !this.#flights.has(id)) return;
    const { clock, log } = this.#parts;
    const { source, bytes, startMs } = flight;
    flight.grace = clock.setTimer(STOP_GRACE_MS, () => {
      flight.grace = undefined;
      flight.isStuck = true;
      if (!source.cost.isStuck) log.warn('a source of KV blocks does not answer, not even to stop: nothing is asked of it until it does', { source: source.name, blocks: flight.rows.count });
      source.cost.stuck(bytes, startMs, clock.nowMs());
    });
  }

  #landed(landing: Landing): void {
    const { checks } = this.#parts;
    const { batch, urgency, flight } = landing;
    const loaded = keepRows(batch, (row) => batch.statuses[row] === KvBlockStatus.Done);
    this.#free(batch, (row) => batch.statuses[row] !== KvBlockStatus.Done);
    const found = new Int32Array(2 * loaded.count);
    if (loaded.count === 0) return this.#settle(landing, loaded, found);
    checks.compute(loaded.memory, loaded.blocks, loaded.hashes, found, flight.waiters.size === 0 ? 'background' : urgency, () => this.#settle(landing, loaded, found));
  }

  #settle(landing: Landing, loaded: KvBlockBatch, found: Int32Array): void {
    const { host, clock, metrics, log } = this.#parts;
    const { id, flight, batch, isWhole } = landing;
    const { source } = flight;
    const isGood = (row: number): boolean => found[2 * row] === loaded.checksums[2 * row] && found[2 * row + 1] === loaded.checksums[2 * row + 1];
    const good = keepRows(loaded, isGood);
    if (good.count > 0) {
      host.store.register(good);
      this.#parts.hostStored(good);
    }
    const bad = keepRows(loaded, (row) => !isGood(row));
    if (bad.count > 0) {
      host.store.free(bad.blocks, bad.count);
      metrics.corrupt(source.name, bad.count);
      log.warn('KV blocks were not what was stored: dropped, to be recomputed', { code: 'KVBM_BLOCK_CORRUPT', source: source.name, blocks: bad.count });
      source.corrupt(bad.hashes, bad.count);
    }
    const outcome = bad.count > 0 ? 'corrupt' : outcomeOf(batch, flight.isCanceled, isWhole);
    this.#account(flight, outcome, clock.nowMs(), loaded.count);
    this.#end(id, flight, outcome);
  }

  #account({ source, startMs, isCanceled, isStuck, bytes }: Flight, outcome: LoadOutcome, nowMs: number, loaded: number): void {
    if (isStuck) source.cost.unstuck(bytes);
    else if (outcome === 'done' || outcome === 'full' || outcome === 'corrupt') source.cost.end(bytes, startMs, nowMs, 'done');
    else if (outcome === 'missing' || (isCanceled && nowMs - startMs < source.cost.predictMs(0))) source.cost.forget(bytes);
    else source.cost.end(bytes, startMs, nowMs, verdictOf(outcome));
    if (loaded > 0 && source.name === 'peer') this.#parts.metrics.moved('peer', 'load', loaded * this.#parts.blockBytes, nowMs - startMs);
  }

  #end(id: number, flight: Flight, outcome: LoadOutcome): void {
    const { rows, waiters } = flight;
    this.#flights.delete(id);
    if (flight.grace !== undefined) this.#parts.clock.clearTimer(flight.grace);
    flight.grace = undefined;
    for (let row = 0; row < rows.count; row++) this.#byHash.delete(rows.hashes[2 * row], rows.hashes[2 * row + 1]);
    for (const waiter of [...waiters]) waiter(outcome);
  }

  #free({ blocks, count }: KvBlockBatch, isUnused: (row: number) => boolean): void {
    const unused = blocks.subarray(0, count).filter((_, row) => isUnused(row));
    if (unused.length > 0) this.#parts.host.store.free(unused, unused.length);
  }
}

interface Landing {
  readonly id: number;
  readonly flight: Flight;
  readonly batch: KvBlockBatch;
  readonly isWhole: boolean;
  readonly urgency: Waiter['urgency'];
}

/** One caller's wait for several flights: over when all have ended, or its time has. */
class LoadGroup implements KvOperation {
  readonly #clock: Clock;
  readonly #flights: readonly Flight[];
  readonly #deadlineMs: number;
  readonly #done: (outcome: LoadOutcome) => void;
  readonly #waiter: (outcome: LoadOutcome) => void;
  #left: number;
  #outcome: LoadOutcome = 'done';
  #timer: Timer | undefined = undefined;
  #isOver = false;

  constructor(clock: Clock, flights: readonly Flight[], deadlineMs: number, done: (outcome: LoadOutcome) => void) {
    this.#clock = clock;
    this.#flights = flights;
    this.#deadlineMs = deadlineMs;
    this.#done = done;
    this.#left = flights.length;
    this.#waiter = (outcome) => {
      if (outcome !== 'done') this.#outcome = outcome;
      if (--this.#left === 0) this.#end(this.#outcome);
    };
  }

  start(): void {
    if (this.#left === 0) {
      this.#end('done');
      return;
    }
    for (const flight of this.#flights) flight.waiters.add(this.#waiter);
    this.#timer = this.#clock.setTimer(this.#deadlineMs, () => {
      this.#timer = undefined;
      this.#leave();
      this.#end('late');
    });
  }

  cancel(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopTimer();
    this.#leave();
  }

  #end(outcome: LoadOutcome): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopTimer();
    this.#done(outcome);
  }

  #leave(): void {
    for (const flight of this.#flights) flight.leave(this.#waiter);
  }

  #stopTimer(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}

function slice(rows: Rows, from: number, to: number): Rows {
  if (from === 0 && to === rows.count) return rows;
  return { count: to - from, hashes: rows.hashes.subarray(2 * from, 2 * to), parents: rows.parents.subarray(2 * from, 2 * to), tenant: rows.tenant };
}

function outcomeOf({ statuses, count }: KvBlockBatch, isCanceled: boolean, isWhole: boolean): LoadOutcome {
  for (let row = 0; row < count; row++) {
    const status = statuses[row];
    if (status === KvBlockStatus.Done) continue;
    if (status === KvBlockStatus.Canceled) return isCanceled ? 'cancelled' : 'late';
    return status === KvBlockStatus.Failed ? 'failed' : 'missing';
  }
  return isWhole ? 'done' : 'full';
}

function verdictOf(outcome: LoadOutcome): LoadVerdict {
  return outcome === 'late' || outcome === 'cancelled' ? 'late' : 'failed';
}
