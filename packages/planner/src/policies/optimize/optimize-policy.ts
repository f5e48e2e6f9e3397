import type { PlannedCandidate, PlannedState, PlannerInput, PlannerObservation, PlannerPolicy, PlannerProposal, PoolObservation, Random } from '@armature/contracts';
import { decodeRate, prefillRate } from '@armature/fleet-model';
import type { SteadyTraffic } from '@armature/fleet-model';
import { SampleBook } from '../sample-book.ts';
import { TimingBook } from '../timing-book.ts';
import type { KnownWorker, TimingPrior } from '../timing-book.ts';
import { search, scoreOf } from './search.ts';
import { lentNow, WhatIf } from './what-if.ts';

export interface OptimizeConfig {
  readonly horizonMs: number;
  /** Where between the expected and the high forecast the fleet is planned for: 0 = expected, 1 = high. */
  readonly caution: number;
  readonly evaluations: number;
  readonly maxRequests: number;
  /** Share by which a change must be better than holding. */
  readonly margin: number;
  readonly transferMs: number;
  readonly transferMsPerToken: number;
  readonly drainMs: number;
  readonly hardware: Readonly<Record<string, TimingPrior>>;
}

/** Load that the first guess leaves free: queues grow without bound at 100 %. */
const GUESS_UTILISATION = 0.75;
/** A fleet that has been given a steady load for so many stays of a request is as full as it gets. */
const RESIDENCES = 3;
const KEPT_CANDIDATES = 32;

/** Asks the fleet model what would happen under the expected traffic for many next states, and proposes the best one by the objective. */
export class OptimizePolicy implements PlannerPolicy {
  readonly #config: OptimizeConfig;
  readonly #random: Random;
  readonly #book: TimingBook;
  readonly #samples: SampleBook;
  /** When the workers of each pool that have not come yet were first seen on their way. */
  readonly #ordered: Map<string, number[]>;

  constructor(config: OptimizeConfig, random: Random) {
    this.#config = config;
    this.#random = random;
    this.#book = new TimingBook(config.hardware);
    this.#samples = new SampleBook();
    this.#ordered = new Map();
  }

