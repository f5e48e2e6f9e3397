import type { WorkerRecord, WorkerRole } from '@armature/contracts';
import { PROTOCOL } from '../messages.ts';
import { kvConversionOf } from './arena-segments.ts';
import type { WorkerHostOptions, WorkerKv } from './worker-host.ts';

/** What is of one life of a worker only. */
export interface LifeFacts {
  readonly instanceId: string;
  readonly role: WorkerRole;
  readonly address: string;
}

/** What others must know of a worker. Its engine has been started. */
export function buildWorkerRecord(options: WorkerHostOptions, { instanceId, role, address }: LifeFacts, kv: WorkerKv | undefined): WorkerRecord {
  const { model, pool, index, dpRank, engineName, engine, hardware, costPerHour, profile, taints } = options;
  const { abilities, info } = engine;
  const tiers = kv?.manager;
  const arena = kv === undefined ? undefined : engine.kv?.arena();
  const kvConversion = arena === undefined ? undefined : kvConversionOf(arena);
  return {
    instanceId,
    model,
    pool,
    index,
    dpRank,
    role,
    address,
    engine: engineName,
    hardware,
    costPerHour,
    ...profile,
    taints,
    kvEvents: abilities.kvEvents,
    blockSize: info.blockSize,
    totalBlocks: info.totalBlocks,
    maxModelTokens: info.maxModelTokens,
    maxBatchedTokens: info.maxBatchedTokens,
    maxSequences: info.maxSequences,
    roleChange: abilities.roleChange,
    firstToken: abilities.firstToken,
    ...(info.adapters === undefined ? {} : { adapters: info.adapters }),
    ...(abilities.responseFormats === undefined ? {} : { responseFormats: abilities.responseFormats }),
    modelFingerprint: info.modelFingerprint,
    layoutFingerprint: arena?.layoutFingerprint ?? kv?.connector?.format().layoutFingerprint ?? '',
    ...(kvConversion === undefined ? {} : { kvConversion }),
    agentMetadata: kv?.mover.metadata() ?? new Uint8Array(0),
    ...(tiers === undefined ? {} : { kvTiers: tiers.stats().tiers.map(({ tier }) => tier), kvPrefetch: tiers.prefetchRule }),
    protocol: PROTOCOL,
  };
}
