import { KvBlockStatus, TransferStatus } from '@armature/contracts';
import type { Clock, KvBlockBatch, KvMemory, KvMemoryTier, KvOperation, KvRecordVisitor, KvRemovalReason, KvTierHost, KvTierStats, Logger, SegmentLocation } from '@armature/contracts';
import { BlockTable } from '../store/block-table.ts';
import { Removals } from '../store/removals.ts';
import { HostTransfer } from './host-transfer.ts';

/** Copies between memories do not hang: this only bounds the wait behind others. */
const STORE_DEADLINE_MS = 30_000;
/** Closing waits so long for transfers of others that still use the memory. */
const CLOSE_WAIT_MS = 5_000;
const CLOSE_STEP_MS = 5;

const NOTHING: KvOperation = { cancel: () => undefined };

/** The registered memory that a store stands on, `HostMemory` or another's. */
export interface HostStoreMemory {
  readonly memory: KvMemory;
  readonly location: Extract<SegmentLocation, { type: 'shared' }> | undefined;
  /** Throws `TRANSFER_SEGMENT_BUSY` while a transfer uses it. */
  close(): void;
}

/**
 * The host tier (G2) of one worker: a `BlockTable` over one contiguous memory. Blocks are filled and read in place (`allocate`, `register`, `acquire`) or copied
 * by the worker's mover (`store`, `load`). Place `p` of the table is block `p` of the memory.
 */
export class HostStore implements KvMemoryTier {
  readonly tier = 'host';
  readonly capacityBlocks: number;
  readonly memory: KvMemory;
  readonly location?: Extract<SegmentLocation, { type: 'shared' }>;
  readonly #host: KvTierHost;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #hostMemory: HostStoreMemory;
  readonly #table: BlockTable;
  readonly #removals: Removals;
  /** Two words a place. */
  readonly #checksums: Int32Array;
  /** Own memory as others cut theirs, by number of pieces. */
  readonly #views: Map<number, KvMemory>;
  readonly #running: Set<HostTransfer>;
  #stores: number;
  #duplicates: number;
  #refusals: number;
  #loads: number;
  #misses: number;
  #failures: number;
  #dropped: number;
  #isClosed: boolean;
  #closing: Promise<void> | undefined;

