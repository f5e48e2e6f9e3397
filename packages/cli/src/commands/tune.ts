import { writeFileSync } from 'node:fs';
import { ArmatureError } from '@armature/contracts';
import { loadSettings, tune } from '@armature/simulator';
import type { TuneGoal, TuneResult, TuneTrial } from '@armature/simulator';
import { builtins } from '../builtins.ts';
import { readConfig, traceOf } from './simulate.ts';
import type { TraceOptions } from './simulate.ts';

export interface TuneCommandOptions extends TraceOptions {
  readonly file: string;
  readonly settings?: string;
  readonly rate: number;
  readonly seeds: number;
  readonly goal: TuneGoal;
  readonly ttft: number;
  readonly itl: number;
  readonly replicas?: Readonly<Record<string, number>>;
  readonly out?: string;
}

/** `armature tune`: proposes router weights and the disaggregation threshold for a trace, with how sure that is. */
export async function tuneCommand(options: TuneCommandOptions): Promise<void> {
  const text = readConfig(options.file);
  const trace = [...traceOf(options, text)];
  if (!(options.seeds >= 2 && options.seeds <= 30)) throw new ArmatureError('TUNE_SEEDS_MISSING', `${options.seeds} seeds`, { hint: 'from 2 to 30' });
  const isTerminal = process.stderr.isTTY;
  const result = await tune({
    text,
    trace,
    settings: await (options.settings === undefined ? loadSettings() : loadSettings(readConfig(options.settings), options.settings)),
    plugins: await builtins(options.file),
    objective: { ttftMs: options.ttft, itlMs: options.itl },
    rate: options.rate,
    goal: options.goal,
    seeds: Array.from({ length: options.seeds }, (_, i) => options.seed + i),
    ...(options.replicas === undefined ? {} : { replicas: options.replicas }),
    ...(isTerminal ? { onTrial: (trial: TuneTrial) => process.stderr.write(`${trialText(trial)}\n`) } : {}),
  });
  process.stdout.write(summary(result, options.seeds));
  if (options.out !== undefined) writeFileSync(options.out, result.text);
}

const percent = (value: number): string => `${value >= 0 ? '+' : ''}${value.toFixed(2)} %`;

function trialText({ path, value, mean, low, high, isBetter }: TuneTrial): string {
  return `${isBetter ? '*' : ' '} ${path}: ${value}   ${percent(mean)} (${percent(low)} to ${percent(high)})`;
}

function summary({ goal, before, after, change, changes, trials, simulations }: TuneResult, seeds: number): string {
  const unit = goal === 'goodput' ? 'requests/s within the objective' : `ms mean ${goal === 'ttft' ? 'time to first token' : 'end to end'}`;
  const lines = [`${simulations} simulations, ${seeds} seeds each; goal: ${unit}`, ...trials.map(trialText), ''];
  if (changes.length === 0) return `${[...lines, `no setting tried is better beyond doubt than the file's: ${before.toFixed(2)} ${unit}`].join('\n')}\n`;
  lines.push(...changes.flatMap(({ path, from, to }) => [`- ${path}: ${String(from)}`, `+ ${path}: ${to}`]));
  lines.push(`${before.toFixed(2)} → ${after.toFixed(2)} ${unit}: ${percent(change.mean)}, 95 % interval ${percent(change.low)} to ${percent(change.high)}`);
  return `${lines.join('\n')}\n`;
}
