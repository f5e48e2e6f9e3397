import { latencyBucketBoundsMs } from '@armature/contracts';
import type { Objective, PlannedPool, PlannedState, PlannerObservation, Random, RequestSamples, WorkerCapacity } from '@armature/contracts';
import { FleetModel, latencyQuantile, Measures } from '@armature/fleet-model';
import type { Arrival, FleetOptions, FleetPool, PassTiming } from '@armature/fleet-model';

export interface GroundPool extends PlannedPool {
  readonly capacity: WorkerCapacity;
  readonly timing: PassTiming;
  /** Workers at the beginning of an episode. */
  readonly replicas: number;
}

export interface GroundOptions {
  readonly pools: readonly GroundPool[];
  readonly objective: Objective;
  readonly tickMs: number;
  readonly durationMs: number;
  readonly thresholdTokens?: number;
  readonly transferMs: number;
  readonly transferMsPerToken: number;
  readonly drainMs: number;
  readonly roleChangeMs: number;
  /** Requests within the objective that are worth a GPU-hour (goal `goodput`) or a unit of money (goal `cost`): see `rewardOf`. */
  readonly requestsPerUnit: number;
  /** The traffic of an episode, in order of time. */
  readonly requests: (random: Random) => Iterable<Arrival>;
}

export interface GroundStep {
  readonly observation: PlannerObservation;
  /** By the objective: see `rewardOf`. */
  readonly reward: number;
  /** The traffic is over. What is still in flight then is not waited for. */
  readonly done: boolean;
  readonly measures: Measures;
}

/** What a whole episode came to. */
export interface EpisodeResult {
  readonly arrived: number;
  readonly finished: number;
  readonly withinObjective: number;
  readonly gpuHours: number;
  readonly cost: number;
  /** Requests within the objective per GPU-hour. */
  readonly goodputPerGpuHour: number;
  /** Share of the requests that arrived which did not keep the objective. */
  readonly violations: number;
  readonly reward: number;
}

/** A request that misses the objective costs as much as keeping it is worth, so many times. */
const MISS_WEIGHT = 5;

/**
 * Reward of an interval, in requests. Each request within the objective earns 1, each miss beyond the share that the
 * quantile allows costs 5; a GPU-hour (goal `goodput`) or its price (goal `cost`) costs as much as `requestsPerUnit` requests earn.
 */
export function rewardOf(measures: Measures, objective: Objective, requestsPerUnit: number): number {
  const misses = measures.finished - measures.withinObjective;
  const tooMany = Math.max(0, misses - (1 - objective.quantile) * measures.finished);
  const spent = objective.goal === 'cost' ? measures.cost : measures.gpuMs / 3_600_000;
  return measures.withinObjective - MISS_WEIGHT * tooMany - requestsPerUnit * spent;
}

/** Training ground on the fleet model: an episode of two hours takes a second. Seeded: equal seeds and actions give equal observations. */
export class FleetGround {
  readonly #options: GroundOptions;
  readonly #random: Random;
  #fleet: FleetModel;
  #requests: Iterator<Arrival>;
  #next: Arrival | undefined;
  #tick: number;
  #threshold: number | undefined;
  #totals: Measures;
  #reward: number;

  constructor(options: GroundOptions, random: Random) {
    this.#options = options;
    this.#random = random;
    this.#tick = 0;
    this.#threshold = options.thresholdTokens;
    this.#fleet = this.#newFleet();
    this.#requests = [][Symbol.iterator]() as Iterator<Arrival>;
    this.#next = undefined;
    this.#totals = new Measures();
    this.#reward = 0;
  }

  get options(): GroundOptions {
    return this.#options;
  }

  reset(seed: number): PlannerObservation {
    const random = this.#random.fork(`episode ${seed}`);
    this.#requests = this.#options.requests(random)[Symbol.iterator]();
    this.#next = this.#requests.next().value as Arrival | undefined;
    this.#fleet = this.#newFleet();
    this.#tick = 0;
    this.#threshold = this.#options.thresholdTokens;
    this.#totals = new Measures();
    this.#reward = 0;
    return this.#observe(new Measures());
  }

