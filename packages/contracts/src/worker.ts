import type { EngineAbilities } from './engine-backend.ts';
import type { ResponseFormat } from './inference.ts';
import type { KvTier } from './kv-events.ts';

export type WorkerRole = 'prefill' | 'decode' | 'both';

/** A live worker, as registered in discovery under `workers/MODEL/INSTANCE`. Plain data. */
export interface WorkerRecord {
  /** Unique per life of the worker: `POOL/INDEX@INCARNATION`. */
  readonly instanceId: string;
  readonly model: string;
  /** Name of the worker entry in the config. */
  readonly pool: string;
  readonly index: number;
  /** Its rank among the data-parallel ranks of one engine; each rank is a worker of its own. 0 where there is one. */
  readonly dpRank: number;
  readonly role: WorkerRole;
  /** Request-plane address. */
  readonly address: string;
  /** Name of the engine plug-in. */
  readonly engine: string;
  /** Name of its hardware profile. */
  readonly hardware: string;
  /** Price of this worker per hour. */
  readonly costPerHour: number;
  /** GPUs of this worker. Absent: 1. */
  readonly gpus?: number;
  /** Prompt tokens per second, as a multiple of what the reference profile (1) computes of the same model. Absent: 1. */
  readonly prefillSpeed?: number;
  /** Output tokens per second of one decoding batch, likewise. Absent: 1. */
  readonly decodeSpeed?: number;
  /** LoRA adapters its engine has; requests that name one go only to workers that have it. Absent: none. */
  readonly adapters?: readonly string[];
  /** Formats its engine can guide decoding to; requests that ask for one go only to workers that have it. Absent: none. */
  readonly responseFormats?: readonly ResponseFormat['type'][];
  /** Labels that requests may require or prefer (`zone=a`, `gpu=h200`). */
  readonly taints: readonly string[];
  readonly blockSize: number;
  readonly totalBlocks: number;
  readonly maxModelTokens: number;
  readonly maxBatchedTokens: number;
  /** Sequences in one pass of its engine. Absent: not told. */
  readonly maxSequences?: number;
  /** How its engine can take another role. Absent: not told. */
  readonly roleChange?: EngineAbilities['roleChange'];
  /** Who samples the first token when prefill is remote. */
  readonly firstToken: 'prefill' | 'decode';
  /** Compared at registration: workers of one model must agree. */
  readonly modelFingerprint: string;
  /** Whether the engine tells what its cache holds; else the router predicts it. */
  readonly kvEvents: boolean;
  /** Equal: KV blocks are copied byte for byte. '' = KV not exposed. */
  readonly layoutFingerprint: string;
  /** Equal, though the layouts differ: KV blocks are converted on the way, for example between numbers of tensor-parallel ranks. Absent: never. */
  readonly kvConversion?: string;
  /** nixel agent metadata, '' length when KV is not exposed. */
  readonly agentMetadata: Uint8Array;
  /** Tiers below the engine from which peers may borrow blocks; absent: none. */
  readonly kvTiers?: readonly KvTier[];
  /** From when on its tiers bring up what a request will need; `queue`: told of requests that wait for a worker, it does so at once. Absent: no tiers. */
  readonly kvPrefetch?: 'route' | 'queue' | 'never';
  /** Wire version of this record and of the worker's methods. */
  readonly protocol: number;
}