  propose(input: PlannerInput): PlannerProposal {
    const { observation, objective } = input;
    for (const pool of observation.pools) this.#book.learn(pool);
    this.#samples.learn(observation.traffic.samples);
    const starting = observation.pools.flatMap((pool) => this.#onTheWay(pool, observation.atMs));
    const now = stateOf(observation);
    const traffic = this.#traffic(input);
    if (traffic === undefined) {
      const nothing = { ttftMs: NaN, itlMs: NaN, attainment: NaN, goodputPerSecond: NaN, gpus: NaN, costPerHour: NaN };
      return { state: now, outcome: nothing, reason: 'nothing is known of the traffic yet', action: 'hold_insufficient_data', candidates: [] };
    }
    const workers = new Map(observation.pools.map((pool) => [pool.pool, this.#book.worker(pool)]));
    const { evaluations, horizonMs, maxRequests, transferMs, transferMsPerToken, drainMs } = this.#config;
    // Long enough for what is ordered now to come, and for the requests that arrive meanwhile to have filled the fleet.
    const startupMs = Math.max(...observation.pools.map((pool) => pool.startupMs));
    const stayMs = traffic.outputTokens * objective.itlMs;
    const whatIf = new WhatIf({ observation, objective, traffic, samples: this.#samples.samples, workers, horizonMs: Math.max(horizonMs, 2 * startupMs, startupMs + RESIDENCES * stayMs), maxRequests, transferMs, transferMsPerToken, drainMs, starting, random: this.#random.fork('what-if') });
    const guessed = guess(observation, workers, traffic, objective.itlMs);
    const options = { pools: observation.pools, objective, outcome: (state: PlannedState) => whatIf.outcome(state), budget: evaluations, thresholdTokens: observation.thresholdTokens, referenceCost: costOf(observation, guessed) };
    const candidates = search([now, guessed], options);
    const held = { state: now, outcome: whatIf.outcome(now), score: scoreOf(whatIf.outcome(now), objective, options.referenceCost) };
    const best = candidates[0] ?? held;
    return this.#choose(best, held, candidates, input);
  }

  /** Those ordered first come first. */
  #onTheWay(pool: PoolObservation, atMs: number): { readonly pool: string; readonly inMs: number }[] {
    const times = (this.#ordered.get(pool.pool) ?? []).slice(-pool.starting || Infinity);
    while (times.length < pool.starting) times.push(atMs);
    this.#ordered.set(pool.pool, times);
    return times.map((since) => ({ pool: pool.pool, inMs: Math.max(0, since + pool.startupMs - atMs) }));
  }

  #choose(best: PlannedCandidate, held: PlannedCandidate, candidates: readonly PlannedCandidate[], { objective, observation }: PlannerInput): PlannerProposal {
    const isBetter = best.score > held.score + this.#config.margin * Math.abs(held.score);
    const chosen = isBetter ? best : held;
    const reached = `${(100 * chosen.outcome.attainment).toFixed(1)} % within the objective at ${chosen.outcome.costPerHour.toFixed(2)} per hour`;
    const isPossible = best.outcome.attainment >= objective.quantile;
    const others = isBetter ? `; holding would give ${(100 * held.outcome.attainment).toFixed(1)} % at ${held.outcome.costPerHour.toFixed(2)}` : '; no other state is better by the margin';
    const limit = isPossible ? '' : `; ${(100 * objective.quantile).toFixed(1)} % cannot be reached by any state looked at, this is the best`;
    return {
      state: chosen.state,
      outcome: chosen.outcome,
      reason: `expected: ${reached}${others}${limit}`,
      action: isBetter ? actionOf(chosen.state, observation.pools) : isPossible ? 'hold' : 'hold_objective_unreachable',
      candidates: candidates.slice(0, KEPT_CANDIDATES),
    };
  }

  #traffic({ forecast }: PlannerInput): SteadyTraffic | undefined {
    const { caution } = this.#config;
    const at = ({ mean, high }: { readonly mean: number; readonly high: number }): number => mean + caution * Math.max(0, high - mean);
    const traffic = {
      requestsPerSecond: at(forecast.requestsPerSecond),
      promptTokens: forecast.promptTokens.mean,
      outputTokens: forecast.outputTokens.mean,
      hitRate: Math.min(1, Math.max(0, forecast.hitRate.mean)),
    };
    return Object.values(traffic).every((value) => Number.isFinite(value) && value >= 0) ? traffic : undefined;
  }
}

/** The orders in force. */
export function stateOf(observation: PlannerObservation): PlannedState {
  const state = { replicas: Object.fromEntries(observation.pools.map(({ pool, desired }) => [pool, desired])), lent: lentNow(observation) };
  return observation.thresholdTokens === undefined ? state : { ...state, thresholdTokens: observation.thresholdTokens };
}

/** Workers by rates alone: the search begins near the answer also when the load has jumped. Pools of a role share its work by what is there. */
export function guess(observation: PlannerObservation, workers: ReadonlyMap<string, KnownWorker>, traffic: SteadyTraffic, itlMs: number): PlannedState {
  const replicas: Record<string, number> = {};
  for (const role of ['prefill', 'decode', 'both'] as const) {
    const pools = observation.pools.filter((pool) => pool.role === role);
    for (const pool of pools) {
      const worker = workers.get(pool.pool) as KnownWorker;
      const share = traffic.requestsPerSecond / pools.length / GUESS_UTILISATION;
      const prefill = role === 'decode' ? 0 : share / prefillRate(worker, traffic);
      const decode = role === 'prefill' ? 0 : share / decodeRate(worker, traffic, itlMs);
      replicas[pool.pool] = Math.min(pool.maxReplicas, Math.max(pool.minReplicas, Math.ceil(prefill + decode)));
    }
  }
  return { replicas, lent: [] };
}

function costOf(observation: PlannerObservation, state: PlannedState): number {
  return observation.pools.reduce((sum, pool) => sum + pool.costPerHour * Math.max(1, state.replicas[pool.pool] ?? pool.desired), 0);
}

function actionOf(state: PlannedState, pools: readonly PoolObservation[]): string {
  const changes = pools.map((pool) => (state.replicas[pool.pool] ?? pool.desired) - pool.desired);
  if (changes.every((change) => change === 0)) return 'rebalance';
  if (changes.every((change) => change >= 0)) return 'scale_up';
  if (changes.every((change) => change <= 0)) return 'scale_down';
  return 'rebalance';
}
