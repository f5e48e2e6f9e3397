import type { Objective, PlannedCandidate, PlannedOutcome, PlannedState, PoolObservation } from '@armature/contracts';

export interface SearchOptions {
  readonly pools: readonly PoolObservation[];
  readonly objective: Objective;
  readonly outcome: (state: PlannedState) => PlannedOutcome;
  /** States that may be looked at. */
  readonly budget: number;
  readonly thresholdTokens: number | undefined;
  readonly referenceCost: number;
}

/** A fleet whose requests all miss is worse than one that costs so many times the reference. */
const MISS_WEIGHT = 20;
/** Each doubling of a latency beyond its objective, in shares of the reference cost: states that all miss still differ. */
const LATENESS_WEIGHT = 0.5;

/**
 * Higher is better. `cost`: minus the cost per hour, minus a multiple of `referenceCost` (per hour, the same for all states compared) for the share of requests
 * below the quantile asked for and for the lateness; what is above the quantile earns nothing. `goodput`: requests within the objective per second, then the
 * lateness, then the cost.
 */
export function scoreOf(outcome: PlannedOutcome, objective: Objective, referenceCost: number): number {
  const lateness = doublings(outcome.ttftMs, objective.ttftMs) + doublings(outcome.itlMs, objective.itlMs);
  if (objective.goal === 'goodput') return outcome.goodputPerSecond * (1 - 0.001 * lateness) - 1e-6 * outcome.costPerHour;
  const shortfall = Math.max(0, objective.quantile - outcome.attainment);
  return -outcome.costPerHour - referenceCost * (MISS_WEIGHT * shortfall + (shortfall > 0 ? LATENESS_WEIGHT * lateness : 0));
}

function doublings(ms: number, limitMs: number): number {
  return ms > limitMs ? Math.min(10, Math.log2(ms / limitMs)) : 0;
}

/** Limits of pools and budgets. */
export function isAllowed(state: PlannedState, pools: readonly PoolObservation[], objective: Objective): boolean {
  let gpus = 0;
  let cost = 0;
  for (const pool of pools) {
    const replicas = state.replicas[pool.pool] ?? pool.desired;
    if (replicas < pool.minReplicas || replicas > pool.maxReplicas) return false;
    gpus += replicas * pool.gpusPerWorker;
    cost += replicas * pool.costPerHour;
  }
  const lendable = state.lent.every(({ from, workers }) => {
    const pool = pools.find((candidate) => candidate.pool === from);
    return pool !== undefined && workers <= (state.replicas[from] ?? pool.desired) - Math.max(1, pool.minReplicas);
  });
  return lendable && gpus <= (objective.maxGpus ?? Infinity) && cost <= (objective.maxCostPerHour ?? Infinity);
}

/** Hill climbing from several starts, one change or an exchange at a time; best first, no state twice. */
export function search(starts: readonly PlannedState[], options: SearchOptions): PlannedCandidate[] {
  const { pools, objective, outcome, budget, referenceCost } = options;
  const looked = new Map<string, PlannedCandidate>();
  const look = (state: PlannedState): PlannedCandidate | undefined => {
    const key = JSON.stringify([pools.map(({ pool, desired }) => state.replicas[pool] ?? desired), state.lent, state.thresholdTokens]);
    const known = looked.get(key);
    if (known !== undefined) return known;
    if (looked.size >= budget || !isAllowed(state, pools, objective)) return undefined;
    const expected = outcome(state);
    const candidate = { state, outcome: expected, score: scoreOf(expected, objective, referenceCost) };
    looked.set(key, candidate);
    return candidate;
  };
  const begun = starts.map(look).filter((candidate) => candidate !== undefined).sort((a, b) => b.score - a.score);
  for (const start of begun.slice(0, 2)) {
    let best = start;
    for (;;) {
      let next = best;
      for (const state of neighbours(best.state, options)) {
        const candidate = look(state);
        if (candidate !== undefined && candidate.score > next.score) next = candidate;
      }
      if (next === best || looked.size >= budget) break;
      best = next;
    }
  }
  return [...looked.values()].sort((a, b) => b.score - a.score);
}

function neighbours(state: PlannedState, { pools, thresholdTokens }: SearchOptions): PlannedState[] {
  const all: PlannedState[] = [];
  const count = (pool: PoolObservation): number => state.replicas[pool.pool] ?? pool.desired;
  const changed = (changes: Readonly<Record<string, number>>): PlannedState => ({ ...state, replicas: { ...state.replicas, ...changes } });
  for (const pool of pools) {
    const step = Math.max(1, Math.round(count(pool) / 4));
    for (const by of new Set([1, -1, step, -step])) all.push(changed({ [pool.pool]: count(pool) + by }));
    for (const other of pools) if (other !== pool) all.push(changed({ [pool.pool]: count(pool) - 1, [other.pool]: count(other) + 1 }));
    // A role change that is as dear as a new worker is never better than one.
    if (pool.roleChange === 'live') for (const other of pools) if (other.role !== pool.role && other.role !== 'both' && pool.role !== 'both') all.push(...lendings(state, pool.pool, other.pool));
  }
  const threshold = state.thresholdTokens ?? thresholdTokens;
  if (threshold !== undefined) for (const tokens of threshold === 0 ? [256] : [0, Math.round(threshold / 2), threshold * 2]) all.push({ ...state, thresholdTokens: tokens });
  return all;
}

/** One worker more or fewer lent; what is lent the other way comes back first. */
function lendings(state: PlannedState, from: string, to: string): PlannedState[] {
  const workers = (of: string, toward: string): number => state.lent.find((entry) => entry.from === of && entry.to === toward)?.workers ?? 0;
  const others = state.lent.filter((entry) => !((entry.from === from && entry.to === to) || (entry.from === to && entry.to === from)));
  const net = workers(from, to) - workers(to, from);
  return [net + 1, net - 1].map((count) => ({ ...state, lent: count === 0 ? others : [...others, count > 0 ? { from, to, workers: count } : { from: to, to: from, workers: -count }] }));
}
