import { afterEach } from 'vitest';
import type { EngineRequest, EngineSink, InferenceEnd, KvEvent, Logger, PrefillHandover, Random } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { checkConfig, trtllmSchema } from './config.ts';
import type { TrtllmConfig } from './config.ts';
import { KvEventFollower, TrtllmBackend } from './index.ts';
import type { Http, ModelEnds } from './index.ts';
import { SimulatedTrtllm } from './testing/index.ts';
import type { SimulatedTrtllmOptions } from './testing/index.ts';

export const BLOCK_SIZE = 32;

/** Everything that was logged, as one text. */
export let logged = '';
const write = (message: string, fields?: object): void => void (logged += `${message} ${JSON.stringify(fields)}\n`);
export const log: Logger = { debug: write, info: write, warn: write, error: write, child: () => log, isEnabled: () => false };

const servers: SimulatedTrtllm[] = [];
const backends: TrtllmBackend[] = [];
afterEach(async () => {
  await Promise.all(backends.splice(0).map((backend) => backend.close()));
  await Promise.all(servers.splice(0).map((server) => server.stop()));
  logged = '';
});

export async function simulated(options: Partial<SimulatedTrtllmOptions> = {}): Promise<SimulatedTrtllm> {
  const server = await SimulatedTrtllm.start({ cacheSalt: true, ...options });
  servers.push(server);
  return server;
}

/** Defaults of the schema. */
export function defaults(): TrtllmConfig {
  const properties = trtllmSchema.properties as unknown as Record<string, { default?: unknown }>;
  return Object.fromEntries(Object.entries(properties).flatMap(([name, { default: value }]) => (value === undefined ? [] : [[name, value]]))) as unknown as TrtllmConfig;
}

export function configProblems(config: Partial<TrtllmConfig>): string[] {
  const found: string[] = [];
  checkConfig({ ...defaults(), ...config }, ({ message }) => void found.push(message));
  return found;
}

let drawn = 0;
const random = { u32: () => (drawn = (Math.imul(drawn, 1_664_525) + 1_013_904_223) >>> 0) } as unknown as Random;

export interface Made {
  readonly config?: Partial<TrtllmConfig>;
  readonly ends?: Partial<ModelEnds>;
  readonly events?: (event: KvEvent) => void;
}

/** Not started. Short intervals. */
export function make({ url, options }: SimulatedTrtllm, { config = {}, ends = {}, events }: Made = {}): TrtllmBackend {
  const whole: TrtllmConfig = {
    ...defaults(), baseUrl: url, sendCacheSalt: true, kvEvents: events !== undefined, eventIntervalMs: 10, probeIntervalMs: 20, startTimeoutMs: 10_000, canaryIntervalMs: 0, failuresToLeave: 2, maxModelTokens: options.maxSeqLen, ...config,
  };
  const follower = (http: Http): KvEventFollower =>
    new KvEventFollower({ fetch: async () => textOf(await http.ask({ method: 'POST', path: '/kv_cache_events', timeoutMs: 5000 })), intervalMs: whole.eventIntervalMs, blockSize: BLOCK_SIZE, clock: realClock, log });
  const backend = new TrtllmBackend({
    config: whole, blockSize: BLOCK_SIZE, clock: realClock, log, random,
    ends: { eosTokenIds: new Set(), vocabSize: options.vocabSize, maxModelTokens: options.maxSeqLen, ...ends },
    follower: whole.kvEvents ? follower : undefined,
  });
  if (events !== undefined) backend.onKvEvent(events);
  backends.push(backend);
  return backend;
}

function textOf({ status, text }: { readonly status: number; readonly text: string }): string {
  if (status !== 200) throw new Error(`status ${status}`);
  return text;
}

export async function started(server: SimulatedTrtllm, made: Made = {}): Promise<TrtllmBackend> {
  const backend = make(server, made);
  await backend.start();
  return backend;
}

export const base: EngineRequest = {
  id: 'req-1',
  leg: 'full',
  tokenIds: Int32Array.from({ length: 70 }, (_, i) => 1 + (i % 50)),
  promptTokens: 70,
  sequenceHashes: new Int32Array(0),
  cacheSalt: '',
  sampling: { temperature: 1, topP: 1, topK: 0, minP: 0, seedLo: 7, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0), topLogprobs: -1 },
  stop: { maxTokens: 10, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: false },
  choices: 1,
  firstTokens: undefined,
  priority: 0,
  kvSource: undefined,
  leaseTtlMs: 1000,
};

export class Recorder implements EngineSink {
  readonly tokensOf: number[][] = [];
  readonly ends: InferenceEnd[] = [];
  readonly handovers: PrefillHandover[] = [];
  readonly ended: Promise<InferenceEnd>;
  #resolve!: (end: InferenceEnd) => void;

  constructor() {
    this.ended = new Promise((resolve) => (this.#resolve = resolve));
  }

  tokens({ count, tokenIds, choices }: Parameters<EngineSink['tokens']>[0]): void {
    for (let i = 0; i < count; i++) (this.tokensOf[choices?.[i] ?? 0] ??= []).push(tokenIds[i] as number);
  }

  prefilled(handover: PrefillHandover): void {
    this.handovers.push(handover);
  }

  end(end: InferenceEnd): void {
    this.ends.push(end);
    this.#resolve(end);
  }

  /** Of choice 0. */
  get ids(): number[] {
    return this.tokensOf[0] ?? [];
  }
}

export function submit(backend: TrtllmBackend, overrides: Partial<EngineRequest> = {}): Recorder & { cancel(): void } {
  const recorder = new Recorder();
  const handle = backend.submit({ ...base, ...overrides }, recorder);
  return Object.assign(recorder, { cancel: () => backend.cancel(handle) });
}

export async function run(backend: TrtllmBackend, overrides: Partial<EngineRequest> = {}): Promise<Recorder> {
  const recorder = submit(backend, overrides);
  await recorder.ended;
  return recorder;
}

export function errorOf({ ends: [end] }: Recorder): { readonly code: string; readonly message: string; readonly retryable?: boolean } | undefined {
  return end?.type === 'failed' ? end.error : undefined;
}
