import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineBackend, KvConnector, KvFace, KvPolicy, KvTierBackend, Logger, Metrics, RequestPlane, TransferTransport } from '@armature/contracts';
import { createBlockManager, deviceOutOfReach } from '@armature/kvbm';
import type { BlockManager, BlockManagerConfig } from '@armature/kvbm';
import { createAgent, FileTransport, MemoryTransport } from '@armature/nixel';
import type { Agent } from '@armature/nixel';
import { createArenaAgent, moverOf, withoutArena } from '../worker/agent-mover.ts';
import { peerCalls } from '../worker/kv-peers.ts';
import { ARENA_SEGMENT } from '../worker/arena-segments.ts';
import type { WorkerKv } from '../worker/worker-host.ts';

/** Tiers and policy of one worker, created and not yet opened. */
export interface WorkerTiers {
  readonly tiers: readonly KvTierBackend[];
  readonly policy: KvPolicy;
  readonly config: BlockManagerConfig;
}

export interface WorkerKvOptions {
  /** `MODEL/POOL/INDEX`. */
  readonly worker: string;
  readonly labels: readonly [model: string, pool: string];
  readonly incarnation: string;
  /** Started. */
  readonly engine: EngineBackend;
  /** Undefined: no KV below the engine. */
  readonly kvbm: WorkerTiers | undefined;
  /** As configured. */
  readonly transports: readonly TransferTransport[];
  readonly requests: RequestPlane;
  readonly baseDir: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** One transfer agent per worker, and the block manager over it. Undefined: the engine keeps its KV to itself, or nothing would move it. */
export async function openWorkerKv(options: WorkerKvOptions): Promise<WorkerKv | undefined> {
  const { engine, kvbm, worker, incarnation, clock, log } = options;
  const { kv, connector } = engine;
  if (kv === undefined && connector !== undefined) {
    if (kvbm !== undefined) return openConnected(options, kvbm, connector);
    log.warn("the engine's connector has no tiers to use: it computes everything", { worker, hint: 'give this worker pool a kvbm section' });
  }
  if (kv === undefined) {
    if (kvbm === undefined) return undefined;
    throw new ArmatureError('CONFIG_KVBM_UNSUPPORTED', `the engine of ${worker} does not expose its KV: there is nothing to keep in tiers`, {
      hint: 'leave kvbm out of this worker pool, or use an engine with a KV face (reference, mock) or a connector to it (vllm)',
    });
  }
  const transports = kvbm === undefined ? options.transports : withLocalTransports(options.transports, clock, log);
  if (transports.length === 0) return undefined;
  const arena = kv.arena();
  const agent = await createArenaAgent({ name: `${worker}@${incarnation}`, incarnation, arena, transports, clock, log });
  const manager = kvbm === undefined ? undefined : await openManager(options, kvbm, { agent, kv, arenaSegment: ARENA_SEGMENT });
  return { mover: moverOf(agent, { arena, clock, log }), manager, fetchDeadlineMs: kvbm?.config.fetchDeadlineMs ?? 0 };
}

/** The engine copies its blocks to and from the host tier by itself: there is no arena, and nothing is pulled into one. */
async function openConnected(options: WorkerKvOptions, kvbm: WorkerTiers, connector: KvConnector): Promise<WorkerKv> {
  const { worker, incarnation, clock, log } = options;
  const kv = deviceOutOfReach(connector.format());
  const agent = await createAgent({ name: `${worker}@${incarnation}`, incarnation, transports: withLocalTransports(options.transports, clock, log), clock, log });
  const manager = await openManager(options, kvbm, { agent, kv, arenaSegment: -1 });
  return { mover: withoutArena(agent), manager, connector, fetchDeadlineMs: kvbm.config.fetchDeadlineMs };
}

async function openManager(options: WorkerKvOptions, { tiers, policy, config }: WorkerTiers, { agent, kv, arenaSegment }: { readonly agent: Agent; readonly kv: KvFace; readonly arenaSegment: number }): Promise<BlockManager> {
  const { worker, labels, engine, requests, baseDir, clock, log, metrics } = options;
  const { modelFingerprint, blockSize } = engine.info;
  try {
    return await createBlockManager({
      worker,
      modelFingerprint,
      blockSize,
      baseDir,
      kv,
      agent,
      arenaSegment,
      tiers,
      policy,
      peers: peerCalls(requests),
      clock,
      log,
      metrics,
      labels,
      config,
    });
  } catch (error) {
    await agent.close();
    throw error;
  }
}

/** What moves blocks within the worker, however it speaks with others. */
function withLocalTransports(configured: readonly TransferTransport[], clock: Clock, log: Logger): readonly TransferTransport[] {
  const names = new Set(configured.map(({ name }) => name));
  const local: TransferTransport[] = [];
  if (!names.has('memory')) local.push(new MemoryTransport({ clock }));
  if (!names.has('file')) local.push(new FileTransport({ clock, log }));
  return [...configured, ...local];
}