  constructor(host: KvTierHost, hostMemory: HostStoreMemory) {
    const { memory } = hostMemory;
    const places = memory.blocks;
    this.capacityBlocks = places;
    this.memory = memory;
    if (hostMemory.location !== undefined) this.location = hostMemory.location;
    this.#host = host;
    this.#clock = host.clock;
    this.#log = host.log;
    this.#hostMemory = hostMemory;
    this.#removals = new Removals((hashes, count, reason) => host.removed(hashes, count, reason));
    this.#table = new BlockTable({
      places,
      order: host.order(places),
      quota: (tenant) => host.quota(tenant, places),
      onRemoved: (lo, hi, _place, reason) => this.#removals.add(lo, hi, reason),
    });
    this.#checksums = new Int32Array(2 * places);
    this.#views = new Map([[1, memory]]);
    this.#running = new Set();
    this.#stores = 0;
    this.#duplicates = 0;
    this.#refusals = 0;
    this.#loads = 0;
    this.#misses = 0;
    this.#failures = 0;
    this.#dropped = 0;
    this.#isClosed = false;
    this.#closing = undefined;
  }

  match(hashes: Int32Array, from: number): number {
    return this.#isClosed ? 0 : this.#table.match(hashes, from);
  }

  store(batch: KvBlockBatch, done: () => void): KvOperation {
    const { count, hashes, statuses, tenant } = batch;
    const transfer = new HostTransfer('store', batch, done);
    for (let row = 0; row < count; row++) {
      const lo = hashes[2 * row];
      const hi = hashes[2 * row + 1];
      this.#table.seen(lo, hi);
      if (this.#table.find(lo, hi) !== -1) {
        statuses[row] = KvBlockStatus.Present;
        continue;
      }
      if (!isBlockOf(batch, row)) {
        statuses[row] = KvBlockStatus.Failed;
        continue;
      }
      const place = this.#isClosed ? -1 : this.#table.allocate(tenant, lo, hi);
      if (place === -1) statuses[row] = KvBlockStatus.Refused;
      else transfer.add(row, place);
    }
    this.#touchRows(batch, KvBlockStatus.Present);
    this.#removals.flush();
    return this.#run(transfer, STORE_DEADLINE_MS);
  }

  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation {
    const { count, hashes, statuses } = batch;
    const transfer = new HostTransfer('load', batch, done);
    for (let row = 0; row < count; row++) {
      const place = this.#isClosed ? -1 : this.#wanted(hashes, row);
      if (place === -1 || !isBlockOf(batch, row)) {
        statuses[row] = place === -1 ? KvBlockStatus.Missing : KvBlockStatus.Failed;
        continue;
      }
      this.#table.acquire(place);
      transfer.add(row, place);
    }
    return this.#run(transfer, deadlineMs);
  }

  touch(hashes: Int32Array, from: number, count: number): void {
    for (let row = from + count - 1; row >= from; row--) {
      const place = this.#table.find(hashes[2 * row], hashes[2 * row + 1]);
      if (place !== -1) this.#table.touch(place);
    }
  }

  remove(hashes: Int32Array, count: number, reason: KvRemovalReason): number {
    let removed = 0;
    for (let row = 0; row < count; row++) {
      const place = this.#table.find(hashes[2 * row], hashes[2 * row + 1]);
      if (place !== -1 && this.#table.invalidate(place, reason)) removed++;
    }
    if (reason === 'corrupt') this.#dropped += removed;
    this.#removals.flush();
    return removed;
  }

  records(visit: KvRecordVisitor): void {
    this.#table.records(visit);
  }

  allocate(tenant: number, count: number, out: Int32Array): number {
    let given = 0;
    while (given < count && !this.#isClosed) {
      const place = this.#table.allocate(tenant);
      if (place === -1) break;
      out[given++] = place;
    }
    if (given < count) this.#refusals += count - given;
    this.#removals.flush();
    return given;
  }

  register(batch: KvBlockBatch): void {
    const { count, blocks, statuses } = batch;
    for (let row = 0; row < count; row++) statuses[row] = this.#isMutable(blocks[row]) ? this.#enter(batch, row, blocks[row]) : KvBlockStatus.Failed;
    for (let row = count - 1; row >= 0; row--) {
      if (statuses[row] !== KvBlockStatus.Failed) this.#table.release(blocks[row]);
      if (statuses[row] === KvBlockStatus.Done) this.#stores++;
      else if (statuses[row] === KvBlockStatus.Present) this.#duplicates++;
    }
  }

  free(blocks: Int32Array, count: number): void {
    for (let i = 0; i < count; i++) {
      if (this.#isMutable(blocks[i])) this.#table.release(blocks[i]);
      else this.#misused('free', blocks[i]);
    }
  }

  acquire(hashes: Int32Array, from: number, count: number, out: Int32Array): number {
    const end = Math.min(from + count, hashes.length >> 1, from + out.length);
    let row = from;
    for (; row < end && !this.#isClosed; row++) {
      const place = this.#wanted(hashes, row);
      if (place === -1) break;
      this.#table.acquire(place);
      out[row - from] = place;
    }
    const acquired = row - from;
    for (let i = acquired - 1; i >= 0; i--) this.#table.touch(out[i]);
    this.#loads += acquired;
    return acquired;
  }

  release(blocks: Int32Array, count: number): void {
    for (let i = count - 1; i >= 0; i--) {
      if (this.#table.references(blocks[i]) > 0) this.#table.release(blocks[i]);
      else this.#misused('release', blocks[i]);
    }
  }

  record(block: number, out: Int32Array): boolean {
    if (!this.#table.lineage(block, out)) return false;
    out[4] = this.#checksums[2 * block];
    out[5] = this.#checksums[2 * block + 1];
    return true;
  }

  stats(): KvTierStats {
    const { places, registeredPlaces, referencedPlaces, evictions } = this.#table;
    return {
      capacityBlocks: places,
      heldBlocks: registeredPlaces,
      pinnedBlocks: referencedPlaces,
      stores: this.#stores,
      duplicates: this.#duplicates,
      refusals: this.#refusals,
      loads: this.#loads,
      misses: this.#misses,
      evictions,
      failures: this.#failures,
      dropped: this.#dropped,
    };
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  /** Memory that somebody's transfer still uses is never unmapped under it: it is left to the end of the process, with a line in the log. */
  async #close(): Promise<void> {
    this.#isClosed = true;
    const untilMs = this.#clock.nowMs() + CLOSE_WAIT_MS;
    for (const transfer of [...this.#running]) transfer.cancel();
    for (;;) {
      try {
        if (this.#running.size === 0) return this.#hostMemory.close();
      } catch (error) {
        if (this.#clock.nowMs() >= untilMs) this.#log.error('host tier stays mapped: a transfer uses it', { reason: String(error) });
      }
      if (this.#clock.nowMs() >= untilMs) return;
      await this.#clock.sleep(CLOSE_STEP_MS);
    }
  }

  #run(transfer: HostTransfer, deadlineMs: number): KvOperation {
    const { batch, kind } = transfer;
    const from = kind === 'store' ? batch.memory : this.#viewFor(batch.memory);
    const to = kind === 'store' ? this.#viewFor(batch.memory) : batch.memory;
    if (transfer.rows === 0 || from === undefined || to === undefined) {
      this.#ended(transfer, from === undefined || to === undefined ? TransferStatus.InvalidDescriptor : TransferStatus.Done);
      return NOTHING;
    }
    const [fromBlocks, toBlocks] = kind === 'store' ? [transfer.blocks(), transfer.places()] : [transfer.places(), transfer.blocks()];
    transfer.startMs = this.#clock.nowMs();
    this.#running.add(transfer);
    transfer.copy = this.#host.mover.copy(from, fromBlocks, to, toBlocks, deadlineMs, (status) => this.#ended(transfer, status));
    return transfer;
  }

  #ended(transfer: HostTransfer, status: TransferStatus): void {
    this.#running.delete(transfer);
    const { kind, batch, rows } = transfer;
    if (rows > 0 && status === TransferStatus.Done) {
      this.#host.measured(kind, rows, rows * this.#host.blockBytes, this.#clock.nowMs() - transfer.startMs);
    }
    for (let i = 0; i < rows; i++) this.#settle(transfer, i, status);
    // Leaves before their parents.
    for (let i = rows - 1; i >= 0; i--) {
      const place = transfer.place(i);
      if (kind === 'load') this.#table.touch(place);
      this.#table.release(place);
    }
    this.#count(kind, batch);
    transfer.done();
  }

  #settle(transfer: HostTransfer, i: number, status: TransferStatus): void {
    const { batch, kind } = transfer;
    const row = transfer.row(i);
    const place = transfer.place(i);
    if (status !== TransferStatus.Done) batch.statuses[row] = transfer.failure(status);
    else if (kind === 'store') batch.statuses[row] = this.#enter(batch, row, place);
    else {
      batch.checksums[2 * row] = this.#checksums[2 * place];
      batch.checksums[2 * row + 1] = this.#checksums[2 * place + 1];
      batch.statuses[row] = KvBlockStatus.Done;
    }
  }

  /** The mutable place holds the row's block. Present: the same hash came from elsewhere meanwhile; the place goes back at its release. */
  #enter({ hashes, parents, checksums }: KvBlockBatch, row: number, place: number): KvBlockStatus {
    const isNew = this.#table.register(place, hashes[2 * row], hashes[2 * row + 1], parents[2 * row], parents[2 * row + 1]);
    if (!isNew) return KvBlockStatus.Present;
    this.#checksums[2 * place] = checksums[2 * row];
    this.#checksums[2 * place + 1] = checksums[2 * row + 1];
    return KvBlockStatus.Done;
  }

  /** Counts the hash as asked for, and as a miss when it is not held. */
  #wanted(hashes: Int32Array, row: number): number {
    const lo = hashes[2 * row];
    const hi = hashes[2 * row + 1];
    this.#table.seen(lo, hi);
    const place = this.#table.find(lo, hi);
    if (place === -1) this.#misses++;
    return place;
  }

  #touchRows({ count, hashes, statuses }: KvBlockBatch, status: KvBlockStatus): void {
    for (let row = count - 1; row >= 0; row--) if (statuses[row] === status) this.touch(hashes, row, 1);
  }

  #viewFor({ pieces, pieceBytes }: KvMemory): KvMemory | undefined {
    if (!(pieces >= 1) || pieces * pieceBytes !== this.#host.blockBytes) return undefined;
    let view = this.#views.get(pieces);
    if (view === undefined) {
      const { blocks, blockStrideBytes } = this.memory;
      view = this.#host.mover.view(this.memory, { blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes: pieceBytes });
      this.#views.set(pieces, view);
    }
    return view;
  }

  #count(kind: 'store' | 'load', { count, statuses }: KvBlockBatch): void {
    for (let row = 0; row < count; row++) {
      const status = statuses[row];
      if (status === KvBlockStatus.Failed) this.#failures++;
      else if (kind === 'load') this.#loads += status === KvBlockStatus.Done ? 1 : 0;
      else if (status === KvBlockStatus.Done) this.#stores++;
      else if (status === KvBlockStatus.Present) this.#duplicates++;
      else if (status === KvBlockStatus.Refused) this.#refusals++;
    }
  }

  #isMutable(place: number): boolean {
    return this.#table.references(place) > 0 && !this.#table.isRegistered(place);
  }

  /** A bug of the caller. Its other blocks are still served: nothing was changed for this one. */
  #misused(call: string, block: number): void {
    this.#log.error('host tier: a block that its caller does not hold', { code: 'KVBM_UNPIN_INVALID', call, block });
  }
}

/** Whether the row names a block of the batch's memory: rows are independent, one bad number must not fail the others. */
function isBlockOf({ memory, blocks }: KvBlockBatch, row: number): boolean {
  return blocks[row] >= 0 && blocks[row] < memory.blocks;
}
