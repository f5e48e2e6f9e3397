import { BlockPool, LeaseTable, ReservationTable } from '@armature/blocks';
import type { Clock, Logger } from '@armature/contracts';
import type { KvEventLog } from './kv-events.ts';
import { PrefixRegistry } from './prefix-registry.ts';

export interface KvSizes {
  readonly totalBlocks: number;
  readonly blockSize: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly maxModelTokens: number;
}

/** What has no runner yet has no blocks. */
export const UNSTARTED: KvSizes = { totalBlocks: 0, blockSize: 1, maxSequences: 0, maxBatchedTokens: 0, maxModelTokens: 0 };

/** The KV bookkeeping of one engine. */
export interface KvParts {
  readonly pool: BlockPool;
  readonly leases: LeaseTable;
  readonly reservations: ReservationTable;
  readonly registry: PrefixRegistry;
}

export interface KvPartsOptions {
  readonly totalBlocks: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly events: KvEventLog;
  /** Blocks may have become free. */
  readonly onFreed: () => void;
}

export function buildKvParts(options: KvPartsOptions): KvParts {
  const { totalBlocks, clock, log, events, onFreed } = options;
  const pool = new BlockPool(totalBlocks, (lo, hi) => events.evicted(lo, hi));
  const onExpired = (reservation: number): void =>
    log.warn('a KV reservation outlived its time; its blocks stay out of use until it is released', { code: 'ENGINE_RESERVATION_EXPIRED', reservation });
  return {
    pool,
    leases: new LeaseTable(pool, clock, onFreed),
    reservations: new ReservationTable(pool, { clock, onExpired }),
    registry: new PrefixRegistry(pool, events),
  };
}
