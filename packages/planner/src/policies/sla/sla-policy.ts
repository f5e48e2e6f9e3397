import type { Objective, PlannedCandidate, PlannedOutcome, PlannedState, PlannerInput, PlannerPolicy, PlannerProposal, PoolObservation } from '@armature/contracts';
import { tableTiming } from '@armature/fleet-model';
import type { SteadyTraffic, TimingTable } from '@armature/fleet-model';
import { stateOf } from '../optimize/optimize-policy.ts';
import { TimingBook } from '../timing-book.ts';
import type { KnownWorker, TimingPrior } from '../timing-book.ts';
import { workersAt } from '../workers-at.ts';
import { decodeEngine, itlEstimate, mixedEngine, prefillEngine, ttftEstimate } from './engine-rates.ts';
import type { EngineRate } from './engine-rates.ts';

export interface SlaConfig {
  /** Which load is planned for: 0 = the expected one, 1 = the upper end of the forecast. */
  readonly caution: number;
  /** A worker goes only when the estimates after it are below this share of the objective. */
  readonly downShare: number;
  readonly hardware: Readonly<Record<string, TimingPrior>>;
  /** Measured points by hardware profile, interpolated instead of fitted. */
  readonly tables: Readonly<Record<string, TimingTable>>;
}

interface Sized {
  readonly pool: PoolObservation;
  readonly rate: EngineRate;
  /** Workers that the rate asks for, within no limit. */
  readonly needed: number;
  readonly count: number;
  readonly why: string;
}

const unpredicted = { ttftMs: NaN, itlMs: NaN, attainment: NaN, goodputPerSecond: NaN, gpus: NaN, costPerHour: NaN };

/**
 * The reference's formulas (1.2 and later): per pool the requests per second that one engine takes within the objective, from a regression of its passes
 * (or a measured table); replicas = ⌈demand / engine⌉. Estimates of TTFT and ITL from what is queued and running now add a worker where they are above the
 * objective, and keep one where they would be after its removal.
 */
export class SlaPolicy implements PlannerPolicy {
  readonly #config: SlaConfig;
  readonly #book: TimingBook;
  readonly #tables: ReadonlyMap<string, KnownWorker['timing']>;

  constructor(config: SlaConfig) {
    this.#config = config;
    this.#book = new TimingBook(config.hardware);
    this.#tables = new Map(Object.entries(config.tables).map(([name, table]) => [name, tableTiming(table)]));
  }

  propose(input: PlannerInput): PlannerProposal {
    const { observation, objective } = input;
    for (const pool of observation.pools) this.#book.learn(pool);
    const now = stateOf(observation);
    const traffic = this.#traffic(input);
    if (traffic === undefined) return { state: now, outcome: unpredicted, reason: 'nothing is known of the traffic yet', action: 'hold_insufficient_data', candidates: [] };
    const sized = observation.pools.map((pool) => this.#size(pool, traffic, input));
    const state: PlannedState = { ...now, replicas: Object.fromEntries(sized.map(({ pool, count }) => [pool.pool, count])) };
    const [outcome, held] = [outcomeOf(sized, state, traffic, objective), outcomeOf(sized, now, traffic, objective)];
    const candidates: PlannedCandidate[] = [
      { state, outcome, score: 1 },
      { state: now, outcome: held, score: 0 },
    ];
    const broken = sized.filter(({ rate }) => !rate.isWithin);
    const best = broken.map(({ pool, rate }) => `${pool.pool} has TTFT ${rate.ttftMs.toFixed(0)} ms and ITL ${rate.itlMs.toFixed(1)} ms at best`);
    const limit = broken.length === 0 ? '' : `; the objective (TTFT ${objective.ttftMs} ms, ITL ${objective.itlMs} ms) cannot be kept even without load: ${best.join(', ')}`;
    return { state, outcome, reason: `${sized.map(({ pool, why }) => `${pool.pool}: ${why}`).join('; ')}${limit}`, action: actionOf(sized, broken.length > 0), candidates };
  }

  #worker(pool: PoolObservation): KnownWorker {
    const worker = this.#book.worker(pool);
    const timing = this.#tables.get(pool.hardware);
    return timing === undefined ? worker : { ...worker, timing };
  }

