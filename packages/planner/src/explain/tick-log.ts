import type { PlannerObservation } from '@armature/contracts';
import type { ActualOutcome, TickRecord } from './tick-record.ts';

interface Sums {
  coveredMs: number;
  requests: number;
  finished: number;
  within: number;
  ttft: { sum: number; weight: number };
  itl: { sum: number; weight: number };
  gpuMs: number;
  cost: number;
}

/** The last ticks; each gets the outcome of the intervals that follow it, until the horizon of its forecast is over. */
export class TickLog {
  readonly #limit: number;
  readonly #ticks: { record: TickRecord; readonly sums: Sums }[];

  constructor(limit: number) {
    this.#limit = limit;
    this.#ticks = [];
  }

  add(record: TickRecord): void {
    const sums = { coveredMs: 0, requests: 0, finished: 0, within: 0, ttft: { sum: 0, weight: 0 }, itl: { sum: 0, weight: 0 }, gpuMs: 0, cost: 0 };
    this.#ticks.push({ record, sums });
    if (this.#ticks.length > this.#limit) this.#ticks.shift();
  }

  /** Newest first. */
  list(limit: number): readonly TickRecord[] {
    return (limit > 0 ? this.#ticks.slice(-limit) : []).reverse().map(({ record }) => record);
  }

  get(tick: number): TickRecord | undefined {
    return this.#ticks.find(({ record }) => record.tick === tick)?.record;
  }

  get last(): TickRecord | undefined {
    return this.#ticks[this.#ticks.length - 1]?.record;
  }

  /** The interval that ends with `observation` is what came of earlier decisions. */
  settle(observation: PlannerObservation): void {
    for (let i = this.#ticks.length - 1; i >= 0; i--) {
      const entry = this.#ticks[i];
      if (entry.sums.coveredMs >= entry.record.forecast.horizonMs) return; // those before are complete too
      addTo(entry.sums, observation);
      entry.record = { ...entry.record, actual: outcomeOf(entry.sums, entry.record.forecast.horizonMs) };
    }
  }
}

/** Quantiles of intervals are averaged by the requests behind them: an estimate, no quantile of the whole. */
function addTo(sums: Sums, { traffic, pools, intervalMs }: PlannerObservation): void {
  const seconds = intervalMs / 1000;
  const finished = zeroIfNaN(traffic.finishedPerSecond) * seconds;
  sums.coveredMs += intervalMs;
  sums.requests += zeroIfNaN(traffic.requestsPerSecond) * seconds;
  sums.finished += finished;
  sums.within += zeroIfNaN(traffic.attainment) * finished;
  for (const name of ['ttft', 'itl'] as const) {
    const value = name === 'ttft' ? traffic.ttftMs : traffic.itlMs;
    if (Number.isNaN(value)) continue;
    const weight = Math.max(finished, 1e-9);
    sums[name].sum += value * weight;
    sums[name].weight += weight;
  }
  for (const { ready, starting, draining, lent, gpusPerWorker, costPerHour } of pools) {
    const workers = ready + starting + draining + lent;
    sums.gpuMs += workers * gpusPerWorker * intervalMs;
    sums.cost += workers * costPerHour * intervalMs;
  }
}

function outcomeOf(sums: Sums, horizonMs: number): ActualOutcome {
  const { coveredMs, requests, finished, within, ttft, itl, gpuMs, cost } = sums;
  const per = (sum: number, of: number): number => (of > 0 ? sum / of : NaN);
  return {
    requestsPerSecond: per(1000 * requests, coveredMs),
    ttftMs: per(ttft.sum, ttft.weight),
    itlMs: per(itl.sum, itl.weight),
    attainment: per(within, finished),
    goodputPerSecond: per(1000 * within, coveredMs),
    gpus: per(gpuMs, coveredMs),
    costPerHour: per(cost, coveredMs),
    coveredMs,
    isComplete: coveredMs >= horizonMs,
  };
}

function zeroIfNaN(value: number): number {
  return Number.isFinite(value) ? value : 0;
}
