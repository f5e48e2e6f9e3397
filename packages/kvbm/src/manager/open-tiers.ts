import { ArmatureError, isMemoryTier } from '@armature/contracts';
import type { ErrorData, KvBlockMover, KvMemoryTier, KvRemovalReason, KvTierBackend, KvTierHost, KvTierStore } from '@armature/contracts';
import { CHECKSUM_VERSION } from '../checksum/verifier.ts';
import { isOutOfReach } from '../device/out-of-reach.ts';
import { formatSize } from '../size.ts';
import type { BlockManagerOptions } from './face.ts';
import type { ManagedTier } from './parts.ts';
import type { Tenants } from './tenants.ts';
import { BlockOwners } from './tenants.ts';
import type { UsesListener } from './watched-order.ts';
import { WatchedOrder } from './watched-order.ts';

/** What the manager wants to hear of its tiers. */
export interface TierListener {
  removed(tier: number, hashes: Int32Array, count: number, reason: KvRemovalReason): void;
  measured(tier: number, kind: 'store' | 'load', bytes: number, milliseconds: number): void;
  degraded(tier: number, problem: ErrorData | undefined): void;
  used(tier: number, ...row: Parameters<UsesListener>): void;
}

export interface OpenTiersOptions {
  readonly manager: BlockManagerOptions;
  readonly layoutFingerprint: string;
  readonly blockBytes: number;
  readonly mover: KvBlockMover;
  readonly tenants: Tenants;
  readonly listener: TierListener;
}

export interface OpenedTiers {
  readonly host: ManagedTier<KvMemoryTier>;
  readonly lower: readonly ManagedTier[];
}

/** Throws `KVBM_TIERS_INVALID`, `KVBM_TIER_TOO_SMALL`, and what a tier throws that can never work; what was opened before is closed then. */
export async function openTiers(options: OpenTiersOptions): Promise<OpenedTiers> {
  const { tiers } = options.manager;
  checkTiers(tiers);
  const opened: ManagedTier[] = [];
  try {
    for (let i = 0; i < tiers.length; i++) opened.push(await openTier(options, i));
    const [host, ...lower] = opened;
    if (!isMemoryTier(host.store)) throw invalid(`the first tier is ${host.store.tier} and has no memory of its own`);
    return { host: host as ManagedTier<KvMemoryTier>, lower };
  } catch (error) {
    for (const { store } of opened.reverse()) await store.close();
    throw error;
  }
}

function checkTiers(tiers: readonly KvTierBackend[]): void {
  const names = tiers.map(({ tier }) => tier);
  if (names[0] !== 'host') throw invalid(`tiers are ${names.join(', ') || 'none'}`);
  if (new Set(names).size < names.length) throw invalid(`tiers are ${names.join(', ')}`);
  for (let i = 1; i < tiers.length; i++) {
    const above = tiers[i - 1].capacityBytes() ?? 0;
    const below = tiers[i].capacityBytes();
    if (below === undefined || below >= above) continue;
    throw new ArmatureError('KVBM_TIER_TOO_SMALL', `the ${names[i]} tier holds ${formatSize(below)}, less than the ${names[i - 1]} tier above it (${formatSize(above)})`, {
      hint: 'give each tier at least the capacity of the one above, or leave it out',
    });
  }
}

function invalid(found: string): ArmatureError {
  return new ArmatureError('KVBM_TIERS_INVALID', found, { hint: 'list the host tier first, then slower ones, each kind once' });
}

async function openTier({ manager, layoutFingerprint, blockBytes, mover, tenants, listener }: OpenTiersOptions, i: number): Promise<ManagedTier> {
  const { worker, modelFingerprint, baseDir, clock, policy, tiers } = manager;
  const backend = tiers[i];
  const log = manager.log.child({ tier: backend.tier });
  const rule = policy.offload(backend.tier);
  const isLast = i === tiers.length - 1;
  const owners = new BlockOwners();
  let order: WatchedOrder | undefined = undefined;
  const host: KvTierHost = {
    worker,
    modelFingerprint,
    layoutFingerprint,
    blockBytes,
    checksum: { version: manager.config.verify ? CHECKSUM_VERSION : 0, pieceBytes: manager.kv.arena().pieceBytes },
    baseDir,
    clock,
    log,
    mover,
    ...(isOutOfReach(manager.kv.arena()) ? { engineWrites: true } : {}),
    order: (places) => {
      order = new WatchedOrder(policy.order(backend.tier, places), isLast ? 0 : places, isLast || rule.when !== 'uses' ? 0 : rule.uses, (...row) => listener.used(i, ...row));
      return order;
    },
    quota: (tenant, places) => tenants.quota(tenant, places),
    removed: (hashes, count, reason) => {
      owners.removed(hashes, count);
      listener.removed(i, hashes, count, reason);
    },
    measured: (kind, _blocks, bytes, milliseconds) => listener.measured(i, kind, bytes, milliseconds),
    degraded: (problem) => {
      if (problem === undefined) log.info('KV tier is well again');
      else log.warn('KV tier works with less than its abilities', { ...problem });
      listener.degraded(i, problem);
    },
  };
  const store: KvTierStore = await backend.open(host);
  return { store, owners, order: order ?? new WatchedOrder(policy.order(backend.tier, 1), 0) };
}