  #size(pool: PoolObservation, traffic: SteadyTraffic, { observation, objective }: PlannerInput): Sized {
    const worker = this.#worker(pool);
    const rate = (pool.role === 'prefill' ? prefillEngine : pool.role === 'decode' ? decodeEngine : mixedEngine)(worker, traffic, objective);
    const share = shareOf(pool, observation.pools);
    const needed = (share * traffic.requestsPerSecond) / rate.requestsPerSecond;
    const byRate = Math.min(pool.maxReplicas, Math.max(pool.minReplicas, Math.ceil(needed - 1e-9)));
    const said = `${(share * traffic.requestsPerSecond).toFixed(2)} requests/s at ${rate.requestsPerSecond.toFixed(2)} per worker need ${needed.toFixed(2)}`;
    const workers = workersAt(pool, observation.pools);
    const estimate = (count: number): number => worst(this.#estimates(pool, worker, traffic, { workers, count }), objective);
    if (workers > 0 && rate.isWithin && pool.starting === 0 && estimate(workers) > 1 && byRate <= pool.desired) {
      return { pool, rate, needed, count: pool.desired + 1, why: `${said}; what waits and runs now is estimated at ${estimate(workers).toFixed(2)}× the objective: one more` };
    }
    if (byRate < pool.desired && workers > 1) {
      const afterwards = estimate(workers - 1);
      // NaN: nothing is known of its load; the rate alone decides.
      if (afterwards >= this.#config.downShare) return { pool, rate, needed, count: pool.desired, why: `${said}; one less would be at ${afterwards.toFixed(2)}× the objective: none goes` };
    }
    return { pool, rate, needed, count: byRate, why: said };
  }

  /** With the work of `workers` now on `count` of them. */
  #estimates(pool: PoolObservation, worker: KnownWorker, traffic: SteadyTraffic, { workers, count }: { readonly workers: number; readonly count: number }): { readonly ttftMs: number; readonly itlMs: number } {
    const { role, prefillTokens, running, usedBlocks, totalBlocks } = pool;
    const kvTokens = totalBlocks > 0 ? (usedBlocks / totalBlocks) * worker.kvTokens * workers : running * (traffic.promptTokens + traffic.outputTokens / 2);
    return {
      ttftMs: role === 'decode' ? 0 : ttftEstimate(worker, prefillTokens / count, traffic),
      itlMs: role === 'prefill' ? 0 : itlEstimate(worker, running / count, Math.min(worker.kvTokens, kvTokens / count), traffic),
    };
  }

  #traffic({ forecast }: PlannerInput): SteadyTraffic | undefined {
    const { mean, high } = forecast.requestsPerSecond;
    const traffic = { requestsPerSecond: mean + this.#config.caution * Math.max(0, high - mean), promptTokens: forecast.promptTokens.mean, outputTokens: forecast.outputTokens.mean, hitRate: Math.min(1, Math.max(0, forecast.hitRate.mean)) };
    return Object.values(traffic).every((value) => Number.isFinite(value) && value >= 0) ? traffic : undefined;
  }
}

/** Pools of one role share its work by what is ordered there; equally where nothing is. */
function shareOf(pool: PoolObservation, pools: readonly PoolObservation[]): number {
  const same = pools.filter(({ role }) => role === pool.role);
  const all = same.reduce((sum, { desired }) => sum + desired, 0);
  return all === 0 ? 1 / same.length : pool.desired / all;
}

function worst({ ttftMs, itlMs }: { readonly ttftMs: number; readonly itlMs: number }, objective: Objective): number {
  return Math.max(ttftMs / objective.ttftMs, itlMs / objective.itlMs);
}

/** By rates alone: the share of the demand that the fleet takes within the objective. */
function outcomeOf(sized: readonly Sized[], state: PlannedState, traffic: SteadyTraffic, objective: Objective): PlannedOutcome {
  let [gpus, costPerHour, attainment] = [0, 0, 1];
  for (const { pool, rate, needed } of sized) {
    const count = state.replicas[pool.pool];
    gpus += count * pool.gpusPerWorker;
    costPerHour += count * pool.costPerHour;
    attainment = Math.min(attainment, rate.isWithin ? (needed > 0 ? count / needed : 1) : 0);
  }
  const [ttftMs, itlMs] = [Math.max(...sized.map(({ rate }) => rate.ttftMs)), Math.max(...sized.map(({ rate }) => rate.itlMs))];
  const isEnough = attainment >= 1;
  return { ttftMs: isEnough || ttftMs > objective.ttftMs ? ttftMs : NaN, itlMs, attainment, goodputPerSecond: traffic.requestsPerSecond * attainment, gpus, costPerHour };
}

function actionOf(sized: readonly Sized[], isUnreachable: boolean): string {
  const changes = sized.map(({ pool, count }) => Math.sign(count - pool.desired));
  if (changes.every((change) => change === 0)) return isUnreachable ? 'hold_objective_unreachable' : 'hold';
  if (changes.every((change) => change >= 0)) return 'scale_up';
  return changes.every((change) => change <= 0) ? 'scale_down' : 'rebalance';
}
