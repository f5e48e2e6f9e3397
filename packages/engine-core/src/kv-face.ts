import type { BlockPool, LeaseTable, ReservationTable } from '@armature/blocks';
import type { KvArena, KvFace, KvLease, KvReservation } from '@armature/contracts';
import type { KvEventLog } from './kv-events.ts';
import type { PrefixRegistry } from './prefix-registry.ts';

export interface EngineKvOptions {
  readonly pool: BlockPool;
  readonly leases: LeaseTable;
  readonly reservations: ReservationTable;
  readonly registry: PrefixRegistry;
  readonly events: KvEventLog;
  readonly arena: () => KvArena;
  /** False once the engine has failed or closed: nobody may be given blocks that a lost pass still writes. */
  readonly canReserve: () => boolean;
  /** Blocks may have become free: somebody may be waiting for them. */
  readonly onFreed: () => void;
}

/** The kv face of an engine core. */
export class EngineKv implements KvFace {
  readonly #options: EngineKvOptions;

  constructor(options: EngineKvOptions) {
    this.#options = options;
  }

  arena(): KvArena {
    return this.#options.arena();
  }

  match(sequenceHashes: Int32Array): number {
    return this.#options.pool.match(sequenceHashes, sequenceHashes.length >> 1);
  }

  lease(sequenceHashes: Int32Array, from: number, to: number, ttlMs: number, isUse: boolean): KvLease | undefined {
    const { pool, leases, canReserve } = this.#options;
    if (!canReserve()) return undefined;
    const blocks = new Int32Array(Math.max(0, Math.min(to, sequenceHashes.length >> 1) - from));
    let held = 0;
    while (held < blocks.length) {
      const row = 2 * (from + held);
      const block = pool.find(sequenceHashes[row], sequenceHashes[row + 1]);
      if (block === -1) break;
      blocks[held++] = block;
    }
    if (held === 0) return undefined;
    const leased = blocks.slice(0, held);
    return { id: leases.lend(leased, ttlMs, isUse), blocks: leased };
  }

  evictable(limit: number): Int32Array {
    return this.#options.pool.oldestInactive(limit);
  }

  reserve(sequenceHashes: Int32Array, blocks: number, ttlMs: number, cacheSalt?: string): KvReservation | undefined {
    const { reservations, events, canReserve } = this.#options;
    if (!canReserve()) return undefined;
    const reservation = reservations.reserve(sequenceHashes, blocks, ttlMs, cacheSalt);
    events.flushRemoved();
    return reservation === undefined ? undefined : { id: reservation.id, matchedBlocks: reservation.matchedBlocks, blocks: reservation.blocks.slice() };
  }

  commit(id: number, blocks: number): void {
    const { reservations, registry } = this.#options;
    const reservation = reservations.get(id);
    if (reservation === undefined) return;
    const to = Math.min(blocks, reservation.hashes.length >> 1, reservation.blocks.length);
    if (to <= reservation.committed) return;
    registry.register(reservation, reservation.committed, to);
    reservation.committed = to;
  }

  release(id: number): void {
    if (this.#options.reservations.release(id)) this.#options.onFreed();
  }

  quarantine(id: number): void {
    this.#options.reservations.quarantine(id);
  }

  renewLease(lease: number, ttlMs: number): boolean {
    return this.#options.leases.renew(lease, ttlMs);
  }

  releaseLease(lease: number): 'valid' | 'expired' {
    return this.#options.leases.release(lease);
  }

  counts(): { readonly leases: number; readonly reservations: number; readonly quarantined: number } {
    const { leases, reservations } = this.#options;
    return { leases: leases.size, reservations: reservations.size, quarantined: reservations.quarantined };
  }
}
