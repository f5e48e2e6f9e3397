import type { Clock, ErrorData, KvEvent, KvFace, KvHostAccess, KvOperation, KvPolicy, KvStoreTier, KvTierBackend, KvTierStats, Logger, Metrics } from '@armature/contracts';
import type { Agent } from '@armature/nixel';

/** Where a run of blocks comes from. */
export type KvFetchSource = 'device' | KvStoreTier | 'peer' | 'recompute';

/** Another worker that holds leading blocks of a prompt in its host or disk tier. */
export interface KvPeer {
  readonly instanceId: string;
  /** Request-plane address, for the loan. */
  readonly address: string;
  readonly agentMetadata: Uint8Array;
  readonly layoutFingerprint: string;
  /** Leading blocks it holds below its device. */
  readonly blocks: number;
}

/** A request about to be given to the engine. */
export interface KvFetchRequest {
  readonly id: string;
  /** Of the prompt's complete blocks, interleaved words. */
  readonly sequenceHashes: Int32Array;
  readonly promptTokens: number;
  /** Tenant. */
  readonly cacheSalt: string;
  /** Prompt tokens that the engine will compute before this request's: while they run, fetching costs nothing. */
  readonly queuedTokens: number;
  readonly deadlineMs: number;
  readonly peers: readonly KvPeer[];
}

/** One leading run of the prompt and what was chosen for it. Plain data: part of the request's record. */
export interface KvFetchRun {
  readonly source: KvFetchSource;
  readonly fromBlock: number;
  readonly blocks: number;
  /** What it was expected to take, in milliseconds, and what recomputing it would have. */
  readonly estimatedMs: number;
  readonly recomputeMs: number;
  /** What it took; undefined for runs that were not fetched. */
  readonly tookMs?: number;
  /** `done`; or why its blocks (or some) are recomputed. */
  readonly outcome: 'done' | 'late' | 'missing' | 'corrupt' | 'failed' | 'full' | 'cancelled' | 'not-worth-it';
  readonly peer?: string;
}

export interface KvFetchRecord {
  readonly runs: readonly KvFetchRun[];
  /** Blocks of the prompt that were brought to the device for this request. */
  readonly onboardedBlocks: number;
  /** How long the request waited for them. */
  readonly waitedMs: number;
}

export interface KvFetchResult {
  /** Of the engine's KV face, to be adopted by the request (`kvSource`); undefined: nothing was brought, submit as it is. */
  readonly reservation: number | undefined;
  /** Leading prompt tokens whose KV is in the reservation's blocks. */
  readonly readyTokens: number;
  readonly record: KvFetchRecord;
}

/** Host blocks lent to a peer. Plain data. */
export interface KvLoan {
  readonly lease: number;
  /** Block numbers of the lender's host memory (segment `segment` of its agent), for the rows asked for, without a break. */
  readonly segment: number;
  readonly blocks: Int32Array;
  /** Two words each: what the borrower verifies. */
  readonly checksums: Int32Array;
  readonly blockStrideBytes: number;
  readonly lengthBytes: number;
}

/** How the manager speaks with the managers of other workers; over the request plane. `done` exactly once; undefined: not reached, or refused. */
export interface KvPeerCalls {
  borrow(address: string, hashes: Int32Array, from: number, to: number, ttlMs: number, deadlineMs: number, done: (loan: KvLoan | undefined) => void): void;
  renew(address: string, lease: number, ttlMs: number): void;
  /** `isValid`: the blocks were untouched until now, what was read may be used. */
  settle(address: string, lease: number, done: (isValid: boolean) => void): void;
}

export interface BlockManagerOptions {
  /** `MODEL/POOL/INDEX`. */
  readonly worker: string;
  readonly modelFingerprint: string;
  readonly blockSize: number;
  readonly baseDir: string;
  /** Of a started engine; `deviceOutOfReach` for one that copies its blocks by itself (then `arenaSegment` means nothing). */
  readonly kv: KvFace;
  /** The worker's agent; its arena is registered as `arenaSegment`. The manager registers its host memory with it. */
  readonly agent: Agent;
  readonly arenaSegment: number;
  /** Fastest first; at least the host tier. */
  readonly tiers: readonly KvTierBackend[];
  readonly policy: KvPolicy;
  readonly peers: KvPeerCalls | undefined;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Labels of the metrics: model and pool. */
  readonly labels: readonly [string, string];
  readonly config: BlockManagerConfig;
}

