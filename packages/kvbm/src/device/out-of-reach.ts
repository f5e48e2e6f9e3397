import type { KvArena, KvBlockFormat, KvFace } from '@armature/contracts';

/**
 * The face of an engine whose device memory is in another process: it shows nothing and takes nothing, so that the tiers, peers and prefetches of a block manager work
 * while the engine copies its blocks by itself (`BlockManager.host`).
 */
export function deviceOutOfReach({ layoutFingerprint, pieces, pieceBytes }: KvBlockFormat): KvFace {
  const arena: KvArena = { segments: [], blockStrideBytes: pieces * pieceBytes, pieces, pieceBytes, pieceStrideBytes: pieceBytes, layoutFingerprint };
  return {
    arena: () => arena,
    match: () => 0,
    lease: () => undefined,
    evictable: () => new Int32Array(0),
    reserve: () => undefined,
    commit: () => undefined,
    release: () => undefined,
    quarantine: () => undefined,
    renewLease: () => false,
    releaseLease: () => 'expired',
    counts: () => ({ leases: 0, reservations: 0, quarantined: 0 }),
  };
}

/** Whether the engine copies its blocks by itself. */
export function isOutOfReach({ segments }: KvArena): boolean {
  return segments.length === 0;
}
