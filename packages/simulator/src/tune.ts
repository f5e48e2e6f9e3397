import { ArmatureError } from '@armature/contracts';
import { SeededRandom } from '@armature/core';
import { parse, stringify } from 'yaml';
import { simulate } from './simulate.ts';
import type { SimulateOptions } from './simulate.ts';
import type { TraceRow } from './trace.ts';

/** A setting that may be tuned: where it stands below `models[0]`, and the values to try. */
export interface Tunable {
  readonly path: readonly string[];
  readonly values: readonly (number | string)[];
  /** Of the plug-in, where the file says nothing. */
  readonly initial: number | string;
  /** Only where the file names this plug-in at `path[0]`. */
  readonly use: string;
}

/** Router weights and the disaggregation threshold. */
export const tunables: readonly Tunable[] = [
  { path: ['router', 'config', 'overlapCredit'], use: 'kv', initial: 1, values: [0.25, 0.5, 1, 2, 4] },
  { path: ['router', 'config', 'missWeight'], use: 'kv', initial: 2, values: [0.5, 1, 2, 4] },
  { path: ['router', 'config', 'utilisationWeight'], use: 'kv', initial: 1, values: [0, 0.5, 1, 2, 4] },
  { path: ['router', 'config', 'shareTolerance'], use: 'kv', initial: 0.15, values: [0.05, 0.15, 0.4] },
  { path: ['disaggregation', 'config', 'maxLocalTokens'], use: 'conditional', initial: 2_048, values: [0, 128, 512, 1_024, 2_048, 4_096] },
];

export type TuneGoal = 'ttft' | 'e2e' | 'goodput';

export interface TuneOptions extends Pick<SimulateOptions, 'text' | 'settings' | 'plugins' | 'objective' | 'rate' | 'replicas'> {
  readonly trace: readonly TraceRow[];
  readonly goal: TuneGoal;
  /** Each seed is the trace with other arrival times (each moved by up to half a mean gap) and other ties. */
  readonly seeds: readonly number[];
  readonly tunables?: readonly Tunable[];
  readonly onTrial?: (trial: TuneTrial) => void;
}

/** One change against the best so far, on the same seeds. */
export interface TuneTrial {
  readonly path: string;
  readonly value: number | string;
  /** Change of the goal in per cent, less is better for latencies, more for goodput; the bounds hold 95 of 100 times (paired t). */
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  readonly isBetter: boolean;
}

export interface TuneResult {
  readonly goal: TuneGoal;
  readonly before: number;
  readonly after: number;
  /** Of all changes together against the file, in per cent. */
  readonly change: { readonly mean: number; readonly low: number; readonly high: number };
  readonly changes: readonly { readonly path: string; readonly from: unknown; readonly to: number | string }[];
  /** The file with them. */
  readonly text: string;
  readonly trials: readonly TuneTrial[];
  readonly simulations: number;
}

/** Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom. */
const T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042];

/**
 * Tries one setting after the other, keeps what is better beyond doubt on all seeds together, and says by how much. Deterministic. Throws `TUNE_SEEDS_MISSING`
 * for fewer than two seeds, and what `simulate` throws.
 */
