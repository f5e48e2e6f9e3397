import { KvBlockStatus, TransferStatus } from '@armature/contracts';
import type { KvBlockBatch, KvEvent, KvLease, KvOffloadRule, Timer } from '@armature/contracts';
import { U64Map } from '@armature/tokens';
import { isOutOfReach } from '../device/out-of-reach.ts';
import { batchOf, keepRows } from './batches.ts';
import type { ManagerParts } from './parts.ts';
import { RowQueue } from './row-queue.ts';
import { BlockOwners } from './tenants.ts';

/** Stored blocks are gathered so long, or until a batch is full. */
const FLUSH_MS = 3;
/** Batches on their way from the device at once: one is checked while another is copied. */
const MAX_RUNNING = 2;
/** A copy within a machine takes milliseconds; longer means that it hangs. */
const COPY_DEADLINE_MS = 5_000;
const LEASE_TTL_MS = 30_000;
/** Rule `evict`: the oldest blocks are copied while less than this share of the device is free of cached blocks. */
const WATERMARK = 0.25;

/** Copies blocks from the device (G1) to the host tier (G2), by the policy's rule. Works in its own turns; what it cannot keep up with is dropped. */
export class DeviceOffload {
  readonly owners = new BlockOwners();
  readonly #parts: ManagerParts;
  readonly #rule: KvOffloadRule;
  readonly #queue: RowQueue;
  readonly #uses = new U64Map();
  readonly #running = new Set<Offload>();
  #registered = 0;
  #timer: Timer | undefined = undefined;
  #isClosed = false;
  #offloaded = 0;
  #lost = 0;

  constructor(parts: ManagerParts) {
    this.#parts = parts;
    this.#rule = parts.policy.offload('device');
    this.#queue = new RowQueue(parts.config.maxQueuedBlocks);
  }

  /** Batches under way. */
  get running(): number {
    return this.#running.size;
  }

  get queued(): number {
    return this.#queue.count;
  }

  /** Blocks that were to be copied and were not. */
  get dropped(): number {
    return this.#queue.dropped + this.#lost;
  }

  get offloaded(): number {
    return this.#offloaded;
  }