  /** Orders `state`, then lets one tick go by. */
  step(state: PlannedState): GroundStep {
    const { tickMs, durationMs, objective } = this.#options;
    this.#fleet.apply(state);
    if (state.thresholdTokens !== undefined) this.#threshold = state.thresholdTokens;
    this.#tick++;
    const untilMs = Math.min(this.#tick * tickMs, durationMs);
    while (this.#next !== undefined && this.#next.atMs < untilMs) {
      const { atMs, promptTokens, cachedTokens, outputTokens } = this.#next;
      this.#fleet.arrive(atMs, promptTokens, cachedTokens, outputTokens);
      this.#next = this.#requests.next().value as Arrival | undefined;
    }
    this.#fleet.advance(untilMs);
    const measures = this.#fleet.measure();
    const reward = rewardOf(measures, objective, this.#options.requestsPerUnit);
    this.#reward += reward;
    addTo(this.#totals, measures);
    return { observation: this.#observe(measures), reward, done: untilMs >= durationMs, measures };
  }

  result(): EpisodeResult {
    const { arrived, finished, withinObjective, gpuMs, cost } = this.#totals;
    const gpuHours = gpuMs / 3_600_000;
    return { arrived, finished, withinObjective, gpuHours, cost, goodputPerGpuHour: withinObjective / gpuHours, violations: 1 - withinObjective / Math.max(1, arrived), reward: this.#reward };
  }

  #newFleet(): FleetModel {
    const { pools, objective, transferMs, transferMsPerToken, drainMs, roleChangeMs, thresholdTokens } = this.#options;
    const options: FleetOptions = {
      pools: pools.map((pool): FleetPool => ({ ...pool, ...pool.capacity })),
      objective: { ttftMs: objective.ttftMs, itlMs: objective.itlMs },
      transferMs,
      transferMsPerToken,
      drainMs,
      roleChangeMs,
      ...(thresholdTokens === undefined ? {} : { thresholdTokens }),
    };
    return new FleetModel(options);
  }

  #observe(measures: Measures): PlannerObservation {
    const { pools, tickMs, objective } = this.#options;
    const seconds = tickMs / 1000;
    const per = (sum: number, count: number): number => (count === 0 ? NaN : sum / count);
    const states = this.#fleet.pools();
    return {
      model: 'ground',
      tick: this.#tick,
      atMs: this.#fleet.nowMs,
      intervalMs: tickMs,
      traffic: {
        requestsPerSecond: this.#tick === 0 ? NaN : measures.arrived / seconds,
        promptTokens: per(measures.arrivedPromptTokens, measures.arrived),
        hitRate: per(measures.cachedTokens, measures.promptTokens),
        outputTokens: measures.finished === 0 ? NaN : measures.generatedTokens / measures.finished,
        queued: 0,
        finishedPerSecond: measures.finished / seconds,
        failedPerSecond: 0,
        ttftMs: latencyQuantile(measures.ttft, objective.quantile),
        itlMs: latencyQuantile(measures.itl, objective.quantile),
        attainment: per(measures.withinObjective, measures.finished),
        samples: samplesOf(measures),
      },
      pools: pools.map(({ timing: _timing, replicas: _replicas, ...pool }, i) => {
        const { claimedTokens, kvTokens, ...state } = states[i];
        return { ...pool, ...state, usedBlocks: Math.round(claimedTokens / 16), totalBlocks: Math.round(kvTokens / 16), passes: this.#fleet.passes(pool.pool) };
      }),
      thresholdTokens: this.#threshold,
      problems: [],
    };
  }
}

function samplesOf({ samples }: Measures): RequestSamples {
  const column = (k: 0 | 1 | 2): Float64Array => Float64Array.from(samples, (sample) => sample[k]);
  return { promptTokens: column(0), cachedTokens: column(1), outputTokens: column(2) };
}

function addTo(total: Measures, part: Measures): void {
  for (const name of ['arrived', 'arrivedPromptTokens', 'finished', 'promptTokens', 'cachedTokens', 'outputTokens', 'generatedTokens', 'remotePrefills', 'withinObjective', 'gpuMs', 'cost'] as const) total[name] += part[name];
  for (let i = 0; i < latencyBucketBoundsMs.length; i++) {
    total.ttft[i] += part.ttft[i];
    total.itl[i] += part.itl[i];
  }
}
