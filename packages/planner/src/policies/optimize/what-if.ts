import type { Objective, PlannedOutcome, PlannedState, PlannerObservation, Random, RequestSamples } from '@armature/contracts';
import { arrivals, arrivalsLike, FleetModel, latencyQuantile, lengthsLike } from '@armature/fleet-model';
import type { Arrival, FleetPool, SteadyTraffic } from '@armature/fleet-model';
import type { KnownWorker } from '../timing-book.ts';

export interface WhatIfOptions {
  readonly observation: PlannerObservation;
  readonly objective: Objective;
  readonly traffic: SteadyTraffic;
  /** How lengths go together; undefined: log-normal around the means, each by itself. */
  readonly samples?: RequestSamples | undefined;
  readonly workers: ReadonlyMap<string, KnownWorker>;
  readonly horizonMs: number;
  /** Longer horizons are cut to so many requests, and start-ups by the same share: what a change costs until it helps stays the same part of the horizon. */
  readonly maxRequests: number;
  readonly transferMs: number;
  readonly transferMsPerToken: number;
  readonly drainMs: number;
  /** Workers on their way: when they come. */
  readonly starting: readonly { readonly pool: string; readonly inMs: number }[];
  readonly random: Random;
}

/** Requests of the last part of the horizon get this much time to end before they count as missed. */
const SETTLE_MS = 600_000;

/**
 * "What if this were ordered now?": the fleet as it is observed, with its work and its workers on the way, under the expected traffic, until the horizon. All
 * states are asked with the very same requests, so that they differ by the state alone.
 */
export class WhatIf {
  readonly #options: WhatIfOptions;
  readonly #requests: readonly Arrival[];
  readonly #horizonMs: number;
  /** What is left of the horizon asked for. */
  readonly #share: number;
  readonly #seen: Map<string, PlannedOutcome>;

  constructor(options: WhatIfOptions) {
    this.#options = options;
    const { traffic, maxRequests, horizonMs } = options;
    this.#horizonMs = traffic.requestsPerSecond > 0 ? Math.min(horizonMs, (1000 * maxRequests) / traffic.requestsPerSecond) : horizonMs;
    this.#share = horizonMs > 0 ? this.#horizonMs / horizonMs : 1;
    const random = options.random.fork('arrivals');
    this.#requests = [...(options.samples === undefined ? arrivals([{ ...traffic, untilMs: this.#horizonMs }], random) : arrivalsLike(options.samples, traffic, this.#horizonMs, random))];
    this.#seen = new Map();
  }

  get horizonMs(): number {
    return this.#horizonMs;
  }

  /** States that were simulated. */
  get evaluations(): number {
    return this.#seen.size;
  }

  outcome(state: PlannedState): PlannedOutcome {
    const key = JSON.stringify([Object.entries(state.replicas).sort(), state.lent, state.thresholdTokens]);
    const known = this.#seen.get(key);
    if (known !== undefined) return known;
    const outcome = this.#simulate(state);
    this.#seen.set(key, outcome);
    return outcome;
  }

  #simulate(state: PlannedState): PlannedOutcome {
    const { observation, objective, traffic } = this.#options;
    const fleet = this.#fleet();
    fleet.apply(state);
    for (const { atMs, promptTokens, cachedTokens, outputTokens } of this.#requests) fleet.arrive(atMs, promptTokens, cachedTokens, outputTokens);
    fleet.advance(this.#horizonMs);
    const paid = fleet.measure();
    fleet.advance(this.#horizonMs + SETTLE_MS);
    const rest = fleet.measure();
    // Those that decode already are measured too: what moves or slows them is a miss.
    const measured = Math.max(this.#requests.length, paid.finished + rest.finished);
    const within = paid.withinObjective + rest.withinObjective;
    const attainment = measured === 0 ? 1 : within / measured;
    const sum = (a: Uint32Array, b: Uint32Array): Uint32Array => a.map((count, i) => count + b[i]);
    const gpus = observation.pools.reduce((total, pool) => total + (state.replicas[pool.pool] ?? pool.desired) * pool.gpusPerWorker, 0);
    return {
      ttftMs: latencyQuantile(sum(paid.ttft, rest.ttft), objective.quantile),
      itlMs: latencyQuantile(sum(paid.itl, rest.itl), objective.quantile),
      attainment,
      goodputPerSecond: traffic.requestsPerSecond * attainment,
      gpus,
      costPerHour: this.#horizonMs > 0 ? paid.cost / (this.#horizonMs / 3_600_000) : 0,
    };
  }

  #fleet(): FleetModel {
    const { observation, objective, traffic, samples, workers, transferMs, transferMsPerToken, drainMs, starting, random } = this.#options;
    const pools = observation.pools.map((pool): FleetPool => ({ ...pool, ...(workers.get(pool.pool) as KnownWorker), startupMs: pool.startupMs * this.#share, replicas: pool.ready }));
    const fleet = new FleetModel({
      pools,
      objective: { ttftMs: objective.ttftMs, itlMs: objective.itlMs },
      ...(observation.thresholdTokens === undefined ? {} : { thresholdTokens: observation.thresholdTokens }),
      transferMs,
      transferMsPerToken,
      drainMs,
      roleChangeMs: 1_000,
      lent: lentNow(observation),
      starting: starting.map(({ pool, inMs }) => ({ pool, inMs: inMs * this.#share })),
    });
    const progress = random.fork('progress');
    // Of those that decode now the long ones are more, by as much as they last longer.
    const lengths = samples === undefined ? () => traffic : lengthsLike(samples, traffic, random.fork('running'), (i) => samples.outputTokens[i]);
    for (const pool of observation.pools) {
      fleet.preload(pool.pool, { running: known(pool.running), prefillTokens: known(pool.prefillTokens), lengths, itlMs: known(observation.traffic.itlMs) }, () => progress.next());
    }
    return fleet;
  }
}

/** Where workers of a pool that play another role work: observations say how many, and with two roles there is one place. */
export function lentNow(observation: PlannerObservation): PlannedState['lent'] {
  return observation.pools.flatMap((pool) => {
    const to = observation.pools.find(({ role }) => role !== pool.role && role !== 'both');
    return pool.lent > 0 && to !== undefined ? [{ from: pool.pool, to: to.pool, workers: pool.lent }] : [];
  });
}

function known(value: number): number {
  return Number.isFinite(value) ? value : 0;
}
