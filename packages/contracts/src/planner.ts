import type { EngineAbilities } from './engine-backend.ts';
import type { Lifecycle } from './plugin.ts';
import type { WorkerRole } from './worker.ts';

/**
 * Upper bounds, in milliseconds, of the buckets in which latencies are counted: 16 per power of two from 0.25 ms up to about 17 minutes, then one without
 * bound. Counts of several reporters add up; a quantile read from them is at most 4.4 % off.
 */
export const latencyBucketBoundsMs: Float64Array = Float64Array.from({ length: 353 }, (_, i) => (i === 352 ? Infinity : 0.25 * 2 ** (i / 16)));

/**
 * Lengths of single requests as columns of equal length. Means alone say neither how uneven requests are nor that long prompts have short answers; both decide
 * how much KV is held at once.
 */
export interface RequestSamples {
  readonly promptTokens: Float64Array;
  readonly cachedTokens: Float64Array;
  readonly outputTokens: Float64Array;
}

/**
 * What one frontend process saw of one model's traffic over one interval; published under `traffic/MODEL`. Sums and counts, so that several frontends add
 * up. `sequence` counts the reports of this source from 1: a gap means that reports were lost.
 */
export interface TrafficReport {
  readonly model: string;
  /** The process, unique per life. */
  readonly source: string;
  readonly sequence: number;
  readonly intervalMs: number;
  /** Requests that came in. */
  readonly arrived: number;
  /** Prompt tokens and, as far as they are known, tokens the engines will have to compute of the requests that came in. */
  readonly arrivedPromptTokens: number;
  readonly finished: number;
  readonly failed: number;
  /** Of the finished requests. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Output tokens of the interval, by all requests, finished or not. */
  readonly generatedTokens: number;
  readonly remotePrefills: number;
  /** Waiting to be placed at the end of the interval. */
  readonly queued: number;
  /** Counts by `latencyBucketBoundsMs`: time to first token of requests whose first token came in the interval. */
  readonly ttft: Uint32Array;
  /** Mean inter-token latency of each finished request with two or more output tokens. */
  readonly itl: Uint32Array;
  /** Finished requests that met the objectives of their model; equal to `finished` where there are none. */
  readonly withinObjective: number;
  /** Some of the finished requests, newest last, at most 64. Left out: lengths are taken as log-normal around their means. */
  readonly samples?: RequestSamples;
}

/**
 * What one worker did over one interval; published under `engine/MODEL`. `passes` are the engine's latest passes as columns of equal length, newest last, at
 * most 64; empty where the engine does not tell. They are what timing models are fitted from.
 */
export interface EngineReport {
  readonly model: string;
  readonly instanceId: string;
  readonly sequence: number;
  readonly intervalMs: number;
  readonly running: number;
  readonly waiting: number;
  /** Prompt tokens not yet computed, running and waiting. */
  readonly prefillTokens: number;
  readonly usedBlocks: number;
  readonly totalBlocks: number;
  readonly passes: PassColumns;
}

/** One row per pass: a step of the engine over its batch. */
export interface PassColumns {
  readonly prefillTokens: Float64Array;
  readonly decodeSequences: Float64Array;
  /** KV tokens that the decoding sequences hold. */
  readonly contextTokens: Float64Array;
  readonly ms: Float64Array;
}

/** What the operator wants of a model. Latencies are those that the `quantile` of requests must keep. */
export interface Objective {
  /** `cost`: the cheapest that keeps the latencies. `goodput`: the most requests within the latencies that the budget allows. */
  readonly goal: 'cost' | 'goodput';
  readonly ttftMs: number;
  readonly itlMs: number;
  /** For example 0.95. */
  readonly quantile: number;
  /** Upper limits over all pools; undefined: none. */
  readonly maxGpus: number | undefined;
  readonly maxCostPerHour: number | undefined;
}

/** What one worker can hold and take at once. */
export interface WorkerCapacity {
  readonly kvTokens: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
}

/** A pool as planned: fixed facts. */
export interface PlannedPool {
  readonly pool: string;
  readonly role: WorkerRole;
  readonly hardware: string;
  readonly gpusPerWorker: number;
  /** Of one worker. */
  readonly costPerHour: number;
  /** How its workers can take another role. `none`: never proposed. `restart`: as expensive as a worker's end and start. */
  readonly roleChange: EngineAbilities['roleChange'];
  readonly minReplicas: number;
  readonly maxReplicas: number;
  /** From order to first request, as configured or measured. Charged as GPU time. */
  readonly startupMs: number;
  /** Of one worker, as its records say; undefined before the first one was seen. */
  readonly capacity?: WorkerCapacity;
}

/** A pool as seen now. Counts of workers by what they do; sums over the workers that take requests. */
export interface PoolObservation extends PlannedPool {
  /** The order in force. */
  readonly desired: number;
  readonly ready: number;
  /** Ordered and not there yet. */
  readonly starting: number;
  readonly draining: number;
  /** Live workers of this pool that have taken the other role, by a role change. Not counted in `ready`. */
  readonly lent: number;
  readonly running: number;
  readonly waiting: number;
  readonly prefillTokens: number;
  readonly usedBlocks: number;
  readonly totalBlocks: number;
  readonly passes: PassColumns;
}

