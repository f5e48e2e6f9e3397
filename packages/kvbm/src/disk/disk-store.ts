import type { ErrorData, KvBlockBatch, KvOperation, KvRecordVisitor, KvRemovalReason, KvTierHost, KvTierStats, KvTierStore } from '@armature/contracts';
import { BlockTable } from '../store/block-table.ts';
import { Removals } from '../store/removals.ts';
import { adoptBlocks } from './adoption.ts';
import type { DiskConfig } from './disk-config.ts';
import type { DiskIo } from './disk-io.ts';
import { mediumProblem } from './errors.ts';
import type { DiskCounters, DiskParts } from './disk-parts.ts';
import { Health } from './health.ts';
import { LoadOperation } from './load-operation.ts';
import { Medium } from './medium.ts';
import type { MediumOptions } from './medium.ts';
import { OperationQueue } from './operation-queue.ts';
import { StoreOperation } from './store-operation.ts';
import { Throttle } from './throttle.ts';

export interface DiskStoreOptions {
  readonly config: DiskConfig;
  readonly host: KvTierHost;
  readonly folder: string;
  readonly io: DiskIo;
  /** The folder is this store's alone: after it is closed. */
  readonly discard: (() => Promise<void>) | undefined;
}

/** For tests and `kv stats`. */
export interface DiskStoreFacts extends DiskCounters {
  readonly folder: string;
  readonly direct: boolean;
  readonly lock: 'flock' | 'pid-file' | undefined;
  readonly freeSlots: number;
  readonly indexPagesWritten: number;
  readonly indexFlushes: number;
}

/** How long `close` waits for a disk that does not answer. */
const CLOSE_MS = 10_000;

/** Blocks in slab files, found again after a restart or a crash. */
export class DiskStore implements KvTierStore {
  readonly tier = 'disk';
  readonly capacityBlocks: number;
  readonly #options: DiskStoreOptions;
  readonly #mediumOptions: MediumOptions;
  readonly #table: BlockTable;
  readonly #parts: DiskParts;
  readonly #health: Health;
  readonly #removals: Removals;
  readonly #loads: OperationQueue;
  readonly #stores: OperationQueue;
  readonly #counters: DiskCounters = { stores: 0, duplicates: 0, refusals: 0, loads: 0, misses: 0, failures: 0, dropped: 0, recovered: 0, resets: 0, slotRuns: 0, slotsMoved: 0 };
  #medium: Medium | undefined = undefined;
  #isDetaching = false;
  #isFlushScheduled = false;
  #isClosed = false;
  #closing: Promise<void> | undefined = undefined;

