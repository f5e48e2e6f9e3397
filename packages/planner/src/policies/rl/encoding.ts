import type { Objective, PlannedState, PlannerInput, PlannerObservation } from '@armature/contracts';
import type { SteadyTraffic } from '@armature/fleet-model';
import { TimingBook } from '../timing-book.ts';
import type { TimingPrior } from '../timing-book.ts';
import { replicasFor, sidesOf } from './sides.ts';
import type { Side } from './sides.ts';

/** One number that an agent sees: always finite, within its bounds. */
export interface Feature {
  readonly name: string;
  readonly unit: string;
  readonly low: number;
  readonly high: number;
  readonly meaning: string;
}

const perSide = (side: string): Feature[] => [
  { name: `${side}_load`, unit: 'log2', low: -4, high: 4, meaning: 'expected request rate over the rate that the ordered workers take' },
  { name: `${side}_trend`, unit: 'log2', low: -4, high: 4, meaning: 'workers needed for the expected traffic now over those needed four ticks ago' },
  { name: `${side}_starting`, unit: 'share', low: 0, high: 1, meaning: 'ordered workers that have not come yet' },
  { name: `${side}_queue`, unit: 'log2', low: 0, high: 8, meaning: '1 + time to compute the prompt tokens that wait, over the objective for the time to first token' },
  { name: `${side}_memory`, unit: 'share', low: 0, high: 1, meaning: 'KV blocks in use' },
  { name: `${side}_step`, unit: 'share', low: 0, high: 1, meaning: 'what one worker is of the side: 1 over the ordered workers' },
];

/** The observation space, in order. */
export const features: readonly Feature[] = [
  ...perSide('prefill'),
  ...perSide('decode'),
  { name: 'ttft', unit: 'log2', low: -4, high: 4, meaning: 'time to first token at the quantile over its objective; -4 when no request told' },
  { name: 'itl', unit: 'log2', low: -4, high: 4, meaning: 'inter-token latency at the quantile over its objective; -4 when no request told' },
  { name: 'shortfall', unit: 'share', low: -1, high: 1, meaning: 'quantile asked for less the share of requests within the objective' },
  { name: 'rate_change', unit: 'log2', low: -4, high: 4, meaning: 'expected request rate over the one just seen' },
  { name: 'rate_doubt', unit: 'log2', low: 0, high: 4, meaning: 'upper end of the expected request rate over its mean' },
  { name: 'startup', unit: 'log2', low: -4, high: 6, meaning: 'longest start-up of a worker over the tick' },
];

/** The action space: each number within -1 and 1. */
export const actions: readonly Feature[] = ['prefill', 'decode'].map((side) => ({
  name: `${side}_headroom`,
  unit: 'log2',
  low: -1,
  high: 1,
  meaning: `a: the ${side} side is sized for 2^(0.5 + a) times the expected traffic`,
}));

const [HEADROOM_MIDDLE, TREND_TICKS, TREND_KEPT] = [0.5, 4, 5];

/** What an action is decoded with: the facts of the tick it answers. */
export interface Encoded {
  readonly values: Float64Array;
  readonly sides: readonly [Side, Side];
  readonly requestsPerSecond: number;
}

/**
 * Turns what the planner sees into numbers without unit, and numbers back into orders. The numbers are relative to what the traffic needs by rates alone, so
 * that a policy trained on one fleet works for another: it learns how much room to leave, and when. Remembers a few ticks; one per model.
 */
export class Encoding {
  readonly #book: TimingBook;
  readonly #needed: [number, number][];

  constructor(hardware: Readonly<Record<string, TimingPrior>>) {
    this.#book = new TimingBook(hardware);
    this.#needed = [];
  }

