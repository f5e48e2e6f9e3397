import { latencyBucketBoundsMs } from '@armature/contracts';
import type { Clock, EventPlane, Objective, PlainData, Timer, TrafficReport } from '@armature/contracts';
import { latencyBucket } from '@armature/fleet-model';

export interface TrafficTelemetryOptions {
  readonly model: string;
  /** This process and life. */
  readonly source: string;
  readonly intervalMs: number;
  /** Undefined: every finished request counts as within it. */
  readonly objective: Pick<Objective, 'ttftMs' | 'itlMs'> | undefined;
  /** Requests that wait to be placed. */
  readonly queued: () => number;
  readonly events: EventPlane;
  readonly clock: Clock;
}

/** What is counted of a request that has finished. */
export interface FinishedRequest {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  readonly ttftMs: number | undefined;
  /** Undefined: it had fewer than two output tokens. */
  readonly itlMs: number | undefined;
  readonly isRemote: boolean;
}

type Counts = { -readonly [K in 'arrived' | 'arrivedPromptTokens' | 'finished' | 'failed' | 'promptTokens' | 'cachedTokens' | 'outputTokens' | 'generatedTokens' | 'remotePrefills' | 'withinObjective']: TrafficReport[K] };

const nothing: Counts = { arrived: 0, arrivedPromptTokens: 0, finished: 0, failed: 0, promptTokens: 0, cachedTokens: 0, outputTokens: 0, generatedTokens: 0, remotePrefills: 0, withinObjective: 0 };

/** Counts the requests of one model in this process and publishes them under `traffic/MODEL` once per interval. Per token it adds to a number. */
export class TrafficTelemetry {
  readonly #options: TrafficTelemetryOptions;
  readonly #subject: string;
  readonly #counts: Counts;
  readonly #ttft: Uint32Array;
  readonly #itl: Uint32Array;
  #sequence: number;
  #sinceMs: number;
  #timer: Timer | undefined;

  constructor(options: TrafficTelemetryOptions) {
    this.#options = options;
    this.#subject = `traffic/${options.model}`;
    this.#counts = { ...nothing };
    this.#ttft = new Uint32Array(latencyBucketBoundsMs.length);
    this.#itl = new Uint32Array(latencyBucketBoundsMs.length);
    this.#sequence = 0;
    this.#sinceMs = 0;
    this.#timer = undefined;
  }

  start(): void {
    this.#sinceMs = this.#options.clock.nowMs();
    this.#schedule();
  }

  /** The last, incomplete interval is published too. */
  close(): void {
    if (this.#timer === undefined) return;
    this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
    this.#publish();
  }

  arrived(promptTokens: number): void {
    this.#counts.arrived++;
    this.#counts.arrivedPromptTokens += promptTokens;
  }

  generated(tokens: number): void {
    this.#counts.generatedTokens += tokens;
  }

  firstToken(ttftMs: number): void {
    this.#ttft[latencyBucket(ttftMs)]++;
  }

  finished({ promptTokens, cachedTokens, outputTokens, ttftMs, itlMs, isRemote }: FinishedRequest): void {
    const counts = this.#counts;
    counts.finished++;
    counts.promptTokens += promptTokens;
    counts.cachedTokens += cachedTokens;
    counts.outputTokens += outputTokens;
    if (isRemote) counts.remotePrefills++;
    if (itlMs !== undefined) this.#itl[latencyBucket(itlMs)]++;
    const { objective } = this.#options;
    if (objective === undefined || ((ttftMs ?? 0) <= objective.ttftMs && (itlMs ?? 0) <= objective.itlMs)) counts.withinObjective++;
  }

  failed(): void {
    this.#counts.failed++;
  }

  #schedule(): void {
    this.#timer = this.#options.clock.setTimer(this.#options.intervalMs, () => {
      this.#publish();
      this.#schedule();
    });
  }

  #publish(): void {
    const { model, source, events, clock, queued } = this.#options;
    const nowMs = clock.nowMs();
    const report: TrafficReport = { model, source, sequence: ++this.#sequence, intervalMs: Math.max(1e-3, nowMs - this.#sinceMs), ...this.#counts, queued: queued(), ttft: this.#ttft.slice(), itl: this.#itl.slice() };
    events.publish(this.#subject, report as unknown as PlainData);
    this.#sinceMs = nowMs;
    Object.assign(this.#counts, nothing);
    this.#ttft.fill(0);
    this.#itl.fill(0);
  }
}