export async function tune(options: TuneOptions): Promise<TuneResult> {
  const { text, goal, seeds, onTrial } = options;
  if (seeds.length < 2) throw new ArmatureError('TUNE_SEEDS_MISSING', `${seeds.length} seeds give no confidence interval`, { hint: 'at least 2; 5 or more tell more' });
  const traces = seeds.map((seed) => jittered(options.trace, new SeededRandom(seed)));
  let simulations = 0;
  const measure = async (candidate: string): Promise<number[]> => {
    const values = [];
    for (const [i, seed] of seeds.entries()) {
      simulations++;
      values.push(await goalOf(options, candidate, traces[i], seed));
    }
    return values;
  };
  const before = await measure(text);
  let best = { text, values: before };
  const trials: TuneTrial[] = [];
  const changes: TuneResult['changes'][number][] = [];
  for (const { path, use, values, initial } of options.tunables ?? tunables) {
    const slot = valueAt(best.text, path, use);
    if (slot === undefined) continue;
    const now = slot.value ?? initial;
    let chosen: { readonly text: string; readonly values: number[]; readonly value: number | string; readonly mean: number } | undefined;
    for (const value of values) {
      if (value === now) continue;
      const candidate = withValue(best.text, path, value);
      const measured = await measure(candidate);
      const change = changeOf(best.values, measured);
      const isBetter = goal === 'goodput' ? change.low > 0 : change.high < 0;
      const trial = { path: `models[0].${path.join('.')}`, value, ...change, isBetter };
      trials.push(trial);
      onTrial?.(trial);
      const gain = goal === 'goodput' ? change.mean : -change.mean;
      if (isBetter && gain > (chosen?.mean ?? 0)) chosen = { text: candidate, values: measured, value, mean: gain };
    }
    if (chosen === undefined) continue;
    changes.push({ path: `models[0].${path.join('.')}`, from: now, to: chosen.value });
    best = chosen;
  }
  return { goal, before: mean(before), after: mean(best.values), change: changeOf(before, best.values), changes, text: best.text, trials, simulations };
}

async function goalOf(options: TuneOptions, text: string, trace: readonly TraceRow[], seed: number): Promise<number> {
  const { settings, plugins, objective, rate, replicas, goal } = options;
  const result = await simulate({ text, settings, plugins, objective, trace, seed, ...(rate === undefined ? {} : { rate }), ...(replicas === undefined ? {} : { replicas }) });
  const { outcome } = result;
  // What fails has no latency: it must not look like a gain.
  const served = outcome.finished / Math.max(1, outcome.requests);
  if (goal === 'goodput') return outcome.goodputPerSecond;
  return ((goal === 'ttft' ? outcome.ttftMs.mean : outcome.e2eMs.mean) ?? Infinity) / Math.max(1e-9, served);
}

/** Mean of the changes by seed in per cent, with its 95 % interval. */
function changeOf(before: readonly number[], after: readonly number[]): { readonly mean: number; readonly low: number; readonly high: number } {
  const changes = after.map((value, i) => 100 * (value / before[i] - 1));
  const centre = mean(changes);
  const variance = changes.reduce((sum, change) => sum + (change - centre) ** 2, 0) / (changes.length - 1);
  const half = (T95[changes.length - 2] ?? 1.96) * Math.sqrt(variance / changes.length);
  return { mean: centre, low: centre - half, high: centre + half };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function jittered(trace: readonly TraceRow[], random: SeededRandom): TraceRow[] {
  const gapMs = trace.length < 2 ? 0 : (trace[trace.length - 1].atMs - trace[0].atMs) / (trace.length - 1);
  return trace.map((row) => ({ ...row, atMs: Math.max(0, row.atMs + (random.next() - 0.5) * gapMs) })).sort((a, b) => a.atMs - b.atMs);
}

type Raw = Record<string, unknown>;

/** Undefined where the file names another plug-in there. `value` undefined: its default holds. */
function valueAt(text: string, path: readonly string[], use: string): { readonly value: unknown } | undefined {
  const model = (parse(text) as { models?: Raw[] }).models?.[0];
  const slot = model?.[path[0]] as { use?: string; config?: Raw } | undefined;
  const isDefault = slot === undefined && path[0] === 'router' && use === 'kv';
  if (!isDefault && slot?.use !== use) return undefined;
  return { value: slot?.config?.[path[2]] };
}

function withValue(text: string, path: readonly string[], value: number | string): string {
  const raw = parse(text) as { models: Raw[] };
  const [slot, , name] = path;
  const before = (raw.models[0][slot] ?? { use: 'kv' }) as { use: string; config?: Raw };
  raw.models[0] = { ...raw.models[0], [slot]: { ...before, config: { ...before.config, [name]: value } } };
  return stringify(raw);
}
