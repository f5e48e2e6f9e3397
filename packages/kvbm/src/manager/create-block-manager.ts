import type { ErrorData, KvArena, KvBlockBatch, KvMemory } from '@armature/contracts';
import { createVerifier } from '../checksum/verifier.ts';
import { contentBytes, deviceMemory } from '../device/device-memory.ts';
import { isOutOfReach } from '../device/out-of-reach.ts';
import { BlockMover } from '../mover/block-mover.ts';
import { Arrivals } from './arrivals.ts';
import { KvBlockManager } from './block-manager.ts';
import { Demotion } from './demotion.ts';
import { DeviceOffload } from './device-offload.ts';
import type { BlockManager, BlockManagerOptions } from './face.ts';
import { Fetches } from './fetches.ts';
import { HostAccess } from './host-access.ts';
import { HostLoads } from './host-loads.ts';
import { Loans } from './loans.ts';
import { LowerSources } from './lower-sources.ts';
import { ManagerMetrics } from './manager-metrics.ts';
import { openTiers } from './open-tiers.ts';
import type { OpenedTiers, TierListener } from './open-tiers.ts';
import type { ManagerParts } from './parts.ts';
import { Prefetches } from './prefetches.ts';
import { PrefillSpeed } from './prefill-speed.ts';
import { SourceCosts } from './source-cost.ts';
import { Tenants } from './tenants.ts';
import { TierEvents } from './tier-events.ts';
import { TurnChecks } from './turn-checks.ts';
import type { BlockChecksums } from './turn-checks.ts';

/** With `verify: false`: every checksum is 0. Such stores name another layout, so that nobody takes their blocks for checked ones. */
const noChecksums: BlockChecksums = { checksums: (_memory, _blocks, count, _hashes, out) => void out.fill(0, 0, 2 * count) };

/**
 * Opens the tiers of one worker around its started engine. Throws what a tier throws that can never work as configured, and `KVBM_TIERS_INVALID`, `KVBM_TIER_TOO_SMALL`,
 * `KVBM_ARENA_INVALID`. Give `engineEvent` every event of the engine, from its snapshot on.
 */
export async function createBlockManager(options: BlockManagerOptions): Promise<BlockManager> {
  const { kv, agent, clock, config } = options;
  const arena = kv.arena();
  const device = isOutOfReach(arena) ? noDevice(arena) : deviceMemory(arena, options.arenaSegment);
  const blockBytes = contentBytes(arena);
  const layoutFingerprint = config.verify ? arena.layoutFingerprint : `${arena.layoutFingerprint}/unverified`;
  const mover = new BlockMover({ agent, clock });
  const tenants = new Tenants(config.quotas);
  const listening = new ManagerListener(options);
  let tiers: OpenedTiers;
  try {
    tiers = await openTiers({ manager: options, layoutFingerprint, blockBytes, mover, tenants, listener: listening });
  } catch (error) {
    mover.close();
    throw error;
  }
  const { blocks, blockStrideBytes } = tiers.host.store.memory;
  const verifier = createVerifier({ pieceBytes: arena.pieceBytes, layoutFingerprint });
  const parts: ManagerParts = {
    clock,
    log: options.log,
    kv,
    policy: options.policy,
    config,
    blockSize: options.blockSize,
    blockBytes,
    device,
    hostPieces: mover.view(tiers.host.store.memory, { blocks, blockStrideBytes, pieces: arena.pieces, pieceBytes: arena.pieceBytes, pieceStrideBytes: arena.pieceBytes }),
    ...tiers,
    tenants,
    mover,
    checks: new TurnChecks(clock, config.verify ? verifier : noChecksums, blockBytes),
    costs: new SourceCosts(),
    events: listening.events,
    metrics: listening.metrics,
    hostStored: (batch) => listening.hostStored(batch),
    hostFull: () => listening.hostFull(),
  };
  const manager = assemble(options, parts, listening, arena.layoutFingerprint);
  listening.stats = () => manager.stats();
  return manager;
}

