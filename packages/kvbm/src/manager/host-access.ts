import { KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch, KvHostAccess, KvHostPin, KvHostPull, KvHostReservation, KvOperation, Timer } from '@armature/contracts';
import { batchOf } from './batches.ts';
import type { Arrivals } from './arrivals.ts';
import type { HostLoads, BlockSource } from './host-loads.ts';
import { HostPull } from './host-pull.ts';
import type { LowerSources } from './lower-sources.ts';
import type { ManagerParts } from './parts.ts';

/** Share of the host tier that may wait to be filled. */
const MAX_RESERVED = 0.25;
/** Share of the host tier that the engine may pin: what it copies from. */
const MAX_PINNED = 0.5;

export interface HostAccessOptions {
  readonly parts: ManagerParts;
  readonly loads: HostLoads;
  readonly lower: LowerSources;
  readonly arrivals: Arrivals;
  /** Another worker as a source; undefined: its blocks are of no use here. */
  readonly sourceOf: (lender: NonNullable<KvHostPull['lender']>) => BlockSource | undefined;
}

interface Reservation {
  readonly batch: KvBlockBatch;
  timer: Timer;
}

const OVER: KvOperation = { cancel: () => undefined };

/** See `KvHostAccess`. What the engine's process wrote is registered under the checksum of the bytes as they are at `commit`. */
export class HostAccess implements KvHostAccess {
  readonly #options: HostAccessOptions;
  readonly #pulls = new Set<HostPull>();
  readonly #pins = new Map<number, Int32Array>();
  readonly #reservations = new Map<number, Reservation>();
  /** Filled, being checked. */
  readonly #checking = new Set<number>();
  #pinnedBlocks = 0;
  /** What pulls under way may pin yet. */
  #pullingBlocks = 0;
  #reservedBlocks = 0;
  #nextId = 1;
  #isClosed = false;

  constructor(options: HostAccessOptions) {
    this.#options = options;
  }

  get memory(): KvHostAccess['memory'] {
    return this.#options.parts.host.store.memory;
  }

  get location(): KvHostAccess['location'] {
    return this.#options.parts.host.store.location;
  }

  /** Operations under way. */
  get running(): number {
    return this.#pulls.size + this.#checking.size;
  }

  match(hashes: Int32Array, from: number): number {
    const { parts, lower } = this.#options;
    const rows = hashes.length >> 1;
    let row = from;
    for (let found = 1; found > 0 && row < rows && !this.#isClosed; row += found) {
      found = parts.host.store.match(hashes, row);
      if (found === 0) found = lower.best(hashes, row)?.blocks ?? 0;
    }
    return row - from;
  }

