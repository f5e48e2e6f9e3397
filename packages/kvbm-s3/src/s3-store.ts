import { KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch, KvMemory, KvOperation, KvRecordVisitor, KvRemovalReason, KvTierHost, KvTierStats, KvTierStore, Random, Timer } from '@armature/contracts';
import { BusyMeter } from './busy-meter.ts';
import { Circuit } from './circuit.ts';
import type { S3TierConfig } from './config.ts';
import { Directory } from './directory.ts';
import { fingerprintBytes, keyFolder, objectKey } from './format.ts';
import { Gatherer } from './gatherer.ts';
import { Known } from './known-blocks.ts';
import { Lane } from './lane.ts';
import { LoadOperation } from './load-operation.ts';
import { ObjectIndex } from './object-index.ts';
import { walk } from './probe.ts';
import { describeProblem } from './problems.ts';
import type { S3Client } from './s3-client.ts';
import { S3Failure } from './s3-failure.ts';
import type { Segment } from './segment.ts';
import type { RowWaiter } from './segment.ts';
import { Uploader } from './uploader.ts';

const MAX_ASKED = 16;

/** Counters beyond KvTierStats, for tests and logs. */
export interface S3Counters {
  readonly puts: number;
  readonly conflicts: number;
  readonly heads: number;
  readonly retries: number;
  readonly deletedObjects: number;
  readonly unreadableObjects: number;
  readonly unplacedRows: number;
  readonly stagedBlocks: number;
}

/** The object tier: what this process knows of a bucket, and how it reads and writes there. */
export class S3Store implements KvTierStore {
  readonly tier = 'object';
  readonly capacityBlocks: number;
  readonly #config: S3TierConfig;
  readonly #host: KvTierHost;
  readonly #client: S3Client;
  readonly #folder: string;
  readonly #fingerprint: Uint8Array;
  readonly #index: ObjectIndex;
  readonly #directory: Directory;
  readonly #circuit: Circuit;
  readonly #gatherer: Gatherer;
  readonly #uploader: Uploader;
  readonly #uploads: Lane;
  readonly #downloads: Lane;
  /** Segments whose bytes are here, by the hashes of their blocks' rows in the index. */
  readonly #pending: Map<number, { readonly segment: Segment; readonly index: number }>;
  readonly #loading: Set<LoadOperation>;
  readonly #loadMeter: BusyMeter;
  readonly #counts: { stores: number; duplicates: number; refusals: number; loads: number; misses: number; failures: number; dropped: number };
  #housekeeping: Timer | undefined;
  #deletedObjects: number;
  /** Rows of running stores. */
  #pinnedBlocks: number;
  #closing: Promise<void> | undefined;