function assemble(options: BlockManagerOptions, parts: ManagerParts, listening: ManagerListener, layoutFingerprint: string): KvBlockManager {
  const { agent, peers, worker } = options;
  const offload = new DeviceOffload(parts);
  const tiers = [parts.host, ...parts.lower];
  const demotions: Demotion[] = [];
  for (let i = 0; i + 1 < tiers.length; i++) demotions.push(new Demotion(parts, tiers[i], tiers[i + 1], (batch) => demotions[i + 1]?.stored(batch)));
  listening.attach(parts, demotions);
  const loads = new HostLoads(parts);
  const lower = new LowerSources(parts);
  const prefill = new PrefillSpeed();
  const fetches = new Fetches({ parts, loads, lower, prefill, agent, peers, layoutFingerprint, onUsed: (hashes, blocks) => offload.used(hashes, blocks) });
  const prefetches = new Prefetches({ parts, loads, lower, prefill, isBusy: () => fetches.running > 0 });
  const arrivals = new Arrivals(parts.clock);
  const loans = new Loans(parts, loads, lower, arrivals);
  const host = new HostAccess({ parts, loads, lower, arrivals, sourceOf: ({ worker, blocks }) => fetches.peerSource({ ...worker, blocks }) });
  const closeRest = (): void => {
    parts.metrics.close();
    (parts.mover as BlockMover).close();
  };
  return new KvBlockManager(worker, { parts, offload, demotions, loads, fetches, prefetches, loans, host, prefill, problems: listening.problems, corruptBlocks: () => parts.metrics.corruptBlocks, closeRest });
}

/** Memory without a block: nothing is copied to or from it here. */
function noDevice({ blockStrideBytes, pieces, pieceBytes, pieceStrideBytes }: KvArena): KvMemory {
  return { segment: -1, blocks: 0, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes, bytes: undefined };
}

/** What the tiers report, on its way to followers, metrics and the offload below. Tiers speak from `open` on: before the rest exists. */
class ManagerListener implements TierListener {
  readonly events = new TierEvents();
  readonly metrics: ManagerMetrics;
  readonly problems: (ErrorData | undefined)[] = [];
  readonly #options: BlockManagerOptions;
  #parts: ManagerParts | undefined = undefined;
  #demotions: readonly Demotion[] = [];
  stats: (() => ReturnType<BlockManager['stats']>) | undefined = undefined;

  constructor(options: BlockManagerOptions) {
    this.#options = options;
    this.metrics = new ManagerMetrics(options.metrics, options.labels, () => this.stats?.());
  }

  attach(parts: ManagerParts, demotions: readonly Demotion[]): void {
    this.#parts = parts;
    this.#demotions = demotions;
  }

  hostStored(batch: KvBlockBatch): void {
    this.#parts?.host.owners.storedRows(batch);
    this.events.stored('host', batch);
    this.#demotions[0]?.stored(batch);
  }

  hostFull(): void {
    for (const demotion of this.#demotions) demotion.makeRoom();
  }

  removed(...[tier, hashes, count, reason]: Parameters<TierListener['removed']>): void {
    const name = this.#options.tiers[tier].tier;
    if (reason === 'evicted') this.metrics.evicted(name, count);
    this.events.removed(name, hashes, count);
  }

  measured(...[tier, kind, bytes, milliseconds]: Parameters<TierListener['measured']>): void {
    const name = this.#options.tiers[tier].tier;
    this.metrics.moved(name, kind, bytes, milliseconds);
    if (kind === 'store' && name !== 'host') this.#parts?.costs[name].wrote(bytes, milliseconds, this.#options.clock.nowMs());
  }

  degraded(tier: number, problem: ErrorData | undefined): void {
    this.problems[tier] = problem;
  }

  used(...[tier, lo, hi, parentLo, parentHi]: Parameters<TierListener['used']>): void {
    this.#demotions[tier]?.push(lo, hi, parentLo, parentHi);
  }
}