export interface BlockManagerConfig {
  /** A fetch may make a request at most this much slower than recomputing would have: 0.05 = 5 %. */
  readonly maxSlowdown: number;
  /** Longest wait for blocks, whatever the estimate. */
  readonly fetchDeadlineMs: number;
  /** Blocks waiting to be offloaded; more are dropped (counted). */
  readonly maxQueuedBlocks: number;
  /** Blocks of one offload or onboard transfer. */
  readonly batchBlocks: number;
  /** Share of each tier that one tenant may hold, 0 to 1, by cache salt; `default` for the others. */
  readonly quotas: Readonly<Record<string, number>>;
  /** Verify blocks when they leave the device and when they return. Off only for measurements. */
  readonly verify: boolean;
}

/** State for `armature kv stats`, `/kv` and metrics. Plain data. */
export interface BlockManagerStats {
  readonly worker: string;
  readonly tiers: readonly (KvTierStats & { readonly tier: KvStoreTier; readonly problem?: ErrorData })[];
  readonly queuedOffloads: number;
  readonly droppedOffloads: number;
  readonly offloadedBlocks: number;
  readonly onboardedBlocks: number;
  readonly corruptBlocks: number;
  readonly loans: number;
  readonly pinnedDeviceBlocks: number;
}

/** Events of the tiers below the device; the host numbers them in the worker's own sequence. */
export type KvTierEvent =
  | { readonly type: 'stored'; readonly parent: Int32Array; readonly sequenceHashes: Int32Array; readonly tier: KvStoreTier }
  | { readonly type: 'removed'; readonly sequenceHashes: Int32Array; readonly tier: KvStoreTier };

/** One worker's KV below its device. Calls come from the event loop; none blocks it for longer than a copy of about 1 MiB. */
export interface BlockManager {
  /** Every event of the engine, in order, before others see it. */
  engineEvent(event: KvEvent): void;
  /** One listener; set before the first engine event. */
  onTierEvent(listener: (event: KvTierEvent) => void): void;
  /** The host tier, for an engine that copies its blocks by itself. */
  readonly host: KvHostAccess;
  /** What the tiers hold, parents first. */
  snapshot(): readonly KvTierEvent[];
  /**
   * Chooses the cheapest source for each leading run of the prompt and brings what is worth it to the device. `done` exactly once, possibly before return, never
   * later than recomputing would have been by more than `maxSlowdown`. Cancelled: `done` comes without a reservation, pins are gone.
   */
  fetch(request: KvFetchRequest, done: (result: KvFetchResult) => void): KvOperation;
  /** The policy's rule of when blocks are brought up ahead of requests. */
  readonly prefetchRule: KvPolicy['prefetch'];
  /** Brings blocks up to the host tier, if the policy says so (`when`) and nothing more urgent runs. Never fails. */
  prefetch(when: 'route' | 'queue', sequenceHashes: Int32Array, cacheSalt: string): void;
  /**
   * Of a request that is here while the engine has `queuedTokens` to compute for others: brings its blocks up to the host tier, without taking blocks of the device. `done` exactly
   * once unless cancelled, maybe before return, at the latest when half of the time for those tokens has passed; with how many of them are left, for `fetch`.
   */
  prefetchAhead(sequenceHashes: Int32Array, cacheSalt: string, queuedTokens: number, done: (queuedTokens: number) => void): KvOperation;
  /** A tier has, or may have, the block behind the first `deviceBlocks`. A few look-ups: a request for which it is false, and that has no peers, needs no `fetch`. */
  holds(sequenceHashes: Int32Array, deviceBlocks: number): boolean;
  /** Such a request goes to the engine as it is: counted as `fetch` would. */
  passed(sequenceHashes: Int32Array, deviceBlocks: number): void;
  /** Prompt tokens that the engine computed alone, and how long it took: for the price of recomputing. */
  observePrefill(tokens: number, milliseconds: number): void;
  /** Lends rows `from` to `to` to a peer, from host or (brought up first, within the deadline) lower tiers. */
  lend(sequenceHashes: Int32Array, from: number, to: number, ttlMs: number, deadlineMs: number, done: (loan: KvLoan | undefined) => void): void;
  renewLoan(lease: number, ttlMs: number): boolean;
  settleLoan(lease: number): 'valid' | 'expired';
  stats(): BlockManagerStats;
  /** Reads every held block and checks it; changes nothing: corrupt ones are dropped when somebody uses them. Resolves with counts; bounded by the deadline. */
  verifyAll(deadlineMs: number): Promise<{ readonly checked: number; readonly corrupt: number; readonly unchecked: number }>;
  close(): Promise<void>;
}
