import type { Forecast, Interval, Objective, PlannerInput, PlannerObservation, PoolObservation } from '@armature/contracts';

const none = { prefillTokens: new Float64Array(0), decodeSequences: new Float64Array(0), contextTokens: new Float64Array(0), ms: new Float64Array(0) };

export function poolSeen(role: 'prefill' | 'decode' | 'both', changes: Partial<PoolObservation> = {}): PoolObservation {
  return {
    pool: role,
    role,
    hardware: 'default',
    gpusPerWorker: 1,
    costPerHour: 1,
    roleChange: 'live',
    minReplicas: 1,
    maxReplicas: 16,
    startupMs: 30_000,
    capacity: { kvTokens: 262_144, maxSequences: 256, maxBatchedTokens: 8_192 },
    desired: 2,
    ready: 2,
    starting: 0,
    draining: 0,
    lent: 0,
    running: 0,
    waiting: 0,
    prefillTokens: 0,
    usedBlocks: 0,
    totalBlocks: 16_384,
    passes: none,
    ...changes,
  };
}

export const objective: Objective = { goal: 'cost', ttftMs: 1_000, itlMs: 30, quantile: 0.95, maxGpus: undefined, maxCostPerHour: undefined };

export function inputSeen(pools: readonly PoolObservation[], changes: { readonly traffic?: Partial<PlannerObservation['traffic']>; readonly objective?: Partial<Objective>; readonly forecast?: Partial<Record<Exclude<keyof Forecast, 'horizonMs'>, Interval>> } = {}): PlannerInput {
  const around = (mean: number): Interval => ({ mean, low: mean * 0.9, high: mean * 1.1 });
  const traffic = { requestsPerSecond: 4, promptTokens: 1_000, hitRate: 0.2, outputTokens: 200, queued: 0, finishedPerSecond: 4, failedPerSecond: 0, ttftMs: 200, itlMs: 10, attainment: 1, ...changes.traffic };
  return {
    observation: { model: 'm', tick: 1, atMs: 15_000, intervalMs: 15_000, traffic, pools, thresholdTokens: undefined, problems: [] },
    forecast: {
      horizonMs: 60_000,
      requestsPerSecond: around(traffic.requestsPerSecond),
      promptTokens: around(traffic.promptTokens),
      outputTokens: around(traffic.outputTokens),
      hitRate: around(traffic.hitRate),
      ...changes.forecast,
    },
    objective: { ...objective, ...changes.objective },
  };
}
