import type { BlockPool, LeaseTable, ReservationTable } from '@armature/blocks';
import type { KvArena, KvFace, KvReservation } from '@armature/contracts';

export interface EngineKvOptions {
  readonly pool: BlockPool;
  readonly leases: LeaseTable;
  readonly reservations: ReservationTable;
  readonly arena: () => KvArena;
  /** Blocks `from` to `to` of a chain are complete: register and announce them. */
  readonly register: (blocks: Int32Array, hashes: Int32Array, from: number, to: number) => void;
  /** Evictions of the last call are to be announced. */
  readonly flush: () => void;
  /** Blocks may have become free: somebody may be waiting for them. */
  readonly freed: () => void;
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

  reserve(sequenceHashes: Int32Array, blocks: number, _ttlMs: number): KvReservation | undefined {
    const reservation = this.#options.reservations.reserve(sequenceHashes, blocks);
    this.#options.flush();
    return reservation;
  }

  commit(id: number, blocks: number): void {
    const reservation = this.#options.reservations.get(id);
    if (reservation === undefined) return;
    const to = Math.min(blocks, reservation.hashes.length >> 1, reservation.blocks.length);
    if (to <= reservation.committed) return;
    this.#options.register(reservation.blocks, reservation.hashes, reservation.committed, to);
    reservation.committed = to;
  }

  release(id: number): void {
    this.#options.reservations.release(id);
    this.#options.freed();
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
