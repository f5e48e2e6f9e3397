import { readFileSync } from 'node:fs';
import { boot } from '@armature/core';
import type { App, BootOptions, Overrides } from '@armature/core';
import { builtins } from '@armature/cli';
import { FinishCode } from '@armature/contracts';
import type { Clock, InferenceEnd, InferenceRequest, ModelDirectory, ModelHandle, PluginDescriptor, SamplingParams, StopParams } from '@armature/contracts';
import { deployment } from '@armature/serving';
import { root } from './process.ts';

export type { App };

export interface StartOptions {
  readonly clock?: Clock;
  readonly seed?: number;
  readonly overrides?: Overrides;
  /** Beside the built-in ones. */
  readonly plugins?: readonly PluginDescriptor[];
}

/** Boots a deployment in this process with the production code. Frontend and admin are left out unless the text has them. */
export async function start(yaml: string, options: StartOptions = {}): Promise<App> {
  const app = await boot({
    configText: yaml,
    baseDir: root,
    root: deployment as BootOptions['root'],
    builtins: [...(await builtins()), ...(options.plugins ?? [])],
    env: { ARMATURE_LOG_LEVEL: 'error', ...process.env },
    processMetrics: false,
    random: options.seed ?? 1,
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    ...(options.overrides === undefined ? {} : { overrides: options.overrides }),
  });
  await app.start();
  return app;
}

export function deployFile(name: string): string {
  return readFileSync(`${root}deploy/${name}`, 'utf8');
}

/** The model of a deployment booted by `start`. */
export function modelOf(app: App, name = 'demo'): ModelHandle {
  const model = (app.deployment as unknown as ModelDirectory).get(name);
  if (model === undefined) throw new Error(`no model ${name}`);
  return model;
}

export const greedy: SamplingParams = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seedLo: 1,
  seedHi: 0,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionPenalty: 1,
  biasTokenIds: new Int32Array(0),
  biasValues: new Float32Array(0),
  topLogprobs: -1,
};

export function stopAfter(maxTokens: number, more: Partial<StopParams> = {}): StopParams {
  return { maxTokens, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: false, ...more };
}

let requests = 0;
export function request(promptTokenIds: Int32Array, more: Partial<InferenceRequest> = {}): InferenceRequest {
  return {
    id: `test-${++requests}`,
    promptTokenIds,
    sampling: greedy,
    stop: stopAfter(24),
    choices: 1,
    deadlineMs: 60_000,
    cacheSalt: '',
    priority: 0,
    routing: {},
    traceparent: '',
    ...more,
  };
}

export interface Output {
  /** Per choice. */
  readonly tokens: number[][];
  readonly logprobs: number[][];
  readonly finish: number[];
  end: InferenceEnd | undefined;
  ends: number;
}

/** Runs one request to its end. */
export function run(model: ModelHandle, inference: InferenceRequest): Promise<Output> {
  return new Promise((resolve) => {
    const output = emptyOutput(inference.choices);
    model.execute(inference, collect(output, () => resolve(output)));
  });
}

export function emptyOutput(choices: number): Output {
  const lists = <T>(): T[][] => Array.from({ length: choices }, () => []);
  return { tokens: lists(), logprobs: lists(), finish: Array.from({ length: choices }, () => FinishCode.None as number), end: undefined, ends: 0 };
}

export function collect(output: Output, done: () => void): Parameters<ModelHandle['execute']>[1] {
  return {
    tokens: (batch) => {
      for (let i = 0; i < batch.count; i++) {
        const choice = batch.choices?.[i] ?? 0;
        output.tokens[choice]?.push(batch.tokenIds[i]);
        if (batch.logprobs !== undefined) output.logprobs[choice]?.push(batch.logprobs[i]);
        if (batch.finish[i] !== FinishCode.None) output.finish[choice] = batch.finish[i];
      }
    },
    end: (end) => {
      output.end = end;
      output.ends++;
      done();
    },
  };
}

/** Value of a metric, summed over its label sets. */
export async function metric(app: App, name: string): Promise<number> {
  const text = await app.metrics.text();
  return text
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}
