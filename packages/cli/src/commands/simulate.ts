import { readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import { SeededRandom } from '@armature/core';
import { htmlReport, loadSettings, readTrace, simulate, syntheticTrace } from '@armature/simulator';
import type { SimulationResult, SyntheticTrace, TraceRow } from '@armature/simulator';
import { parse } from 'yaml';
import { builtins } from '../builtins.ts';

/** Where requests come from: a file, or a generator. */
export interface TraceOptions {
  readonly trace?: string;
  readonly synthetic?: 'shift' | 'steady';
  readonly seed: number;
  readonly requests?: number;
  readonly hours: number;
  readonly requestsPerSecond: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
}

export interface SimulateCommandOptions extends TraceOptions {
  readonly file: string;
  readonly settings?: string;
  readonly speed: 'max';
  readonly rate: number;
  readonly replicas?: Readonly<Record<string, number>>;
  readonly ttft: number;
  readonly itl: number;
  readonly json?: string;
  readonly html?: string;
}

const [SHARED_SHARE, PREFIXES, DEFAULT_BLOCK_SIZE] = [0.3, 64, 16];
const PROGRESS_EVERY_MS = 200;
/** Block numbers of a trace are below. */
const MOST_BLOCKS = 0x7fffffff;

/** `armature simulate`: a trace through the cluster of a file, in virtual time. */
export async function simulateCommand(options: SimulateCommandOptions): Promise<void> {
  const text = readConfig(options.file);
  const trace = traceOf(options, text);
  const settings = await (options.settings === undefined ? loadSettings() : loadSettings(readConfig(options.settings), options.settings));
  const progress = process.stderr.isTTY ? new Progress(expectedRequests(options, text)) : undefined;
  const startedMs = performance.now();
  const result = await simulate({
    text,
    settings,
    trace,
    seed: options.seed,
    plugins: await builtins(options.file),
    objective: { ttftMs: options.ttft, itlMs: options.itl },
    rate: options.rate,
    ...(options.replicas === undefined ? {} : { replicas: options.replicas }),
    ...(progress === undefined ? {} : { onProgress: (now) => progress.show(now) }),
  });
  progress?.clear();
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`);
  if (options.html !== undefined) writeFileSync(options.html, htmlReport(result, `${basename(options.file)}, ${options.trace === undefined ? `${options.synthetic} traffic` : basename(options.trace)}`));
  process.stdout.write(summary(result));
  const seconds = (performance.now() - startedMs) / 1000;
  process.stderr.write(`simulated in ${seconds.toFixed(1)} s (${Math.round((60 * result.outcome.requests) / seconds).toLocaleString('en-US')} requests per minute)\n`);
}

/** Blocks of the trace are those of the file's first model. Throws `USAGE_TRACE_MISSING`. */
export function traceOf(options: TraceOptions, text: string): Iterable<TraceRow> {
  const blockSize = blockSizeOf(text);
  const { trace, synthetic, requests, seed } = options;
  if ((trace === undefined) === (synthetic === undefined)) throw new ArmatureError('USAGE_TRACE_MISSING', 'a simulation needs a trace', { hint: 'either --trace FILE or --synthetic shift|steady' });
  if (trace !== undefined) return repeated(() => readTrace(trace, blockSize), requests);
  const shape: SyntheticTrace = { kind: synthetic as 'shift' | 'steady', durationMs: options.hours * 3_600_000, requestsPerSecond: options.requestsPerSecond, promptTokens: options.promptTokens, outputTokens: options.outputTokens, sharedShare: SHARED_SHARE, prefixes: PREFIXES };
  return limited(syntheticTrace(shape, blockSize, new SeededRandom(seed).fork('trace')), requests ?? Infinity);
}

/** The trace once; with a number of requests, as often as it takes, each time with blocks of its own: prompts that come again would all be cached. */
export function* repeated(open: () => Iterable<TraceRow>, requests: number | undefined): Generator<TraceRow> {
  if (requests === undefined) return yield* open();
  let left = requests;
  let highest = 0;
  for (let baseMs = 0, firstBlock = 0; left > 0; ) {
    let lastMs = 0;
    for (const row of open()) {
      if (left-- <= 0) return;
      lastMs = row.atMs;
      if (firstBlock === 0) for (const block of row.blocks) highest = Math.max(highest, block);
      yield { ...row, atMs: baseMs + row.atMs, blocks: firstBlock === 0 ? row.blocks : row.blocks.map((block) => firstBlock + block) };
    }
    baseMs += lastMs + 1_000;
    // Numbers begin again when they run out.
    firstBlock = firstBlock + 2 * highest + 1 < MOST_BLOCKS ? firstBlock + highest + 1 : 0;
  }
}

/** How many will come, where that can be known; reads a trace once more, so that what is wrong with it is said before anything runs. */
function expectedRequests({ trace, requests }: TraceOptions, text: string): number | undefined {
  if (requests !== undefined || trace === undefined) return requests;
  let count = 0;
  for (const _ of readTrace(trace, blockSizeOf(text))) count++;
  return count;
}

function* limited(rows: Iterable<TraceRow>, requests: number): Generator<TraceRow> {
  let left = requests;
  for (const row of rows) {
    if (left-- <= 0) return;
    yield row;
  }
}

function blockSizeOf(text: string): number {
  const models = (parse(text) as { models?: { blockSize?: number }[] } | null)?.models;
  return models?.[0]?.blockSize ?? DEFAULT_BLOCK_SIZE;
}

export function readConfig(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new ArmatureError('CONFIG_UNREADABLE', `cannot read ${file}: ${(error as Error).message}`, { hint: 'name a file that armature serve takes', cause: error });
  }
}

function summary({ outcome, objective, gpuHours, cost, goodputPerGpuHour, durationMs, faults, counters, assumptions }: SimulationResult): string {
  const number = (value: number | null): string => (value === null ? '–' : Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en-US') : String(Number(value.toPrecision(3))));
  const latency = (name: string, { mean, p50, p90, p99 }: SimulationResult['outcome']['ttftMs']): string => `  ${name.padEnd(6)} mean ${number(mean)}, p50 ${number(p50)}, p90 ${number(p90)}, p99 ${number(p99)} ms`;
  const failures = Object.entries(outcome.failures).map(([code, count]) => `${code} ${count}`);
  return `${[
    `${number(outcome.requests)} requests in ${number(durationMs / 60_000)} minutes of virtual time: ${number(outcome.finished)} finished, ${number(outcome.failed)} failed${failures.length === 0 ? '' : ` (${failures.join(', ')})`}`,
    latency('TTFT', outcome.ttftMs),
    latency('ITL', outcome.itlMs),
    latency('E2E', outcome.e2eMs),
    `  in time (TTFT ≤ ${number(objective.ttftMs)} ms, ITL ≤ ${number(objective.itlMs)} ms): ${number((100 * outcome.inTime) / Math.max(1, outcome.requests))} %; ${number(outcome.goodputPerSecond)} requests/s, ${number(goodputPerGpuHour)} per GPU-hour`,
    `  KV hit rate ${outcome.hitRate === null ? '–' : `${number(100 * outcome.hitRate)} %`}; GPU-hours ${number(gpuHours)}; cost ${number(cost)}`,
    `  remote prefills ${number(counters['armature_remote_prefills_total'] ?? 0)}, KV blocks moved ${number(counters['armature_kv_transfer_blocks_total'] ?? 0)}, migrations ${number(counters['armature_migrations_total'] ?? 0)}, faults ${faults.length}`,
    ...assumptions.map((text) => `  assumed: ${text}`),
  ].join('\n')}\n`;
}

class Progress {
  readonly #requests: number | undefined;
  #shownMs: number;

  constructor(requests: number | undefined) {
    this.#requests = requests;
    this.#shownMs = 0;
  }

  show({ arrived, ended, virtualMs }: { readonly arrived: number; readonly ended: number; readonly virtualMs: number }): void {
    const nowMs = performance.now();
    if (nowMs - this.#shownMs < PROGRESS_EVERY_MS) return;
    this.#shownMs = nowMs;
    const share = this.#requests === undefined ? '' : `[${'#'.repeat(Math.min(30, Math.round((30 * ended) / this.#requests))).padEnd(30, '.')}] `;
    process.stderr.write(`\r${share}${ended.toLocaleString('en-US')} ended, ${(arrived - ended).toLocaleString('en-US')} in flight, ${(virtualMs / 60_000).toFixed(1)} virtual minutes\u001b[K`);
  }

  clear(): void {
    process.stderr.write('\r\u001b[K');
  }
}
