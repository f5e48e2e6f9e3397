import type { Clock, KvBlockBatch, KvBlockMover, KvFace, KvMemory, KvMemoryTier, KvPolicy, KvTierStore, Logger } from '@armature/contracts';
import type { BlockManagerConfig } from './face.ts';
import type { ManagerMetrics } from './manager-metrics.ts';
import type { SourceCosts } from './source-cost.ts';
import type { BlockOwners, Tenants } from './tenants.ts';
import type { TierEvents } from './tier-events.ts';
import type { TurnChecks } from './turn-checks.ts';
import type { WatchedOrder } from './watched-order.ts';

/** One tier as the manager sees it. */
export interface ManagedTier<S extends KvTierStore = KvTierStore> {
  readonly store: S;
  /** The policy's order in it, watched. */
  readonly order: WatchedOrder;
  readonly owners: BlockOwners;
}

/** What the parts of one manager share. Made once. */
export interface ManagerParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly kv: KvFace;
  readonly policy: KvPolicy;
  readonly config: BlockManagerConfig;
  readonly blockSize: number;
  readonly blockBytes: number;
  /** The engine's arena, and the host tier's memory with its blocks cut into pieces likewise. */
  readonly device: KvMemory;
  readonly hostPieces: KvMemory;
  readonly host: ManagedTier<KvMemoryTier>;
  /** Below the host, fastest first. */
  readonly lower: readonly ManagedTier[];
  readonly tenants: Tenants;
  readonly mover: KvBlockMover;
  readonly checks: TurnChecks;
  readonly costs: SourceCosts;
  readonly events: TierEvents;
  /** A batch has been registered in the host tier: the one place that tells followers, tenants and the offload below. */
  readonly hostStored: (batch: KvBlockBatch) => void;
  /** The host tier gave fewer blocks than were asked for. */
  readonly hostFull: () => void;
  readonly metrics: ManagerMetrics;
}