  pull(request: KvHostPull, done: (pin: KvHostPin | undefined) => void): KvOperation {
    const { parts, loads, lower, sourceOf } = this.#options;
    const room = Math.floor(Math.max(1, MAX_PINNED * parts.host.store.capacityBlocks)) - this.#pinnedBlocks - this.#pullingBlocks;
    const to = Math.min(request.to, request.sequenceHashes.length >> 1, request.from + room);
    if (this.#isClosed || to <= request.from) {
      done(undefined);
      return OVER;
    }
    const { lender } = request;
    const source = lender === undefined ? undefined : sourceOf(lender);
    const pull = new HostPull({ parts, loads, lower, peer: source === undefined ? undefined : { source, blocks: lender?.blocks ?? 0 }, request: { ...request, to, deadlineMs: Math.min(request.deadlineMs, parts.config.fetchDeadlineMs) } }, (blocks, sources) => {
      end();
      done(blocks.length === 0 ? undefined : this.#pin(blocks, sources));
    });
    const wanted = to - request.from;
    const end = (): void => {
      if (this.#pulls.delete(pull)) this.#pullingBlocks -= wanted;
    };
    this.#pullingBlocks += wanted;
    this.#pulls.add(pull);
    pull.start();
    return {
      cancel: () => {
        end();
        pull.cancel();
      },
    };
  }

  #pin(blocks: Int32Array, sources: KvHostPin['sources']): KvHostPin {
    const lease = this.#nextId++;
    this.#pins.set(lease, blocks);
    this.#pinnedBlocks += blocks.length;
    return { lease, blocks: blocks.slice(), sources };
  }

  release(lease: number): 'valid' | 'expired' {
    const blocks = this.#pins.get(lease);
    if (blocks === undefined) return 'expired';
    this.#pins.delete(lease);
    this.#pinnedBlocks -= blocks.length;
    this.#options.parts.host.store.release(blocks, blocks.length);
    return 'valid';
  }

  reserve(...[{ sequenceHashes, parents, cacheSalt }, ttlMs]: Parameters<KvHostAccess['reserve']>): KvHostReservation | undefined {
    const { parts, arrivals } = this.#options;
    const { host, tenants, clock } = parts;
    const room = Math.floor(Math.max(1, MAX_RESERVED * host.store.capacityBlocks)) - this.#reservedBlocks;
    const wanted: number[] = [];
    for (let row = 0; 2 * row < sequenceHashes.length && wanted.length < room && !this.#isClosed; row++) {
      const hash = sequenceHashes.subarray(2 * row, 2 * row + 2);
      if (host.store.match(hash, 0) === 0 && !arrivals.has(hash[0], hash[1])) wanted.push(row);
    }
    if (wanted.length === 0) return undefined;
    const tenant = tenants.numberOf(cacheSalt);
    const blocks = new Int32Array(wanted.length);
    const given = host.store.allocate(tenant, wanted.length, blocks);
    if (given < wanted.length) parts.hostFull();
    if (given === 0) return undefined;
    const rows = Int32Array.from(wanted.slice(0, given));
    const columns = { count: given, hashes: pick(sequenceHashes, rows), parents: pick(parents, rows), tenant };
    const id = this.#nextId++;
    arrivals.begin(id, columns.hashes);
    this.#reservedBlocks += given;
    const timer = clock.setTimer(ttlMs, () => this.commit(id, 0, () => undefined));
    this.#reservations.set(id, { batch: batchOf(columns, host.store.memory, blocks.slice(0, given)), timer });
    return { id, rows, blocks: blocks.slice(0, given) };
  }

  commit(id: number, rows: number, done: (kept: number) => void): void {
    const { parts } = this.#options;
    const reservation = this.#reservations.get(id);
    if (reservation === undefined) return done(0);
    this.#reservations.delete(id);
    parts.clock.clearTimer(reservation.timer);
    const { batch } = reservation;
    const filled = Math.min(Math.max(0, rows), batch.count);
    this.#reservedBlocks -= batch.count;
    if (filled < batch.count) parts.host.store.free(batch.blocks.subarray(filled), batch.count - filled);
    if (filled === 0) {
      this.#options.arrivals.end(id, batch.hashes);
      return done(0);
    }
    const columns = { count: filled, hashes: batch.hashes.subarray(0, 2 * filled), parents: batch.parents.subarray(0, 2 * filled), tenant: batch.tenant };
    const filledBatch = batchOf(columns, batch.memory, batch.blocks.subarray(0, filled));
    this.#checking.add(id);
    parts.checks.compute(filledBatch.memory, filledBatch.blocks, filledBatch.hashes, filledBatch.checksums, 'request', () => {
      this.#checking.delete(id);
      parts.host.store.register(filledBatch);
      parts.hostStored(filledBatch);
      const kept = filledBatch.statuses.reduce((count, status) => count + (status === KvBlockStatus.Failed ? 0 : 1), 0);
      parts.metrics.offloaded('host', kept);
      this.#options.arrivals.end(id, batch.hashes);
      done(kept);
    });
  }

  counts(): ReturnType<KvHostAccess['counts']> {
    return { pins: this.#pins.size, pinnedBlocks: this.#pinnedBlocks, reservations: this.#reservations.size, reservedBlocks: this.#reservedBlocks };
  }

  /** Everything the engine held goes back. */
  close(): void {
    this.#isClosed = true;
    for (const pull of [...this.#pulls]) pull.end();
    for (const lease of [...this.#pins.keys()]) this.release(lease);
    for (const id of [...this.#reservations.keys()]) this.commit(id, 0, () => undefined);
  }
}

/** Pairs of words of those rows. */
function pick(column: Int32Array, rows: Int32Array): Int32Array {
  const out = new Int32Array(2 * rows.length);
  for (let i = 0; i < rows.length; i++) out.set(column.subarray(2 * rows[i], 2 * rows[i] + 2), 2 * i);
  return out;
}