  get pinnedBlocks(): number {
    let blocks = 0;
    for (const { leases } of this.#running) for (const lease of leases) blocks += lease.blocks.length;
    return blocks;
  }

  engineEvent(event: KvEvent): void {
    if (this.#isClosed || isOutOfReach(this.#parts.kv.arena()) || (event.type !== 'cleared' && event.tier !== 'device')) return;
    if (event.type === 'stored') this.#stored(event.parent, event.sequenceHashes, this.#parts.tenants.numberOf(event.cacheSalt ?? ''));
    else if (event.type === 'removed') this.#removed(event.sequenceHashes);
    else if (event.tier === undefined || event.tier === 'device') {
      this.#registered = 0;
      this.owners.clear();
      this.#uses.clear();
    }
    if (this.#rule.when === 'evict' && this.#parts.device.blocks - this.#registered < WATERMARK * this.#parts.device.blocks) this.#wake();
  }

  /** A request found its first `blocks` blocks on the device. */
  used(hashes: Int32Array, blocks: number): void {
    const rule = this.#rule;
    if (rule.when !== 'uses' || this.#isClosed) return;
    for (let row = 0; row < blocks; row++) {
      const lo = hashes[2 * row];
      const hi = hashes[2 * row + 1];
      const uses = Math.max(0, this.#uses.get(lo, hi)) + 1;
      if (uses > rule.uses) continue;
      this.#uses.set(lo, hi, uses);
      if (uses === rule.uses) this.#push(lo, hi, row === 0 ? 0 : hashes[2 * row - 2], row === 0 ? 0 : hashes[2 * row - 1]);
    }
  }

  /** Nothing is begun any more; what runs ends soon, with its pins. */
  cancelAll(): void {
    this.#isClosed = true;
    this.#queue.clear();
    if (this.#timer !== undefined) this.#parts.clock.clearTimer(this.#timer);
    for (const offload of this.#running) offload.cancel();
  }

  #stored(parent: Int32Array, hashes: Int32Array, tenant: number): void {
    const rows = hashes.length >> 1;
    this.#registered += rows;
    for (let row = 0; row < rows; row++) {
      const lo = hashes[2 * row];
      const hi = hashes[2 * row + 1];
      this.owners.stored(lo, hi, tenant);
      if (this.#rule.when !== 'stored' || this.#parts.host.store.match(hashes.subarray(2 * row, 2 * row + 2), 0) === 1) continue;
      const parentLo = row > 0 ? hashes[2 * row - 2] : (parent[0] ?? 0);
      this.#push(lo, hi, parentLo, row > 0 ? hashes[2 * row - 1] : (parent[1] ?? 0));
    }
  }

  #removed(hashes: Int32Array): void {
    const rows = hashes.length >> 1;
    this.#registered = Math.max(0, this.#registered - rows);
    this.owners.removed(hashes, rows);
    if (this.#uses.size > 0) for (let row = 0; row < rows; row++) this.#uses.delete(hashes[2 * row], hashes[2 * row + 1]);
  }

  #push(lo: number, hi: number, parentLo: number, parentHi: number): void {
    const before = this.#queue.dropped;
    this.#queue.push(lo, hi, parentLo, parentHi, this.owners.of(lo, hi));
    this.#parts.metrics.dropped('overflow', this.#queue.dropped - before);
    this.#wake();
  }

  #wake(): void {
    this.#timer ??= this.#parts.clock.setTimer(FLUSH_MS, () => {
      this.#timer = undefined;
      if (this.#rule.when === 'evict') this.#pollOldest();
      this.#pump();
    });
  }

  #pollOldest(): void {
    const { kv, config, host } = this.#parts;
    const rows = kv.evictable(config.batchBlocks * MAX_RUNNING);
    for (let at = 0; at < rows.length; at += 4) {
      if (host.store.match(rows.subarray(at, at + 2), 0) === 1 || this.#isRunning(rows[at], rows[at + 1])) continue;
      this.#queue.push(rows[at], rows[at + 1], rows[at + 2], rows[at + 3], this.owners.of(rows[at], rows[at + 1]));
    }
  }

  #isRunning(lo: number, hi: number): boolean {
    for (const { batch } of this.#running) for (let row = 0; row < batch.count; row++) if (batch.hashes[2 * row] === lo && batch.hashes[2 * row + 1] === hi) return true;
    return false;
  }

  #pump(): void {
    const { config, host } = this.#parts;
    const word = new Int32Array(2);
    while (!this.#isClosed && this.#queue.count > 0 && this.#running.size < MAX_RUNNING) {
      const rows = this.#queue.take(config.batchBlocks, (lo, hi) => {
        word[0] = lo;
        word[1] = hi;
        return host.store.match(word, 0) === 1;
      });
      if (rows.count > 0) this.#begin(batchOf(rows, host.store.memory, new Int32Array(rows.count)));
    }
  }

  #begin(batch: KvBlockBatch): void {
    const offload = new Offload(this.#parts, batch, (stored) => this.#ended(offload, stored));
    this.#running.add(offload);
    offload.start();
  }

  #ended(offload: Offload, stored: KvBlockBatch | undefined): void {
    const { metrics } = this.#parts;
    this.#running.delete(offload);
    let done = 0;
    if (stored !== undefined) {
      for (let row = 0; row < stored.count; row++) if (stored.statuses[row] === KvBlockStatus.Done) done++;
      this.#parts.hostStored(stored);
      metrics.offloaded('host', done);
    }
    this.#offloaded += done;
    const { gone, refused, failed } = offload;
    this.#lost += gone + refused + failed;
    metrics.dropped('gone', gone);
    metrics.dropped('refused', refused);
    metrics.dropped('failed', failed);
    if (this.#isClosed) return;
    // The oldest were looked at before these had gone down: there may be more.
    if (this.#rule.when === 'evict' && done > 0) this.#wake();
    if (this.#queue.count > 0) this.#parts.clock.defer(() => this.#pump());
  }
}

/** One batch: lease, allocate, check, copy, release; registered only when the lease held to the end. */
class Offload {
  readonly #parts: ManagerParts;
  readonly #done: (stored: KvBlockBatch | undefined) => void;
  readonly leases: KvLease[] = [];
  batch: KvBlockBatch;
  gone = 0;
  refused = 0;
  failed = 0;
  #deviceBlocks = new Int32Array(0);
  #cancel: (() => void) | undefined = undefined;
  #isCanceled = false;
  #startMs = 0;

  constructor(parts: ManagerParts, batch: KvBlockBatch, done: (stored: KvBlockBatch | undefined) => void) {
    this.#parts = parts;
    this.batch = batch;
    this.#done = done;
  }

  start(): void {
    const { host, device, checks } = this.#parts;
    this.#lease();
    const { count, tenant } = this.batch;
    const given = count === 0 ? 0 : host.store.allocate(tenant, count, this.batch.blocks);
    this.refused = count - given;
    if (given < count) {
      this.batch = keepRows(this.batch, (row) => row < given);
      this.#parts.hostFull();
    }
    this.#deviceBlocks = this.#deviceBlocks.subarray(0, given);
    if (given === 0) return this.#end(undefined);
    if (device.bytes === undefined) return this.#copy();
    checks.compute(device, this.#deviceBlocks, this.batch.hashes, this.batch.checksums, 'background', () => this.#copy());
  }

  cancel(): void {
    this.#isCanceled = true;
    this.#cancel?.();
  }

  /** Rows that the device still holds; several leases where some in between are gone. */
  #lease(): void {
    const { kv } = this.#parts;
    const { hashes, count } = this.batch;
    const held = new Uint8Array(count);
    const blocks: number[] = [];
    for (let row = 0; row < count; row++) {
      const lease = kv.lease(hashes, row, count, LEASE_TTL_MS, false);
      if (lease === undefined) continue;
      this.leases.push(lease);
      held.fill(1, row, row + lease.blocks.length);
      blocks.push(...lease.blocks);
      row += lease.blocks.length;
    }
    this.gone = count - blocks.length;
    this.#deviceBlocks = Int32Array.from(blocks);
    if (this.gone > 0) this.batch = keepRows(this.batch, (row) => held[row] === 1);
  }

  #copy(): void {
    const { mover, device, hostPieces, clock } = this.#parts;
    this.#startMs = clock.nowMs();
    if (this.#isCanceled) return this.#copied(TransferStatus.Canceled);
    const operation = mover.copy(device, this.#deviceBlocks, hostPieces, this.batch.blocks, COPY_DEADLINE_MS, (status) => this.#copied(status));
    this.#cancel = () => operation.cancel();
  }

  #copied(status: TransferStatus): void {
    const { device, checks, metrics, host, clock, blockBytes } = this.#parts;
    if (status !== TransferStatus.Done || !this.#isValid()) return this.#drop();
    metrics.moved('device', 'load', this.batch.count * blockBytes, clock.nowMs() - this.#startMs);
    if (device.bytes !== undefined) return this.#register();
    checks.compute(host.store.memory, this.batch.blocks, this.batch.hashes, this.batch.checksums, 'background', () => this.#register());
  }

  /** All leases held: what was copied is what the device held under these hashes. */
  #isValid(): boolean {
    const { kv } = this.#parts;
    let isValid = true;
    for (const { id } of this.leases.splice(0)) if (kv.releaseLease(id) !== 'valid') isValid = false;
    return isValid;
  }

  #register(): void {
    this.#parts.host.store.register(this.batch);
    this.#end(this.batch);
  }

  #drop(): void {
    this.failed = this.batch.count;
    this.#parts.host.store.free(this.batch.blocks, this.batch.count);
    this.#end(undefined);
  }

  #end(stored: KvBlockBatch | undefined): void {
    this.#isValid();
    this.#done(stored);
  }
}
