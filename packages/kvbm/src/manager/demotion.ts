import { KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch, KvOffloadRule, KvOperation, Timer } from '@armature/contracts';
import { batchOf, keepRows } from './batches.ts';
import type { ManagedTier, ManagerParts } from './parts.ts';
import { RowQueue } from './row-queue.ts';
import type { Rows } from './row-queue.ts';

const FLUSH_MS = 3;
const MAX_RUNNING = 2;
/** A tier that needs longer for a batch is told to stop; the blocks stay where they are. */
const STORE_DEADLINE_MS = 30_000;
const LOAD_DEADLINE_MS = 10_000;
/** Batches under way pin at most this share of the host tier, each half of it. */
const MAX_PINNED = 0.25;
/** When somebody finds no room in the host tier, stores that run longer are given up. */
const PATIENCE_MS = 50;
/** Rule `evict`: while fewer places than this share are free, the next victims are copied down before they go. At least one batch, at most so many. */
const MARGIN = 0.125;
const MAX_MARGIN_BATCHES = 8;
/** And as many as lately came in before the copies had caught up, with a quarter to spare; at most this share. Else the end of each burst pushes out what is nowhere else. */
const BURST_MARGIN = 1.25;
const MAX_BURST_MARGIN = 0.5;
/** What the largest burst still counts after one that was smaller. */
const BURST_KEPT = 0.9;

/**
 * Copies blocks from one tier below the device to the next, by the policy's rule. Bytes always pass through host memory: from the host tier they are stored where they lie,
 * from a lower one they are loaded and checked first. A slow or failing target loses offloads, never room for requests: at most two batches are pinned.
 */
export class Demotion {
  readonly from: ManagedTier;
  readonly to: ManagedTier;
  readonly #parts: ManagerParts;
  readonly #rule: KvOffloadRule;
  readonly #queue: RowQueue;
  readonly #running = new Set<Demoted>();
  readonly #batchBlocks: number;
  readonly #onStored: (batch: KvBlockBatch) => void;
  #timer: Timer | undefined = undefined;
  #isClosed = false;
  #demoted = 0;
  #lost = 0;
  /** Blocks that came in since the copies last had caught up, and the most of them lately. */
  #arrived = 0;
  #burst = 0;

  /** `onStored`: of a batch that went down. */
  constructor(parts: ManagerParts, from: ManagedTier, to: ManagedTier, onStored: (batch: KvBlockBatch) => void) {
    this.#parts = parts;
    this.#onStored = onStored;
    this.from = from;
    this.to = to;
    this.#rule = parts.policy.offload(from.store.tier);
    this.#queue = new RowQueue(parts.config.maxQueuedBlocks);
    this.#batchBlocks = Math.max(1, Math.min(parts.config.batchBlocks, Math.floor((MAX_PINNED / MAX_RUNNING) * parts.host.store.capacityBlocks)));
  }

  /** Batches under way. */
  get running(): number {
    return this.#running.size;
  }

  get queued(): number {
    return this.#queue.count;
  }

  get dropped(): number {
    return this.#queue.dropped + this.#lost;
  }

  get demoted(): number {
    return this.#demoted;
  }

