import type { PassTiming } from '@armature/fleet-model';
import { decodeBatch, decodeRate, prefillRate } from '@armature/fleet-model';
import type { SteadyTraffic, WorkerShape } from '@armature/fleet-model';

/** What one worker takes within the objective, and how it answers then. */
export interface EngineRate {
  readonly requestsPerSecond: number;
  readonly ttftMs: number;
  readonly itlMs: number;
  /** Whether it keeps the latencies at all, be it with one request at a time. */
  readonly isWithin: boolean;
}

export interface Latencies {
  readonly ttftMs: number;
  readonly itlMs: number;
}

/** Prompt tokens that are not cached, as far as the reference trusts the hit rate. */
export function uncached({ promptTokens, hitRate }: SteadyTraffic): number {
  return Math.max(1, promptTokens * (1 - Math.min(0.95, hitRate)));
}

/** Σ wall(chunk) over chunks of at most `maxBatchedTokens`. */
export function prefillMs({ timing, maxBatchedTokens }: WorkerShape, tokens: number): number {
  const whole = Math.floor(tokens / maxBatchedTokens);
  const rest = tokens - whole * maxBatchedTokens;
  return whole * timing.passMs(maxBatchedTokens, 0, 0) + (rest > 0 ? timing.passMs(rest, 0, 0) : 0);
}

/** Prefill: engine_rps = 1 / wall(ISL). */
export function prefillEngine(worker: WorkerShape, traffic: SteadyTraffic, limits: Latencies): EngineRate {
  const ttftMs = prefillMs(worker, uncached(traffic));
  return { requestsPerSecond: prefillRate(worker, { ...traffic, hitRate: Math.min(0.95, traffic.hitRate) }), ttftMs, itlMs: 0, isWithin: ttftMs <= limits.ttftMs };
}

/** Decode: the largest batch b* whose pass keeps the ITL; engine_rps = b* / (OSL · wall(b*)). One request at a time where no batch keeps it. */
export function decodeEngine(worker: WorkerShape, traffic: SteadyTraffic, limits: Latencies): EngineRate {
  const batch = decodeBatch(worker, traffic, limits.itlMs);
  const itlMs = decodePassMs(worker.timing, batch, traffic);
  return { requestsPerSecond: decodeRate(worker, traffic, limits.itlMs), ttftMs: 0, itlMs, isWithin: itlMs <= limits.itlMs };
}

/**
 * Both in one engine: with b sequences decoding, b / OSL requests end and begin per pass, so that a pass also computes b · ISL / OSL prompt tokens. The
 * largest b whose pass keeps the ITL, whose prompt tokens fit a pass; the prompt of a request takes at least its own passes.
 */
export function mixedEngine(worker: WorkerShape, traffic: SteadyTraffic, limits: Latencies): EngineRate {
  const outputs = Math.max(1, traffic.outputTokens);
  const prompt = uncached(traffic);
  const context = traffic.promptTokens + outputs / 2;
  const wall = (batch: number): number => worker.timing.passMs((batch * prompt) / outputs, batch, batch * context);
  const seats = Math.min(worker.maxSequences, Math.floor(worker.kvTokens / context), Math.floor((worker.maxBatchedTokens * outputs) / (prompt + outputs)));
  let [low, high] = [1, Math.max(1, seats)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (wall(middle) <= limits.itlMs) low = middle;
    else high = middle - 1;
  }
  const itlMs = wall(low);
  const ttftMs = prefillMs(worker, prompt);
  return { requestsPerSecond: (1000 * low) / (outputs * Math.max(itlMs, 1e-6)), ttftMs, itlMs, isWithin: itlMs <= limits.itlMs && ttftMs <= limits.ttftMs };
}

/** wall(b) of sequences that are, on average, half through their output. */
export function decodePassMs(timing: PassTiming, batch: number, { promptTokens, outputTokens }: SteadyTraffic): number {
  return timing.passMs(0, batch, batch * (promptTokens + outputTokens / 2));
}

/** TTFT_est = Σ wall(chunk) over the queue and one mean prompt, as far as they are not cached. `queuedTokens`: of one worker. */
export function ttftEstimate(worker: WorkerShape, queuedTokens: number, traffic: SteadyTraffic): number {
  return prefillMs(worker, queuedTokens + uncached(traffic));
}

/** ITL_est = wall(one sequence more, with its context). `sequences`, `kvTokens`: of one worker. */
export function itlEstimate({ timing }: WorkerShape, sequences: number, kvTokens: number, { promptTokens, outputTokens }: SteadyTraffic): number {
  return timing.passMs(0, sequences + 1, kvTokens + promptTokens + outputTokens / 2);
}
