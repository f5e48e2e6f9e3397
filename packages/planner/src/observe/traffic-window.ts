import { latencyBucketBoundsMs } from '@armature/contracts';
import type { TrafficObservation, TrafficReport } from '@armature/contracts';
import { latencyQuantile } from '@armature/fleet-model';
import { trafficProblem } from './reports.ts';

/** Frontends that are followed; a cluster with more has reports of dead ones. */
const MAX_SOURCES = 4_096;
/** A frontend silent for so many of its intervals is said; after three times as many it counts as gone. */
const SILENT_INTERVALS = 3;
const SUMS = ['arrived', 'arrivedPromptTokens', 'finished', 'failed', 'promptTokens', 'cachedTokens', 'generatedTokens', 'withinObjective'] as const;

type Sums = Record<(typeof SUMS)[number], number>;

class Source {
  sequence = 0;
  lastAtMs = 0;
  intervalMs = 0;
  queued = 0;
  /** Time that the sums cover. */
  coveredMs = 0;
  lost = 0;
  readonly sums: Sums = { arrived: 0, arrivedPromptTokens: 0, finished: 0, failed: 0, promptTokens: 0, cachedTokens: 0, generatedTokens: 0, withinObjective: 0 };

  clear(): void {
    this.coveredMs = 0;
    this.lost = 0;
    for (const name of SUMS) this.sums[name] = 0;
  }
}

export interface SeenTraffic {
  readonly traffic: TrafficObservation;
  readonly problems: readonly string[];
  /** Some traffic was not seen: what was seen may be too little. */
  readonly isBlind: boolean;
}

/** Traffic reports of all frontends of a model between two looks. Rates add up over frontends; each frontend's own time divides its counts. */
export class TrafficWindow {
  readonly #sources: Map<string, Source>;
  readonly #ttft: Uint32Array;
  readonly #itl: Uint32Array;
  readonly #refused: Map<string, number>;

  constructor() {
    this.#sources = new Map();
    this.#ttft = new Uint32Array(latencyBucketBoundsMs.length);
    this.#itl = new Uint32Array(latencyBucketBoundsMs.length);
    this.#refused = new Map();
  }

  accept(report: TrafficReport, nowMs: number): void {
    const problem = trafficProblem(report);
    if (problem !== undefined) {
      if (this.#refused.size < 16 || this.#refused.has(problem)) this.#refused.set(problem, (this.#refused.get(problem) ?? 0) + 1);
      return;
    }
    const source = this.#source(report.source);
    if (source === undefined || report.sequence <= source.sequence) return; // seen already
    if (source.sequence > 0) source.lost += report.sequence - source.sequence - 1;
    source.sequence = report.sequence;
    source.lastAtMs = nowMs;
    source.intervalMs = report.intervalMs;
    source.queued = report.queued;
    source.coveredMs += report.intervalMs;
    for (const name of SUMS) source.sums[name] += report[name];
    for (let i = 0; i < this.#ttft.length; i++) {
      this.#ttft[i] += report.ttft[i];
      this.#itl[i] += report.itl[i];
    }
  }

  /** What came since the last look; then begins anew. */
  take(nowMs: number, quantile: number): SeenTraffic {
    const problems = [...this.#refused].map(([problem, count]) => `${count} traffic reports could not be used: ${problem}`);
    const silence = this.#silence(nowMs);
    const traffic = this.#sum(quantile);
    const lost = [...this.#sources.values()].reduce((sum, source) => sum + source.lost, 0);
    if (lost > 0) problems.push(`${lost} traffic reports were lost; rates are those of the reports that came`);
    if (Number.isNaN(traffic.requestsPerSecond)) problems.push('no frontend has reported since the last look');
    const isBlind = silence.length > 0 || Number.isNaN(traffic.requestsPerSecond) || this.#refused.size > 0;
    for (const source of this.#sources.values()) source.clear();
    this.#ttft.fill(0);
    this.#itl.fill(0);
    this.#refused.clear();
    return { traffic, problems: [...problems, ...silence], isBlind };
  }

  #source(name: string): Source | undefined {
    const known = this.#sources.get(name);
    if (known !== undefined || this.#sources.size >= MAX_SOURCES) return known;
    const source = new Source();
    this.#sources.set(name, source);
    return source;
  }

  #silence(nowMs: number): string[] {
    const said: string[] = [];
    for (const [name, { lastAtMs, intervalMs, coveredMs }] of this.#sources) {
      const silentMs = nowMs - lastAtMs;
      if (coveredMs > 0 || silentMs <= SILENT_INTERVALS * intervalMs) continue;
      if (silentMs > 3 * SILENT_INTERVALS * intervalMs) this.#sources.delete(name);
      else said.push(`frontend ${name} has been silent for ${Math.round(silentMs)} ms`);
    }
    return said;
  }

  #sum(quantile: number): TrafficObservation {
    let [requestsPerSecond, finishedPerSecond, failedPerSecond, queued, covered] = [0, 0, 0, 0, 0];
    const all: Sums = { arrived: 0, arrivedPromptTokens: 0, finished: 0, failed: 0, promptTokens: 0, cachedTokens: 0, generatedTokens: 0, withinObjective: 0 };
    for (const { sums, coveredMs, queued: waiting } of this.#sources.values()) {
      if (coveredMs === 0) continue;
      covered++;
      requestsPerSecond += (1000 * sums.arrived) / coveredMs;
      finishedPerSecond += (1000 * sums.finished) / coveredMs;
      failedPerSecond += (1000 * sums.failed) / coveredMs;
      queued += waiting;
      for (const name of SUMS) all[name] += sums[name];
    }
    const per = (sum: number, count: number): number => (count === 0 ? NaN : sum / count);
    return {
      requestsPerSecond: covered === 0 ? NaN : requestsPerSecond,
      promptTokens: per(all.arrivedPromptTokens, all.arrived),
      hitRate: per(all.cachedTokens, all.promptTokens),
      outputTokens: per(all.generatedTokens, all.finished),
      queued,
      finishedPerSecond: covered === 0 ? NaN : finishedPerSecond,
      failedPerSecond: covered === 0 ? NaN : failedPerSecond,
      ttftMs: latencyQuantile(this.#ttft, quantile),
      itlMs: latencyQuantile(this.#itl, quantile),
      attainment: per(all.withinObjective, all.finished),
    };
  }
}