  constructor(config: S3TierConfig, host: KvTierHost, client: S3Client, random: Random) {
    const { clock, blockBytes } = host;
    this.#config = config;
    this.#host = host;
    this.#client = client;
    this.capacityBlocks = config.knownBlocks;
    this.#folder = keyFolder(config.prefix, host.modelFingerprint, host.layoutFingerprint);
    this.#fingerprint = fingerprintBytes(host.modelFingerprint, host.layoutFingerprint);
    this.#index = new ObjectIndex({ capacity: config.knownBlocks, ttlMs: config.knownTtlMs, clock, removed: (hashes, count, reason) => host.removed(hashes, count, reason) });
    this.#directory = new Directory({ client, folder: this.#folder, blockBytes, clock, missingTtlMs: config.missingTtlMs });
    this.#circuit = new Circuit({
      clock,
      random,
      failuresToOpen: config.failuresToOpen,
      recheckMs: config.recheckMs,
      check: () => this.check(config.requestTimeoutMs),
      describe: (failure) => describeProblem(failure, config),
      changed: (problem) => host.degraded(problem),
    });
    const meter = (kind: 'store' | 'load'): BusyMeter => new BusyMeter(clock, (blocks, bytes, ms) => host.measured(kind, blocks, bytes, ms));
    this.#loadMeter = meter('load');
    this.#uploads = new Lane(Math.max(1, config.connections >> 1), config.maxQueuedObjects);
    this.#downloads = new Lane(config.connections, config.maxQueuedObjects);
    this.#uploader = new Uploader({
      client,
      directory: this.#directory,
      circuit: this.#circuit,
      meter: meter('store'),
      folder: this.#folder,
      blockBytes,
      fingerprint: this.#fingerprint,
      timeoutMs: config.storeTimeoutMs,
      clock,
      ended: (segment, from, to, status) => this.#written(segment, from, to, status),
    });
    this.#gatherer = new Gatherer({
      blocksPerObject: config.blocksPerObject,
      stagedBlocks: Math.floor(config.stagedBytes / blockBytes),
      blockBytes,
      clock,
      write: (segment) => this.#uploads.run(() => this.#write(segment)),
    });
    this.#pending = new Map();
    this.#loading = new Set();
    this.#counts = { stores: 0, duplicates: 0, refusals: 0, loads: 0, misses: 0, failures: 0, dropped: 0 };
    this.#deletedObjects = 0;
    this.#pinnedBlocks = 0;
    this.#closing = undefined;
    this.#schedule();
  }

  get counters(): S3Counters {
    return {
      puts: this.#uploader.puts,
      conflicts: this.#uploader.conflicts,
      heads: this.#directory.asked,
      retries: this.#client.retries,
      deletedObjects: this.#deletedObjects,
      unreadableObjects: this.#uploader.unreadable,
      unplacedRows: this.#gatherer.unplaced,
      stagedBlocks: this.#gatherer.stagedBlocks,
    };
  }

  /** Asks for an object that is never there: tells whether the bucket answers and lets us in. Rejects with S3Failure. */
  async check(timeoutMs: number): Promise<void> {
    try {
      this.#client.reloadCredentials();
      await this.#client.call({ method: 'GET', key: `${this.#folder}check`, deadlineMs: this.#host.clock.nowMs() + timeoutMs });
    } catch (error) {
      const failure = S3Failure.from(error);
      if (failure.status !== 404 || failure.isBucketWrong) throw failure;
    }
  }

  /** Begin as a store that cannot be reached. */
  beginDegraded(failure: S3Failure): void {
    this.#circuit.open(failure);
  }

  match(hashes: Int32Array, from: number): number {
    const rows = hashes.length >> 1;
    const run = this.#circuit.isOpen ? 0 : this.#run(hashes, from);
    // Rows are positions in the chain. What this prompt lacks will be stored next, and what its answer adds after that.
    if (run > 0) this.#learn(hashes, from + run - 1);
    if (rows > from) this.#learn(hashes, rows - 1);
    return run;
  }

  probe(hashes: Int32Array, from: number, deadlineMs: number, done: (blocks: number) => void): KvOperation {
    if (rowsFrom(hashes, from) <= 0 || this.#circuit.isOpen || this.#closing !== undefined) {
      done(0);
      return { cancel: () => {} };
    }
    this.#learn(hashes, (hashes.length >> 1) - 1);
    let isDone = false;
    const { clock } = this.#host;
    const timer = clock.setTimer(deadlineMs, () => operation?.cancel());
    const operation: KvOperation | undefined = walk(
      {
        directory: this.#directory,
        blocksPerObject: this.#config.blocksPerObject,
        maxAsked: MAX_ASKED,
        hashes,
        from,
        askUntilMs: clock.nowMs() + this.#config.requestTimeoutMs,
        known: (row) => this.#run(hashes, row),
        isKnown: (row) => this.#index.live(hashes[row * 2]!, hashes[row * 2 + 1]!) !== -1,
        found: (row, count) => {
          this.#circuit.succeeded();
          this.#index.learn(hashes, row, count);
        },
        failed: (error) => this.#circuit.failed(S3Failure.from(error)),
      },
      (blocks) => {
        isDone = true;
        clock.clearTimer(timer);
        done(blocks);
      },
    );
    return { cancel: () => (isDone ? undefined : operation.cancel()) };
  }

  store(batch: KvBlockBatch, done: () => void): KvOperation {
    let left = batch.count;
    let isCanceled = false;
    this.#pinnedBlocks += batch.count;
    const waiter: RowWaiter = {
      settle: (row, status) => {
        batch.statuses[row] = status;
        if (status === KvBlockStatus.Done) this.#index.announce(batch.hashes[row * 2]!, batch.hashes[row * 2 + 1]!);
        this.#count(status);
        this.#pinnedBlocks--;
        if (--left === 0) done();
      },
      get isCanceled() {
        return isCanceled;
      },
    };
    const operation = { cancel: () => void (isCanceled = true) };
    if (batch.count === 0) {
      done();
      return operation;
    }
    const touched = new Set<Segment>();
    for (let row = 0; row < batch.count; row++) {
      const refusal = this.#refusal(batch, row);
      if (refusal === undefined) touched.add(this.#take(batch, row, waiter));
      else waiter.settle(row, refusal);
    }
    this.#gatherer.settleIn(touched);
    return operation;
  }

  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation {
    const operation = new LoadOperation({
      batch,
      expiresAtMs: this.#host.clock.nowMs() + deadlineMs,
      index: this.#index,
      lane: this.#downloads,
      isUsable: (row) => this.#isUsable(batch, row),
      slot: (row) => this.#slot(batch.memory, batch.blocks[row]!),
      isOpen: !this.#circuit.isOpen && this.#closing === undefined,
      pending: (row) => {
        const at = this.#pending.get(row);
        return at === undefined ? undefined : { bytes: at.segment.bytes[at.index]!, checksumLo: at.segment.checksums[at.index * 2]!, checksumHi: at.segment.checksums[at.index * 2 + 1]! };
      },
      clock: this.#host.clock,
      loader: { client: this.#client, circuit: this.#circuit, meter: this.#loadMeter, folder: this.#folder, blockBytes: this.#host.blockBytes, fingerprint: this.#fingerprint },
      objectBad: (lo, hi, rows) => this.#objectBad(lo, hi, rows),
      done: () => {
        this.#loading.delete(operation);
        for (let row = 0; row < batch.count; row++) this.#countLoad(batch.statuses[row] as KvBlockStatus);
        done();
      },
    });
    this.#loading.add(operation);
    operation.start();
    return operation;
  }

  touch(hashes: Int32Array, from: number, count: number): void {
    for (let i = from; i < from + count; i++) {
      const row = this.#index.blocks.find(hashes[i * 2]!, hashes[i * 2 + 1]!);
      if (row !== -1) this.#index.blocks.mark(row, Known.Recent);
    }
  }

  remove(hashes: Int32Array, count: number, reason: KvRemovalReason): number {
    const { blocks } = this.#index;
    const isBad = reason === 'corrupt' || reason === 'failed';
    let removed = 0;
    for (let i = 0; i < count; i++) {
      const row = blocks.find(hashes[i * 2]!, hashes[i * 2 + 1]!);
      if (row === -1) continue;
      removed++;
      if (isBad) this.#counts.dropped++;
      // Of a segment that is not written yet: the object will hold it, but nobody here will know.
      if (this.#pending.delete(row) === false && (isBad || this.#config.deleteOnRemove)) this.#delete(blocks.firstLo(row), blocks.firstHi(row));
      this.#index.drop(row, reason);
    }
    return removed;
  }

  records(visit: KvRecordVisitor): void {
    this.#index.records(visit);
  }

  stats(): KvTierStats {
    let pinnedBlocks = this.#pinnedBlocks;
    for (const operation of this.#loading) pinnedBlocks += operation.rows;
    return { capacityBlocks: this.capacityBlocks, heldBlocks: this.#index.blocks.size, pinnedBlocks, evictions: this.#index.evictions, ...this.#counts };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { clock } = this.#host;
    if (this.#housekeeping !== undefined) clock.clearTimer(this.#housekeeping);
    for (const operation of this.#loading) operation.cancel();
    this.#gatherer.flush(0);
    const timer = { set: undefined as Timer | undefined };
    const late = new Promise<void>((resolve) => (timer.set = clock.setTimer(this.#config.closeTimeoutMs, resolve)));
    await Promise.race([Promise.all([this.#uploads.whenIdle(), this.#downloads.whenIdle()]), late]);
    clock.clearTimer(timer.set!);
    this.#circuit.close();
    await this.#client.close();
    await Promise.all([this.#uploads.whenIdle(), this.#downloads.whenIdle()]);
  }

  #run(hashes: Int32Array, from: number): number {
    const rows = hashes.length >> 1;
    let to = from;
    for (; to < rows; to++) {
      const row = this.#index.live(hashes[to * 2]!, hashes[to * 2 + 1]!);
      if (row === -1) break;
      this.#index.blocks.mark(row, Known.Recent);
    }
    return to - from;
  }

  #learn(hashes: Int32Array, row: number): void {
    this.#gatherer.learn(hashes[row * 2]!, hashes[row * 2 + 1]!, row);
  }

  #schedule(): void {
    const everyMs = Math.max(100, Math.min(this.#config.flushAfterMs, this.#config.knownTtlMs) / 4);
    this.#housekeeping = this.#host.clock.setTimer(everyMs, () => {
      this.#gatherer.flush(this.#config.flushAfterMs);
      this.#index.sweep();
      this.#schedule();
    });
  }

  /** Why the row is not taken in; undefined: it is. */
  #refusal(batch: KvBlockBatch, row: number): KvBlockStatus | undefined {
    if (!this.#isUsable(batch, row)) return KvBlockStatus.Failed;
    const known = this.#index.live(batch.hashes[row * 2]!, batch.hashes[row * 2 + 1]!);
    if (known !== -1) {
      this.#index.blocks.mark(known, Known.Announced | Known.Recent);
      return KvBlockStatus.Present;
    }
    if (this.#circuit.isOpen || this.#closing !== undefined || this.#uploads.isFull) return KvBlockStatus.Refused;
    if (this.#pending.size >= this.capacityBlocks) return KvBlockStatus.Refused;
    return undefined;
  }

  #take(batch: KvBlockBatch, row: number, waiter: RowWaiter): Segment {
    const known = this.#index.add(batch.hashes, batch.parents, row, Known.Pending);
    const segment = this.#gatherer.add(batch, row, this.#slot(batch.memory, batch.blocks[row]!), waiter);
    this.#pending.set(known, { segment, index: segment.count - 1 });
    return segment;
  }

  /** Bytes that the CPU can reach, whole blocks of the right size. */
  #isUsable({ memory, blocks, tenant }: KvBlockBatch, row: number): boolean {
    const isWhole = memory.pieces * memory.pieceBytes === this.#host.blockBytes && (memory.pieces === 1 || memory.pieceStrideBytes === memory.pieceBytes);
    return memory.bytes !== undefined && isWhole && tenant >= 0 && blocks[row]! >= 0 && blocks[row]! < memory.blocks;
  }

  #slot(memory: KvMemory, block: number): Uint8Array {
    const start = block * memory.blockStrideBytes;
    return memory.bytes!.subarray(start, start + this.#host.blockBytes);
  }

  async #write(segment: Segment): Promise<void> {
    await this.#uploader.write(segment);
    this.#gatherer.release(segment);
  }

  #written(segment: Segment, from: number, to: number, status: KvBlockStatus): void {
    const isHeld = status === KvBlockStatus.Done || status === KvBlockStatus.Present;
    for (let i = from; i < to; i++) {
      const row = this.#index.blocks.find(segment.hashes[i * 2]!, segment.hashes[i * 2 + 1]!);
      // Removed meanwhile, and perhaps taken in anew as part of another segment.
      const isOurs = row !== -1 && this.#pending.get(row)?.segment === segment;
      if (isOurs) {
        this.#pending.delete(row);
        if (isHeld) this.#index.written(segment, i, from);
        else this.#index.drop(row, 'failed');
      }
      segment.settle(i, status);
    }
  }

  #objectBad(lo: number, hi: number, rows: readonly number[]): void {
    this.#counts.dropped += rows.length;
    for (const row of rows) this.#index.drop(row, 'corrupt');
    this.#delete(lo, hi);
  }

  /** What is under this name is worth nothing, and nobody could write it anew while it is there. */
  #delete(lo: number, hi: number): void {
    if (this.#circuit.isOpen || this.#closing !== undefined) return;
    this.#deletedObjects++;
    this.#uploads.run(async () => {
      const deadlineMs = this.#host.clock.nowMs() + this.#config.storeTimeoutMs;
      await this.#client.call({ method: 'DELETE', key: objectKey(this.#folder, lo, hi), deadlineMs }).catch((error: unknown) => this.#circuit.failed(S3Failure.from(error)));
    });
  }

  #count(status: KvBlockStatus): void {
    if (status === KvBlockStatus.Done) this.#counts.stores++;
    else if (status === KvBlockStatus.Present) this.#counts.duplicates++;
    else if (status === KvBlockStatus.Refused) this.#counts.refusals++;
    else if (status === KvBlockStatus.Failed) this.#counts.failures++;
  }

  #countLoad(status: KvBlockStatus): void {
    if (status === KvBlockStatus.Done) this.#counts.loads++;
    else if (status === KvBlockStatus.Missing) this.#counts.misses++;
    else if (status !== KvBlockStatus.Canceled) this.#counts.failures++;
  }
}


function rowsFrom(hashes: Int32Array, from: number): number {
  return (hashes.length >> 1) - from;
}
