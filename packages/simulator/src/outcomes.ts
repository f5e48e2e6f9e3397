import type { InferenceEnd, Usage } from '@armature/contracts';
import { Histogram } from './histogram.ts';

/** What a request must keep to count as served well. */
export interface SimulatedObjective {
  readonly ttftMs: number;
  readonly itlMs: number;
}

export interface LatencySummary {
  readonly count: number;
  readonly mean: number | null;
  readonly p50: number | null;
  readonly p90: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
  readonly max: number | null;
}

/** One row of the time series: what ended, or began, in an interval. */
export interface IntervalRow {
  readonly atMs: number;
  readonly arrived: number;
  readonly finished: number;
  readonly failed: number;
  readonly inTime: number;
  readonly ttftMs: number | null;
  readonly ttftP99Ms: number | null;
  readonly itlMs: number | null;
  readonly hitRate: number | null;
  readonly inFlight: number;
  readonly workers: Readonly<Record<string, number>>;
}

export interface OutcomeSummary {
  readonly requests: number;
  readonly finished: number;
  readonly failed: number;
  readonly failures: Readonly<Record<string, number>>;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Share of prompt tokens that nobody had to compute. */
  readonly hitRate: number | null;
  readonly ttftMs: LatencySummary;
  readonly itlMs: LatencySummary;
  readonly e2eMs: LatencySummary;
  /** Requests that kept the objective, and per second of the trace. */
  readonly inTime: number;
  readonly goodputPerSecond: number;
}

class Interval {
  arrived = 0;
  finished = 0;
  failed = 0;
  inTime = 0;
  promptTokens = 0;
  cachedTokens = 0;
  itlSum = 0;
  itlCount = 0;
  readonly ttft = new Histogram();
}

/** Counts what became of the requests; its size does not depend on their number. */
export class Outcomes {
  readonly #objective: SimulatedObjective;
  readonly #ttft = new Histogram();
  readonly #itl = new Histogram();
  readonly #e2e = new Histogram();
  readonly #failures = new Map<string, number>();
  readonly #rows: IntervalRow[] = [];
  #now = new Interval();
  #requests = 0;
  #finished = 0;
  #failed = 0;
  #inTime = 0;
  #promptTokens = 0;
  #cachedTokens = 0;
  #outputTokens = 0;

  constructor(objective: SimulatedObjective) {
    this.#objective = objective;
  }

  get inFlight(): number {
    return this.#requests - this.#finished - this.#failed;
  }

  get ended(): number {
    return this.#finished + this.#failed;
  }

  arrived(): void {
    this.#requests++;
    this.#now.arrived++;
  }

  /** Times since the arrival; `firstMs` NaN: no token came. */
  end(end: InferenceEnd, firstMs: number, lastMs: number, outputTokens: number): void {
    if (end.type !== 'finished') {
      const code = end.type === 'failed' ? end.error.code : 'CANCELLED';
      this.#failures.set(code, (this.#failures.get(code) ?? 0) + 1);
      this.#failed++;
      this.#now.failed++;
      return;
    }
    this.#count(end.usage, outputTokens);
    const itlMs = outputTokens > 1 ? (lastMs - firstMs) / (outputTokens - 1) : NaN;
    this.#ttft.add(firstMs);
    this.#now.ttft.add(firstMs);
    this.#e2e.add(lastMs);
    if (outputTokens > 1) {
      this.#itl.add(itlMs);
      this.#now.itlSum += itlMs;
      this.#now.itlCount++;
    }
    if (firstMs <= this.#objective.ttftMs && !(itlMs > this.#objective.itlMs)) {
      this.#inTime++;
      this.#now.inTime++;
    }
  }

  #count({ promptTokens, cachedTokens }: Usage, outputTokens: number): void {
    this.#finished++;
    this.#now.finished++;
    this.#promptTokens += promptTokens;
    this.#cachedTokens += cachedTokens;
    this.#outputTokens += outputTokens;
    this.#now.promptTokens += promptTokens;
    this.#now.cachedTokens += cachedTokens;
  }

  /** Ends an interval. */
  cut(atMs: number, workers: Readonly<Record<string, number>>): void {
    const { arrived, finished, failed, inTime, promptTokens, cachedTokens, itlSum, itlCount, ttft } = this.#now;
    this.#rows.push({
      atMs,
      arrived,
      finished,
      failed,
      inTime,
      ttftMs: rounded(ttft.mean),
      ttftP99Ms: rounded(ttft.quantile(0.99)),
      itlMs: itlCount === 0 ? null : rounded(itlSum / itlCount),
      hitRate: promptTokens === 0 ? null : rounded(cachedTokens / promptTokens, 5),
      inFlight: this.inFlight,
      workers,
    });
    this.#now = new Interval();
  }

  get intervals(): readonly IntervalRow[] {
    return this.#rows;
  }

  summary(durationMs: number): OutcomeSummary {
    return {
      requests: this.#requests,
      finished: this.#finished,
      failed: this.#failed,
      failures: Object.fromEntries([...this.#failures].sort(([a], [b]) => (a < b ? -1 : 1))),
      promptTokens: this.#promptTokens,
      outputTokens: this.#outputTokens,
      hitRate: this.#promptTokens === 0 ? null : rounded(this.#cachedTokens / this.#promptTokens, 5),
      ttftMs: latencies(this.#ttft),
      itlMs: latencies(this.#itl),
      e2eMs: latencies(this.#e2e),
      inTime: this.#inTime,
      goodputPerSecond: rounded((1000 * this.#inTime) / Math.max(1, durationMs)) ?? 0,
    };
  }
}

function latencies(histogram: Histogram): LatencySummary {
  const at = (share: number): number | null => rounded(histogram.quantile(share));
  return { count: histogram.count, mean: rounded(histogram.mean), p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max: rounded(histogram.max) };
}

/** JSON knows no NaN. */
export function rounded(value: number, digits = 3): number | null {
  return Number.isFinite(value) ? Number(value.toFixed(digits)) : null;
}
