import { SeededRandom, VirtualClock } from '@armature/core';
import type { InferenceRequest, Logger, ModelHandle, PluginDescriptor, SamplingParams } from '@armature/contracts';
import { simulatedConfig } from './cluster-config.ts';
import { SimulatedCluster } from './cluster.ts';
import { Faults } from './faults.ts';
import type { FaultRecord } from './faults.ts';
import type { PoolHours } from './fleet-hours.ts';
import { Outcomes, rounded } from './outcomes.ts';
import type { IntervalRow, OutcomeSummary, SimulatedObjective } from './outcomes.ts';
import type { SimulationSettings } from './settings.ts';
import type { TierSummary } from './simulated-tiers.ts';
import type { TraceRow } from './trace.ts';

export interface SimulateOptions {
  /** A deployment, as `armature serve` takes it. */
  readonly text: string;
  readonly settings: SimulationSettings;
  /** Rows in order of time, for the first model. */
  readonly trace: Iterable<TraceRow>;
  readonly seed: number;
  readonly plugins: readonly PluginDescriptor[];
  readonly objective: SimulatedObjective;
  readonly log?: Logger;
  /** Other numbers of workers, by pool. */
  readonly replicas?: Readonly<Record<string, number>>;
  /** Multiplies the trace's request rate; 1 = as recorded. */
  readonly rate?: number;
  readonly intervalMs?: number;
  /** Engine passes of so many milliseconds are done in one event while a batch does not change; times stay the same. */
  readonly lookaheadMs?: number;
  /** Called now and then, with what has ended so far. */
  readonly onProgress?: (progress: { readonly arrived: number; readonly ended: number; readonly virtualMs: number }) => void;
}

/** Plain numbers and strings; holds no wall time, so that equal inputs give equal bytes. */
export interface SimulationResult {
  readonly seed: number;
  readonly model: string;
  /** From the first arrival to the last end. */
  readonly durationMs: number;
  readonly objective: SimulatedObjective;
  readonly outcome: OutcomeSummary;
  readonly pools: readonly PoolHours[];
  readonly gpuHours: number;
  readonly cost: number;
  /** Requests within the objective per GPU-hour; start-up and drain are paid. */
  readonly goodputPerGpuHour: number | null;
  readonly counters: Readonly<Record<string, number>>;
  readonly movedBytes: number;
  /** Of the tiers below the engines, over all workers; none without `kvbm`. */
  readonly tiers: readonly TierSummary[];
  readonly faults: readonly FaultRecord[];
  readonly intervals: readonly IntervalRow[];
  readonly assumptions: readonly string[];
  readonly events: number;
}

const COUNTERS = [
  'armature_remote_prefills_total',
  'armature_prefill_fallbacks_total',
  'armature_migrations_total',
  'armature_kv_transfer_blocks_total',
  'armature_kv_transfer_failures_total',
  'armature_decode_reattached_total',
  'armature_kvbm_hit_blocks_total',
  'armature_kvbm_offloaded_blocks_total',
];

const silent: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silent, isEnabled: () => false };
function nothing(): void {}

const greedy: SamplingParams = { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 0, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0), topLogprobs: -1 };
const noTokens = new Int32Array(0);
/** Longest that one request may take, a day. */
const DEADLINE_MS = 86_400_000;
/** Sums of floating point numbers miss by so little. */
const SAME_INSTANT_MS = 1e-6;
const [DEFAULT_INTERVAL_MS, DEFAULT_LOOKAHEAD_MS, PROGRESS_EVERY] = [10_000, 5_000, 256];

/** Runs a trace through a simulated cluster to its end. Deterministic for its options. Throws `SIMULATION_*`, `CONFIG_INVALID`, `TRACE_INVALID`. */
export async function simulate(options: SimulateOptions): Promise<SimulationResult> {
  const { text, settings, seed, plugins, log = silent, replicas = {}, lookaheadMs = DEFAULT_LOOKAHEAD_MS } = options;
  const clock = new VirtualClock();
  const config = simulatedConfig(text, settings, { lookaheadMs, records: 0, replicas, plugins });
  const cluster = await SimulatedCluster.start({ config, settings, clock, seed, plugins, log });
  try {
    const name = config.pools[0].model;
    const run = new Run(options, { clock, cluster, model: cluster.model(name), blockSize: config.pools[0].blockSize });
    const faults = new Faults(settings.faults, { cluster, clock, random: new SeededRandom(seed).fork('faults'), log });
    await clock.runUntilSettled(run.play(), { maxEvents: Number.MAX_SAFE_INTEGER });
    faults.end();
    const durationMs = run.endedMs - run.startMs;
    const pools = cluster.hours();
    const outcome = run.outcomes.summary(durationMs);
    const gpuHours = pools.reduce((sum, pool) => sum + pool.gpuHours, 0);
    return {
      seed,
      model: name,
      durationMs: rounded(durationMs) ?? 0,
      objective: options.objective,
      outcome,
      pools,
      gpuHours: rounded(gpuHours, 6) ?? 0,
      cost: rounded(pools.reduce((sum, pool) => sum + pool.cost, 0), 6) ?? 0,
      goodputPerGpuHour: rounded(outcome.inTime / gpuHours),
      counters: await cluster.counters(COUNTERS),
      movedBytes: cluster.movedBytes,
      tiers: cluster.tiers(),
      faults: faults.records,
      intervals: run.outcomes.intervals,
      assumptions: config.assumptions,
      events: clock.events,
    };
  } finally {
    await cluster.close();
  }
}