  private constructor(options: DiskStoreOptions, slots: number) {
    const { host, config, folder, io } = options;
    const { clock, log, mover, blockBytes, checksum = { version: 0, pieceBytes: blockBytes } } = host;
    this.#options = options;
    this.capacityBlocks = slots;
    this.#mediumOptions = { ...config, folder, io, mover, log, clock, modelFingerprint: host.modelFingerprint, layoutFingerprint: host.layoutFingerprint, blockBytes, checksum };
    this.#removals = new Removals((hashes, count, reason) => host.removed(hashes, count, reason));
    this.#table = new BlockTable({
      places: slots,
      order: host.order(slots),
      quota: (tenant) => host.quota(tenant, slots),
      onRemoved: (lo, hi, slot, reason) => this.#removed(lo, hi, slot, reason),
    });
    this.#health = new Health({
      clock,
      log,
      io,
      folder,
      probeMs: config.probeMs,
      degraded: (problem) => host.degraded(problem),
      gone: () => this.#detach(),
      reopen: () => this.#reopen(),
      medium: () => this.#medium,
    });
    this.#loads = new OperationQueue(config.maxRunning, config.maxQueued);
    this.#stores = new OperationQueue(config.maxRunning, config.maxQueued);
    this.#parts = {
      table: this.#table,
      mover,
      clock,
      health: this.#health,
      counters: this.#counters,
      reading: new Throttle(clock, config.readBytesPerSecond),
      writing: new Throttle(clock, config.writeBytesPerSecond),
      removals: this.#removals,
      measured: (kind, blocks, bytes, milliseconds) => host.measured(kind, blocks, bytes, milliseconds),
      medium: () => this.#medium,
      scheduleFlush: () => this.#scheduleFlush(),
    };
  }

  /** Throws with a code what can never work; what may pass opens degraded. */
  static async open(options: DiskStoreOptions, slots: number): Promise<DiskStore> {
    const store = new DiskStore(options, slots);
    const problem = await store.#attach(true);
    store.#health.start(problem);
    return store;
  }

  match(hashes: Int32Array, from: number): number {
    return this.#isClosed || !this.#health.isReadable ? 0 : this.#table.match(hashes, from);
  }

  store(batch: KvBlockBatch, done: () => void): KvOperation {
    const operation = new StoreOperation(this.#parts, batch, done);
    if (!this.#health.isWritable || this.#isClosed) {
      operation.drop('full');
      return ENDED;
    }
    if (this.#stores.isFull) this.#health.slow();
    return this.#stores.add(operation);
  }

  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation {
    let handle: KvOperation | undefined;
    let isOver = false;
    const operation = new LoadOperation(this.#parts, batch, deadlineMs, () => {
      isOver = true;
      done();
    }, () => handle?.cancel());
    handle = this.#loads.add(operation);
    if (!isOver && !operation.isStarted) operation.watch();
    return handle;
  }

  touch(hashes: Int32Array, from: number, count: number): void {
    const end = Math.min(from + count, hashes.length >> 1);
    for (let row = end - 1; row >= from; row--) {
      const [lo, hi] = [hashes[2 * row]!, hashes[2 * row + 1]!];
      this.#table.seen(lo, hi);
      const slot = this.#table.find(lo, hi);
      if (slot < 0) continue;
      this.#table.touch(slot);
      this.#medium?.index.use(slot);
    }
  }

  remove(hashes: Int32Array, count: number, reason: KvRemovalReason): number {
    let removed = 0;
    for (let row = 0; row < count; row++) {
      const slot = this.#table.find(hashes[2 * row]!, hashes[2 * row + 1]!);
      if (slot >= 0 && this.#table.invalidate(slot, reason)) removed++;
    }
    if (reason === 'corrupt') this.#counters.dropped += removed;
    this.#removals.flush();
    this.#scheduleFlush();
    return removed;
  }

  records(visit: KvRecordVisitor): void {
    this.#table.records(visit);
  }

  stats(): KvTierStats {
    const { stores, duplicates, refusals, loads, misses, failures, dropped } = this.#counters;
    return {
      capacityBlocks: this.capacityBlocks,
      heldBlocks: this.#table.registeredPlaces,
      pinnedBlocks: this.#table.referencedPlaces,
      stores,
      duplicates,
      refusals,
      loads,
      misses,
      evictions: this.#table.evictions,
      failures,
      dropped,
    };
  }

  facts(): DiskStoreFacts {
    return {
      ...this.#counters,
      folder: this.#options.folder,
      direct: this.#medium?.slabs.isDirect ?? false,
      lock: this.#medium?.lockKind,
      freeSlots: this.#table.freePlaces,
      indexPagesWritten: this.#medium?.index.counters.pagesWritten ?? 0,
      indexFlushes: this.#medium?.index.counters.flushes ?? 0,
    };
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#isClosed = true;
    this.#health.close();
    const { host, folder, discard } = this.#options;
    const isOver = await within(host, CLOSE_MS, Promise.all([this.#held(this.#loads), this.#held(this.#stores)]).then(() => this.#finish()));
    if (isOver) await discard?.();
    else host.log.error('KV store is left open: its disk does not answer', { code: 'KVBM_DISK_FAILED', folder });
  }

  /** Nothing runs any more. */
  async #finish(): Promise<void> {
    const medium = this.#medium;
    this.#medium = undefined;
    if (medium === undefined) return;
    await new Promise<void>((resolve) =>
      medium.index.finish((error) => {
        if (error !== undefined) this.#options.host.log.warn('KV store: its index is behind', { code: 'KVBM_DISK_FAILED', folder: medium.folder, reason: error.message });
        resolve();
      }),
    );
    await medium.close();
  }

  /** Opens the medium and takes over what it holds. Resolves with what may pass; else throws when `isFirst`. */
  async #attach(isFirst: boolean): Promise<ErrorData | undefined> {
    let medium: Medium;
    try {
      medium = await Medium.open(this.#mediumOptions);
    } catch (error) {
      const problem = error as { toData(): ErrorData; retryable: boolean };
      if (isFirst && !problem.retryable) throw error;
      return problem.toData();
    }
    if (this.#isClosed) {
      await medium.close();
      return undefined;
    }
    this.#medium = medium;
    const adopted = adoptBlocks(medium.index, this.#table);
    // Of older records whose younger ones are held: nobody was told of them.
    this.#removals.forget();
    this.#counters.recovered += adopted.kept;
    this.#counters.dropped += medium.recovery.dropped + adopted.doubled;
    if (medium.recovery.reset !== undefined) this.#counters.resets++;
    if (!medium.slabs.isDirect && this.#mediumOptions.direct) this.#options.host.log.info('KV store without direct I/O: the file system does not offer it', { folder: medium.folder });
    this.#scheduleFlush();
    return undefined;
  }

  /** Not before everything of the last medium has ended. */
  #reopen(): Promise<ErrorData | undefined> {
    if (this.#isDetaching) return Promise.resolve(mediumProblem('ENOENT', this.#options.folder));
    this.#loads.resume();
    this.#stores.resume();
    return this.#attach(false);
  }

  /** The files are gone or belong to somebody else: nothing of them is given out any more, and their space goes back to the system. */
  #detach(): void {
    const medium = this.#medium;
    this.#medium = undefined;
    this.#isDetaching = true;
    for (let slot = 0; slot < this.capacityBlocks; slot++) this.#table.invalidate(slot, 'failed');
    this.#removals.flush();
    void Promise.all([this.#held(this.#loads), this.#held(this.#stores)])
      .then(() => medium?.close())
      .catch((error: unknown) => this.#options.host.log.warn('KV store was not closed in order', { reason: String(error) }))
      .finally(() => (this.#isDetaching = false));
  }

  #held(queue: OperationQueue): Promise<void> {
    return new Promise((resolve) => queue.hold(resolve));
  }

  #removed(lo: number, hi: number, slot: number, reason: KvRemovalReason): void {
    this.#medium?.index.invalidate(slot);
    this.#removals.add(lo, hi, reason);
  }

  #scheduleFlush(): void {
    if (this.#isFlushScheduled) return;
    this.#isFlushScheduled = true;
    this.#options.host.clock.defer(() => {
      this.#isFlushScheduled = false;
      this.#medium?.index.flushed((error) => {
        if (error !== undefined) this.#health.writeFailed(error);
      });
    });
  }
}

const ENDED: KvOperation = { cancel: () => undefined };

/** False: not within that time. */
function within(host: KvTierHost, milliseconds: number, work: Promise<void>): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = host.clock.setTimer(milliseconds, () => resolve(false));
    work.then(() => resolve(true), reject).finally(() => host.clock.clearTimer(timer));
  });
}