/** Traffic of one interval over all frontends. Rates per second, tokens per request; NaN where nothing was seen. */
export interface TrafficObservation {
  readonly requestsPerSecond: number;
  readonly promptTokens: number;
  /** Share of prompt tokens that nobody had to compute, 0 to 1. */
  readonly hitRate: number;
  /**
   * Mean output length: tokens generated over requests finished in the interval. The mean of the finished ones alone says too little for as long as a request
   * lasts when outputs grow longer.
   */
  readonly outputTokens: number;
  readonly queued: number;
  readonly finishedPerSecond: number;
  readonly failedPerSecond: number;
  /** At the objective's quantile. */
  readonly ttftMs: number;
  readonly itlMs: number;
  /** Share of finished requests within the objective, 0 to 1. */
  readonly attainment: number;
  /** Of all frontends together. */
  readonly samples?: RequestSamples;
}

export interface PlannerObservation {
  readonly model: string;
  readonly tick: number;
  readonly atMs: number;
  readonly intervalMs: number;
  readonly traffic: TrafficObservation;
  readonly pools: readonly PoolObservation[];
  /** Disaggregation threshold in force: prompts with fewer uncached tokens are prefilled where they decode. Undefined: not adjustable. */
  readonly thresholdTokens: number | undefined;
  /** What is missing, stale, contradictory: said in words. A policy must not plan on a field that is NaN. */
  readonly problems: readonly string[];
}

/** `mean`, and the bounds between which the true value lies nine times of ten, as far as past errors tell. */
export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** Traffic expected over the next `horizonMs`. */
export interface Forecast {
  readonly horizonMs: number;
  readonly requestsPerSecond: Interval;
  readonly promptTokens: Interval;
  readonly outputTokens: Interval;
  readonly hitRate: Interval;
}

/** Workers per pool, and what else a plan may set. */
export interface PlannedState {
  /** Replicas by pool; a pool left out stays as it is. */
  readonly replicas: Readonly<Record<string, number>>;
  /** Workers of `from` that shall work as `to` does (its role), by pool; only where the engines declare it. */
  readonly lent: readonly { readonly from: string; readonly to: string; readonly workers: number }[];
  readonly thresholdTokens?: number;
}

/** What a candidate is expected to do; NaN where a policy does not predict it. */
export interface PlannedOutcome {
  readonly ttftMs: number;
  readonly itlMs: number;
  /** Share of requests within the objective. */
  readonly attainment: number;
  readonly goodputPerSecond: number;
  readonly gpus: number;
  readonly costPerHour: number;
}

export interface PlannedCandidate {
  readonly state: PlannedState;
  readonly outcome: PlannedOutcome;
  /** Higher is better, comparable within one proposal. */
  readonly score: number;
}

export interface PlannerProposal {
  readonly state: PlannedState;
  /** Expected of the proposed state. */
  readonly outcome: PlannedOutcome;
  /** For people: why this one, with the numbers that decided. */
  readonly reason: string;
  /** Machine-readable: `scale_up`, `scale_down`, `rebalance`, `hold`, `hold_insufficient_data`, … */
  readonly action: string;
  /** What was compared, best first; at most 32. */
  readonly candidates: readonly PlannedCandidate[];
}

export interface PlannerInput {
  readonly observation: PlannerObservation;
  readonly forecast: Forecast;
  readonly objective: Objective;
}

/**
 * Proposes; the planner predicts before it and constrains after it (limits, budgets, hysteresis, cool-down), executes and records. Sees observations only:
 * no plane, no clock. A policy may keep state between ticks; the same inputs in the same order give the same proposals.
 */
export interface PlannerPolicy extends Lifecycle {
  propose(input: PlannerInput): PlannerProposal;
}

/** One order to the outside, complete: pools not named are not the planner's. */
export interface ScalingOrder {
  /** Grows with each order of this planner, over its restarts too. */
  readonly revision: number;
  readonly model: string;
  readonly pools: readonly { readonly pool: string; readonly replicas: number }[];
}

/** What the outside says of an order. `unknown`: it does not tell, look at discovery. */
export interface ScalingStatus {
  readonly revision: number;
  readonly state: 'unknown' | 'pending' | 'done' | 'failed';
  /** Why it is stuck or has failed: the scheduler's own words. */
  readonly reason?: string;
}

/**
 * Carries orders to whoever starts and stops workers. The planner never believes its own order: it compares desired and observed. `apply` hands the order
 * over and resolves when it was taken, not when it is reached; a later order replaces it. Idempotent: the same order again changes nothing. Workers are
 * drained before they are removed, highest index first. Throws coded errors; a call that takes longer than its deadline counts as failed.
 */
export interface ScalingConnector extends Lifecycle {
  apply(order: ScalingOrder, deadlineMs: number): Promise<void>;
  status(model: string): ScalingStatus;
  /** The order in force, as the outside remembers it: a planner that was killed goes on from it. Undefined: none. */
  current(model: string): Promise<ScalingOrder | undefined>;
}