interface RunParts {
  readonly clock: VirtualClock;
  readonly cluster: SimulatedCluster;
  readonly model: ModelHandle;
  readonly blockSize: number;
}

/** Feeds the trace in virtual time. */
class Run {
  readonly #options: SimulateOptions;
  readonly #parts: RunParts;
  readonly outcomes: Outcomes;
  readonly startMs: number;
  endedMs: number;
  #number: number;
  #isFed: boolean;
  #settle: () => void;

  constructor(options: SimulateOptions, parts: RunParts) {
    this.#options = options;
    this.#parts = parts;
    this.outcomes = new Outcomes(options.objective);
    this.startMs = parts.clock.nowMs();
    this.endedMs = this.startMs;
    this.#number = 0;
    this.#isFed = false;
    this.#settle = nothing;
  }

  /** Resolves when every request has ended; rejects with what is wrong with the trace. */
  play(): Promise<void> {
    const { trace, rate = 1, intervalMs = DEFAULT_INTERVAL_MS } = this.#options;
    const { clock } = this.#parts;
    const interval = (): void => {
      this.outcomes.cut(clock.nowMs() - this.startMs, this.#parts.cluster.counts());
      if (!this.#isOver()) clock.setTimer(intervalMs, interval);
    };
    clock.setTimer(intervalMs, interval);
    const rows = trace[Symbol.iterator]();
    return new Promise((resolve, reject) => {
      this.#settle = resolve;
      let next = rows.next();
      const feed = (): void => {
        try {
          const nowMs = clock.nowMs() - this.startMs;
          while (next.done !== true && next.value.atMs / rate <= nowMs + SAME_INSTANT_MS) {
            this.#submit(next.value);
            next = rows.next();
          }
          if (next.done !== true) clock.setTimer(next.value.atMs / rate - nowMs, feed);
          else this.#isFed = true;
          if (this.#isOver()) resolve();
        } catch (error) {
          reject(error as Error);
        }
      };
      feed();
    });
  }

  #isOver(): boolean {
    return this.#isFed && this.outcomes.inFlight === 0;
  }

  #submit(row: TraceRow): void {
    const { clock, model, blockSize } = this.#parts;
    const { outcomes } = this;
    const promptTokenIds = new Int32Array(row.promptTokens);
    for (let i = 0; i < row.blocks.length; i++) promptTokenIds.fill(row.blocks[i], i * blockSize, (i + 1) * blockSize);
    const arrivedMs = clock.nowMs();
    let firstMs = NaN;
    let lastMs = NaN;
    let outputTokens = 0;
    outcomes.arrived();
    const request: InferenceRequest = {
      id: `r${this.#number++}`,
      promptTokenIds,
      sampling: greedy,
      stop: { maxTokens: row.outputTokens, minTokens: 0, stopTokenIds: noTokens, ignoreEos: true },
      choices: 1,
      deadlineMs: DEADLINE_MS,
      cacheSalt: '',
      priority: 0,
      routing: {},
      traceparent: '',
    };
    model.execute(request, {
      tokens: ({ count }) => {
        if (outputTokens === 0) firstMs = clock.nowMs() - arrivedMs;
        outputTokens += count;
        lastMs = clock.nowMs() - arrivedMs;
      },
      end: (end) => {
        outcomes.end(end, firstMs, lastMs, outputTokens);
        this.endedMs = clock.nowMs();
        if (outcomes.ended % PROGRESS_EVERY === 0) this.#options.onProgress?.({ arrived: this.#number, ended: outcomes.ended, virtualMs: clock.nowMs() - this.startMs });
        if (this.#isFed && outcomes.inFlight === 0) this.#settle();
      },
    });
  }
}
