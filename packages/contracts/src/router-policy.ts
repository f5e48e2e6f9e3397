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
  /** Overrides; NaN = none. */
  overlapCredit: number;
  temperature: number;
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
  /** Out: leading prompt blocks the worker holds. The host zeroes it; policies that know write it. */
  readonly overlapBlocks: Int32Array;
}

/** Receives the workers' life and their KV events, in order per worker. */
export interface KvFollower {
  joined(slot: number, worker: WorkerRecord): void;
  left(slot: number): void;
  /** False: the event does not follow the last one (gap); the host resyncs the worker. Late and duplicate events return true and change nothing. */
  apply(slot: number, event: KvEvent): boolean;
  /** All blocks of the worker are forgotten; the next event may have any id. */
  reset(slot: number): void;
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
  /** The terms behind `costs[index]` of the last `score`, for the decision record. */
  explain?(index: number): Readonly<Record<string, number>>;
  readonly kv?: KvFollower;
  readonly load?: LoadFollower;
}