  /** Blocks have come into the upper tier. */
  stored({ count, hashes, parents, statuses }: KvBlockBatch): void {
    if (this.#isClosed) return;
    if (this.#rule.when === 'evict') {
      this.#arrived += count;
      this.#wake();
    }
    if (this.#rule.when !== 'stored') return;
    for (let row = 0; row < count; row++) {
      if (statuses[row] === KvBlockStatus.Done) this.push(hashes[2 * row], hashes[2 * row + 1], parents[2 * row], parents[2 * row + 1]);
    }
  }

  push(lo: number, hi: number, parentLo: number, parentHi: number): void {
    if (this.#isClosed) return;
    const before = this.#queue.dropped;
    this.#queue.push(lo, hi, parentLo, parentHi, this.from.owners.of(lo, hi));
    this.#parts.metrics.dropped('overflow', this.#queue.dropped - before);
    this.#wake();
  }

  /** There is no room in the host tier: what has kept some of it for long lets go, without having been copied. */
  makeRoom(): void {
    const nowMs = this.#parts.clock.nowMs();
    for (const demoted of this.#running) if (nowMs - demoted.startMs > PATIENCE_MS) demoted.cancel();
  }

  /** Nothing is begun any more; what runs ends soon, with its pins. */
  cancelAll(): void {
    this.#isClosed = true;
    this.#queue.clear();
    if (this.#timer !== undefined) this.#parts.clock.clearTimer(this.#timer);
    for (const demoted of this.#running) demoted.cancel();
  }

  #wake(): void {
    this.#timer ??= this.#parts.clock.setTimer(FLUSH_MS, () => {
      this.#timer = undefined;
      if (this.#rule.when === 'evict') this.#pollVictims();
      this.#pump();
    });
  }

  /** As far as room is short, the next victims that are not below yet. */
  #pollVictims(): void {
    const { store, order } = this.from;
    const { batchBlocks } = this.#parts.config;
    const share = Math.min(MAX_MARGIN_BATCHES * batchBlocks, Math.floor(MARGIN * store.capacityBlocks));
    const burst = Math.min(Math.floor(MAX_BURST_MARGIN * store.capacityBlocks), Math.ceil(BURST_MARGIN * Math.max(this.#burst, this.#arrived)));
    const margin = Math.min(store.capacityBlocks, Math.max(batchBlocks, share, burst));
    const free = store.capacityBlocks - order.held;
    if (free >= margin || this.#queue.count > 0) return;
    const rows = order.next(margin - free);
    for (let at = 0; at < rows.length; at += 4) {
      if (this.to.store.match(rows.subarray(at, at + 2), 0) === 1 || this.#isRunning(rows[at], rows[at + 1])) continue;
      this.#queue.push(rows[at], rows[at + 1], rows[at + 2], rows[at + 3], this.from.owners.of(rows[at], rows[at + 1]));
    }
    if (this.#queue.count > 0 || this.#running.size > 0) return;
    this.#burst = Math.max(this.#arrived, BURST_KEPT * this.#burst);
    this.#arrived = 0;
  }

  #isRunning(lo: number, hi: number): boolean {
    for (const { rows } of this.#running) for (let row = 0; row < rows.count; row++) if (rows.hashes[2 * row] === lo && rows.hashes[2 * row + 1] === hi) return true;
    return false;
  }

  #pump(): void {
    const word = new Int32Array(2);
    const isBelow = (lo: number, hi: number): boolean => {
      word[0] = lo;
      word[1] = hi;
      return this.to.store.match(word, 0) === 1;
    };
    while (!this.#isClosed && this.#queue.count > 0 && this.#running.size < MAX_RUNNING) {
      const rows = this.#queue.take(this.#batchBlocks, isBelow);
      if (rows.count === 0) continue;
      const demoted = new Demoted(this.#parts, { from: this.from, to: this.to, rows }, (batch) => this.#ended(demoted, batch));
      this.#running.add(demoted);
      demoted.start();
    }
  }

  #ended(demoted: Demoted, batch: KvBlockBatch | undefined): void {
    const { metrics, events } = this.#parts;
    this.#running.delete(demoted);
    const { count } = demoted.rows;
    let done = 0;
    let refused = 0;
    let failed = 0;
    for (const status of batch?.statuses ?? []) {
      if (status === KvBlockStatus.Done) done++;
      else if (status === KvBlockStatus.Refused) refused++;
      else if (status !== KvBlockStatus.Present) failed++;
    }
    const gone = count - (batch?.count ?? 0);
    this.#demoted += done;
    this.#lost += gone + refused + failed;
    metrics.offloaded(this.to.store.tier, done);
    metrics.dropped('gone', gone);
    metrics.dropped('refused', refused);
    metrics.dropped('failed', failed);
    if (batch !== undefined) {
      this.to.owners.storedRows(batch);
      events.stored(this.to.store.tier, batch);
      this.#onStored(batch);
    }
    if (this.#isClosed) return;
    // The victims were looked at before these went down: there may be more.
    if (this.#rule.when === 'evict' && done > 0) this.#wake();
    if (this.#queue.count > 0) this.#parts.clock.defer(() => this.#pump());
  }
}

interface DemotedOptions {
  readonly from: ManagedTier;
  readonly to: ManagedTier;
  readonly rows: Rows;
}

/** One batch on its way down. */
class Demoted {
  readonly rows: Rows;
  readonly startMs: number;
  readonly #parts: ManagerParts;
  readonly #from: ManagedTier;
  readonly #to: ManagedTier;
  readonly #done: (batch: KvBlockBatch | undefined) => void;
  #operation: KvOperation | undefined = undefined;
  #limit: Timer | undefined = undefined;
  #isCanceled = false;

  constructor(parts: ManagerParts, { from, to, rows }: DemotedOptions, done: (batch: KvBlockBatch | undefined) => void) {
    this.rows = rows;
    this.startMs = parts.clock.nowMs();
    this.#parts = parts;
    this.#from = from;
    this.#to = to;
    this.#done = done;
  }

  start(): void {
    if (this.#from.store === this.#parts.host.store) this.#startFromHost();
    else this.#startFromBelow();
  }

  cancel(): void {
    this.#isCanceled = true;
    this.#operation?.cancel();
  }

  /** The rows that the host tier holds, each pinned, not used by it. */
  #startFromHost(): void {
    const { host } = this.#parts;
    const batch = pinHostRows(this.#parts, this.rows);
    if (batch.count === 0) return this.#done(undefined);
    this.#store(batch, () => host.order.quietly(() => host.store.release(batch.blocks, batch.count)));
  }

  #startFromBelow(): void {
    const { host, checks } = this.#parts;
    const { count, tenant } = this.rows;
    const blocks = new Int32Array(count);
    const given = host.store.allocate(tenant, count, blocks);
    if (given === 0) return this.#done(undefined);
    const free = (): void => host.store.free(blocks, given);
    const loading = keepRows(batchOf(this.rows, host.store.memory, blocks), (row) => row < given);
    this.#operation = this.#from.order.quietly(() =>
      this.#from.store.load(loading, LOAD_DEADLINE_MS, () => {
        const loaded = keepRows(loading, (row) => loading.statuses[row] === KvBlockStatus.Done);
        const found = new Int32Array(2 * loaded.count);
        checks.compute(loaded.memory, loaded.blocks, loaded.hashes, found, 'background', () => {
          const isGood = (row: number): boolean => found[2 * row] === loaded.checksums[2 * row] && found[2 * row + 1] === loaded.checksums[2 * row + 1];
          const bad = keepRows(loaded, (row) => !isGood(row));
          if (bad.count > 0) {
            this.#parts.metrics.corrupt(this.#from.store.tier, bad.count);
            this.#from.store.remove(bad.hashes, bad.count, 'corrupt');
          }
          const good = keepRows(loaded, isGood);
          if (good.count > 0 && !this.#isCanceled) return this.#store(good, free);
          free();
          this.#done(undefined);
        });
      }),
    );
  }

  #store(batch: KvBlockBatch, release: () => void): void {
    const { clock } = this.#parts;
    this.#limit = clock.setTimer(STORE_DEADLINE_MS, () => {
      this.#limit = undefined;
      this.#operation?.cancel();
    });
    this.#operation = this.#to.store.store(batch, () => {
      if (this.#limit !== undefined) clock.clearTimer(this.#limit);
      this.#limit = undefined;
      release();
      this.#done(batch);
    });
    if (this.#isCanceled) this.#operation.cancel();
  }
}

/** The rows that the host tier holds, pinned for the manager's own reading, with their checksums. Release them quietly. */
export function pinHostRows(parts: Pick<ManagerParts, 'host'>, rows: Rows): KvBlockBatch {
  const { store, order } = parts.host;
  const batch = batchOf(rows, store.memory, new Int32Array(rows.count).fill(-1));
  const record = new Int32Array(6);
  order.quietly(() => {
    for (let row = 0; row < rows.count; row++) {
      if (store.acquire(rows.hashes.subarray(2 * row, 2 * row + 2), 0, 1, batch.blocks.subarray(row, row + 1)) === 0) continue;
      store.record(batch.blocks[row], record);
      batch.checksums.set(record.subarray(4, 6), 2 * row);
    }
  });
  return keepRows(batch, (row) => batch.blocks[row] !== -1);
}
