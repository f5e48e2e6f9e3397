import type { PassTiming } from './timing.ts';

export interface SteadyTraffic {
  readonly requestsPerSecond: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Share of prompt tokens that are cached. */
  readonly hitRate: number;
}

export interface WorkerShape {
  readonly timing: PassTiming;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly kvTokens: number;
}

/** Requests per second whose prompts one worker computes when it does nothing else (chunks of `maxBatchedTokens`). */
export function prefillRate(worker: WorkerShape, traffic: SteadyTraffic): number {
  const tokens = Math.max(1, traffic.promptTokens * (1 - traffic.hitRate));
  const whole = Math.floor(tokens / worker.maxBatchedTokens);
  const rest = tokens - whole * worker.maxBatchedTokens;
  const ms = whole * worker.timing.passMs(worker.maxBatchedTokens, 0, 0) + (rest > 0 ? worker.timing.passMs(rest, 0, 0) : 0);
  return 1000 / Math.max(ms, 1e-6);
}

/** Largest batch whose decode pass keeps `itlMs` (at least 1), by seats and KV. Context per sequence is the prompt and half of the output. */
export function decodeBatch(worker: WorkerShape, traffic: SteadyTraffic, itlMs: number): number {
  const context = traffic.promptTokens + traffic.outputTokens / 2;
  const most = Math.max(1, Math.min(worker.maxSequences, Math.floor(worker.kvTokens / Math.max(1, context))));
  let low = 1;
  let high = most;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (worker.timing.passMs(0, middle, middle * context) <= itlMs) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Requests per second that one worker decodes within `itlMs`: Little's law over the largest batch that keeps it. */
export function decodeRate(worker: WorkerShape, traffic: SteadyTraffic, itlMs: number): number {
  const batch = decodeBatch(worker, traffic, itlMs);
  const context = traffic.promptTokens + traffic.outputTokens / 2;
  const passMs = worker.timing.passMs(0, batch, batch * context);
  return (1000 * batch) / Math.max(1, traffic.outputTokens) / Math.max(passMs, 1e-6);
}