  /** Undefined while the traffic is unknown. */
  encode({ observation, forecast, objective }: PlannerInput): Encoded | undefined {
    for (const pool of observation.pools) this.#book.learn(pool);
    const traffic: SteadyTraffic = {
      requestsPerSecond: forecast.requestsPerSecond.mean,
      promptTokens: forecast.promptTokens.mean,
      outputTokens: forecast.outputTokens.mean,
      hitRate: Math.min(1, Math.max(0, forecast.hitRate.mean)),
    };
    if (!Object.values(traffic).every((value) => Number.isFinite(value) && value >= 0)) return undefined;
    const workers = new Map(observation.pools.map((pool) => [pool.pool, this.#book.worker(pool)]));
    const sides = sidesOf(observation, workers, traffic, objective.itlMs);
    const needed = sides.map((side) => needs(side, traffic.requestsPerSecond)) as [number, number];
    this.#needed.push(needed);
    if (this.#needed.length > TREND_KEPT) this.#needed.shift();
    const before = this.#needed[Math.max(0, this.#needed.length - 1 - TREND_TICKS)];
    const values = [...sides.flatMap((side, i) => this.#side(side, lentBy(sides[1 - i]) - lentBy(side), needed[i], before[i], objective, traffic)), ...common({ observation, forecast, objective }, traffic)];
    return { values: Float64Array.from(values, (value, i) => bounded(value, features[i])), sides, requestsPerSecond: traffic.requestsPerSecond };
  }

  /** `lent`: workers that other pools lend to this side, less those that it lends. */
  #side({ pools }: Side, lent: number, needed: number, neededBefore: number, { ttftMs }: Objective, traffic: SteadyTraffic): number[] {
    const sum = (of: (entry: Side['pools'][number]) => number): number => pools.reduce((total, entry) => total + of(entry), 0);
    const ordered = sum(({ pool }) => pool.desired) + lent;
    const orderedRate = pools.length === 0 ? 0 : sum(({ pool, rate }) => pool.desired * rate) + lent * pools[0].rate;
    const tokensPerMs = sum(({ pool, rate }) => pool.ready * rate * Math.max(1, traffic.promptTokens * (1 - traffic.hitRate))) / 1000;
    const total = sum(({ pool }) => pool.totalBlocks);
    return [
      pools.length === 0 ? 0 : log2(traffic.requestsPerSecond, orderedRate),
      log2(needed, neededBefore),
      ordered <= 0 ? 0 : sum(({ pool }) => pool.starting) / ordered,
      Math.log2(1 + sum(({ pool }) => known(pool.prefillTokens)) / Math.max(tokensPerMs, 1e-9) / ttftMs),
      total === 0 ? 0 : sum(({ pool }) => known(pool.usedBlocks)) / total,
      1 / Math.max(1, ordered),
    ];
  }
}

function common({ observation: { traffic, pools, intervalMs }, forecast, objective }: PlannerInput, expected: SteadyTraffic): number[] {
  return [
    log2(traffic.ttftMs, objective.ttftMs),
    log2(traffic.itlMs, objective.itlMs),
    objective.quantile - (Number.isFinite(traffic.attainment) ? traffic.attainment : objective.quantile),
    log2(expected.requestsPerSecond, traffic.requestsPerSecond),
    log2(forecast.requestsPerSecond.high, expected.requestsPerSecond),
    log2(Math.max(1, ...pools.map(({ startupMs }) => startupMs)), intervalMs),
  ];
}

function lentBy({ pools }: Side): number {
  return pools.reduce((sum, { pool }) => sum + pool.lent, 0);
}

/** Workers by rates alone, a fraction, as if all were of the side's first pool. */
function needs({ pools }: Side, requestsPerSecond: number): number {
  return pools.length === 0 ? 0 : requestsPerSecond / pools[0].rate;
}

/**
 * The order that an action means. Workers whose role can be changed live are lent to the other side before new ones are ordered there, and only those that
 * their own side has too many.
 */
export function decodeAction(action: ArrayLike<number>, { sides, requestsPerSecond }: Encoded, observation: PlannerObservation): PlannedState {
  const replicas: Record<string, number> = {};
  for (const [i, side] of sides.entries()) {
    const headroom = 2 ** (HEADROOM_MIDDLE + Math.min(1, Math.max(-1, known(action[i]))));
    for (const [pool, count] of replicasFor(side, requestsPerSecond * headroom)) replicas[pool] = count;
  }
  const [prefill, decode] = sides.map(({ pools }) => pools.filter(({ pool }) => pool.role !== 'both').map(({ pool }) => pool));
  const lent: PlannedState['lent'][number][] = [];
  if (prefill.length === 1 && decode.length === 1) {
    for (const [from, to] of [[prefill[0], decode[0]], [decode[0], prefill[0]]]) {
      const [spare, missing] = [from.desired - replicas[from.pool], replicas[to.pool] - to.desired];
      const workers = from.roleChange === 'live' ? Math.max(0, Math.min(spare, missing, from.desired - Math.max(1, from.minReplicas))) : 0;
      if (workers > 0) {
        lent.push({ from: from.pool, to: to.pool, workers });
        replicas[from.pool] += workers;
        replicas[to.pool] -= workers;
      } else if (from.lent > 0) lent.push({ from: from.pool, to: to.pool, workers: 0 });
    }
  }
  return observation.thresholdTokens === undefined ? { replicas, lent } : { replicas, lent, thresholdTokens: observation.thresholdTokens };
}

function bounded(value: number, { low, high }: Feature): number {
  return Number.isNaN(value) ? Math.min(high, Math.max(low, 0)) : Math.min(high, Math.max(low, value));
}

/** -∞ where nothing was seen above, +∞ where there is nothing below: bounds make numbers of them. */
function log2(above: number, below: number): number {
  if (!(above > 0)) return below > 0 && above === 0 ? -Infinity : Number.isNaN(above) ? -Infinity : 0;
  return below > 0 ? Math.log2(above / below) : Infinity;
}

function known(value: number): number {
  return Number.isFinite(value) ? value : 0;
}
