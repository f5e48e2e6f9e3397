import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineBackend, KvPolicy, KvTierBackend, Logger, Metrics, RequestPlane, TransferTransport } from '@armature/contracts';
import { createBlockManager } from '@armature/kvbm';
import type { BlockManager, BlockManagerConfig } from '@armature/kvbm';
import { FileTransport, MemoryTransport } from '@armature/nixel';
import type { Agent } from '@armature/nixel';
import { createArenaAgent, moverOf } from '../worker/agent-mover.ts';
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
  const { kv } = engine;
  if (kv === undefined) {
    if (kvbm === undefined) return undefined;
    throw new ArmatureError('CONFIG_KVBM_UNSUPPORTED', `the engine of ${worker} does not expose its KV: there is nothing to keep in tiers`, {
      hint: 'leave kvbm out of this worker pool, or use an engine with a KV face (reference, mock)',
    });
  }
  const transports = kvbm === undefined ? options.transports : withLocalTransports(options.transports, clock, log);
  if (transports.length === 0) return undefined;
  const arena = kv.arena();
  const agent = await createArenaAgent({ name: `${worker}@${incarnation}`, incarnation, arena, transports, clock, log });
  const manager = kvbm === undefined ? undefined : await openManager(options, kvbm, agent);
  return { mover: moverOf(agent, { arena, clock, log }), manager, fetchDeadlineMs: kvbm?.config.fetchDeadlineMs ?? 0 };
}

async function openManager(options: WorkerKvOptions, { tiers, policy, config }: WorkerTiers, agent: Agent): Promise<BlockManager> {
  const { worker, labels, engine, requests, baseDir, clock, log, metrics } = options;
  const { modelFingerprint, blockSize } = engine.info;
  try {
    return await createBlockManager({
      worker,
      modelFingerprint,
      blockSize,
      baseDir,
      kv: engine.kv!,
      agent,
      arenaSegment: ARENA_SEGMENT,
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
