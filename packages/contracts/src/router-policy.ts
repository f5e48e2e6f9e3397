import type { KvEvent } from './kv-events.ts';
import type { Lifecycle } from './plugin.ts';
import type { WorkerRecord } from './worker.ts';

/** Which leg is being placed. */
export type RoutingHop = 'aggregated' | 'prefill' | 'decode';

/** One request as the router sees it. Reused by the host: do not keep. */
export interface RoutingRequest {
  id: string;
  hop: RoutingHop;
  promptTokens: number;
  /** Sequence hashes of the complete prompt blocks, interleaved words (lo, hi). */
  sequenceHashes: Int32Array;
  /** Number of blocks in `sequenceHashes`. */
  blocks: number;
  blockSize: number;
  /** False on a decode hop that gets no credit for overlap. */
  creditsOverlap: boolean;
  /** Overrides of the policy's config for this request; NaN = none. */
  overlapCredit: number;
  temperature: number;
  prefillLoadScale: number;
  sharedCacheMultiplier: number;
  /** Overrides; undefined = none. */
  assumeKvReuse: boolean | undefined;
  trackPrefillTokens: boolean | undefined;
  /** Output tokens the client expects; 0 = unknown. */
  expectedOutputTokens: number;
  /** Worker to which the request's session is bound (soft), and what that is worth in blocks of cost; slot -1 = none. */
  sessionSlot: number;
  sessionBonusBlocks: number;
  /** A worker must carry all of these taints. */
  requiredTaints: readonly string[];
  /** Taints that make a worker more (weight > 0) or less (< 0) welcome. */
  preferredTaints: readonly TaintPreference[];
}

export interface TaintPreference {
  readonly taint: string;
  readonly weight: number;
}

/**
 * Workers that may take the request, as columns of `count` rows; the host owns and reuses them.
 * A worker is named by its slot: a small integer the host gave at `joined`, reused after `left`.
 */
export interface Candidates {
  count: number;
  readonly slots: Int32Array;
  /** Requests sent to the worker and not ended. */
  readonly activeRequests: Int32Array;
  /** Prompt tokens sent to the worker and not yet computed, as far as known. */
  readonly activePrefillTokens: Float64Array;
  /** KV blocks of those requests, prompt and output, shared ones counted each time. */
  readonly activeBlocks: Float64Array;
  readonly totalBlocks: Float64Array;
  readonly costPerHour: Float64Array;
  /** 1: what is known of the worker's cache may be out of date (its KV event stream is stale). */
  readonly degraded: Uint8Array;
  /** The workers' records, row by row. */
  readonly workers: readonly WorkerRecord[];
  /**
   * Facts below are written by the policy that knows them before it scores (the host zeroes them), so that filters and scorers of others can
   * read them and decisions can be recorded and scored again. Leading prompt blocks the worker holds, whatever the tier:
   */
  readonly overlapBlocks: Int32Array;
  /** Of `overlapBlocks`: blocks whose best tier is host memory, disk, object store; the rest is on the device. */
  readonly hostBlocks: Int32Array;
  readonly diskBlocks: Int32Array;
  readonly objectBlocks: Int32Array;
  /** KV blocks in use on the worker if the request went there, blocks shared by its requests counted once. */
  readonly decodeBlocks: Float64Array;
  /** How far the worker's share of the latest requests lies above the mean of the candidates (0.1 = 10 %), below: negative. */
  readonly excessShare: Float64Array;
}

/** Receives the workers' life and their KV events, in order per worker. */
export interface KvFollower {
  joined(slot: number, worker: WorkerRecord): void;
  left(slot: number): void;
  /** False: the event does not follow the last one (gap); the host resyncs the worker. Late and duplicate events return true and change nothing. */
  apply(slot: number, event: KvEvent): boolean;
  /**
   * All blocks of the worker are forgotten, then `events` are its whole state (their ids mean nothing, a later one may need an earlier one).
   * The next event has id `lastEventId + 1`.
   */
  restore(slot: number, events: readonly KvEvent[], lastEventId: number): void;
}

/** Receives what happens to routed requests, to account for load that events do not tell. */
export interface LoadFollower {
  dispatched(slot: number, request: RoutingRequest): void;
  firstToken(slot: number, requestId: string): void;
  /** The output has grown to `tokens`. Called at block boundaries only. */
  grown(slot: number, requestId: string, tokens: number): void;
  ended(slot: number, requestId: string): void;
}

/**
 * Chooses workers. Hot and synchronous: `score` MUST NOT throw, allocate per candidate, or keep its arguments.
 * The host isolates a policy that throws or writes NaN: counted, logged, and the request goes to the least loaded worker.
 */
export interface RouterPolicy extends Lifecycle {
  readonly name: string;
  readonly supports: {
    /** Same inputs, same costs (no randomness, no rotation). */
    readonly deterministic: boolean;
  };
  /** Adds a cost, in blocks, to `costs[i]` for each candidate; lower wins; +Infinity excludes. Finite otherwise. */
  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void;
  /** Index of the chosen candidate, -1 when every one is excluded. Without it the host takes the lowest cost, ties at random. */
  pick?(request: RoutingRequest, candidates: Candidates, costs: Float64Array): number;
  /**
   * The terms behind the cost of candidate `index`, computed from the facts in `candidates` alone: the host calls it with columns it recorded,
   * long after the decision, to show it or to score it again. Not hot; changes nothing.
   */
  explain?(request: RoutingRequest, candidates: Candidates, index: number): Readonly<Record<string, number>>;
  /** What each named part added to the costs in the last `score`, `names.length` numbers per candidate. Recorded with the decision. */
  readonly parts?: { readonly names: readonly string[]; readonly costs: Float64Array };
  /** What the last `score` could not do as configured (a scorer that threw or wrote NaN and was left out), else undefined. */
  problem?(): string | undefined;
  readonly kv?: KvFollower;
  readonly load?: LoadFollower;
}
