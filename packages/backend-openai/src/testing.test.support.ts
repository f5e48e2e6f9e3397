import { afterAll, beforeAll, expect } from 'vitest';
import type { Clock, EngineRequest, EngineSink, InferenceEnd, Logger, Preprocessor } from '@armature/contracts';
import { FakePreprocessor } from '@armature/contracts/testing/fake-model';
import { realClock } from '@armature/contracts/testing/real-clock';
import { FakeOpenAi, likeVllm } from './fake-openai.test.support.ts';
import type { Flavor, Script } from './fake-openai.test.support.ts';
import { OpenAiBackend } from './index.ts';
import type { OpenAiServerConfig } from './index.ts';

export const clock: Clock = realClock;
export const BLOCK_SIZE = 8;
export const CONTEXT = 256;

export const defaults: OpenAiServerConfig = {
  baseUrl: '',
  model: '',
  apiKey: '',
  organization: '',
  project: '',
  headers: {},
  prompt: 'auto',
  extensions: 'auto',
  maxSequences: 16,
  maxWaiting: 64,
  maxModelTokens: 0,
  totalBlocks: 64,
  canary: 'models',
  probeIntervalMs: 20,
  probeTimeoutMs: 2000,
  failuresToLeave: 2,
  startTimeoutMs: 1000,
  idleTimeoutMs: 30_000,
};

export const base: EngineRequest = {
  id: 'req-1',
  leg: 'full',
  tokenIds: Int32Array.of(1, 2, 3, 4, 5),
  promptTokens: 5,
  sequenceHashes: new Int32Array(0),
  cacheSalt: '',
  sampling: { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 7, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0), topLogprobs: -1 },
  stop: { maxTokens: 10, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: false },
  choices: 1,
  firstTokens: undefined,
  priority: 0,
  kvSource: undefined,
  leaseTtlMs: 1000,
};

export class Recorder implements EngineSink {
  readonly ids: number[][] = [];
  readonly finishes: number[][] = [];
  readonly logprobs: number[] = [];
  readonly topTokenIds: number[] = [];
  readonly ends: InferenceEnd[] = [];
  readonly ended: Promise<InferenceEnd>;
  onTokens: (() => void) | undefined = undefined;
  #resolve!: (end: InferenceEnd) => void;

  constructor() {
    this.ended = new Promise((resolve) => (this.#resolve = resolve));
  }
  tokens(batch: Parameters<EngineSink['tokens']>[0]): void {
    for (let i = 0; i < batch.count; i++) {
      const of = batch.choices?.[i] ?? 0;
      (this.ids[of] ??= []).push(batch.tokenIds[i]);
      (this.finishes[of] ??= []).push(batch.finish[i]);
    }
    this.logprobs.push(...(batch.logprobs ?? []));
    this.topTokenIds.push(...(batch.topTokenIds ?? []));
    this.onTokens?.();
  }
  end(end: InferenceEnd): void {
    this.ends.push(end);
    this.#resolve(end);
  }
  /** Of a model whose tokens are UTF-16 units, as a frontend shows it. */
  text(of = 0): string {
    return (this.ids[of] ?? []).filter((_, i) => this.finishes[of]?.[i] !== 1).map((id) => (id === 0xffff ? '' : String.fromCharCode(id))).join('');
  }
  get failure(): { code: string; retryable: boolean } | undefined {
    const end = this.ends[0];
    return end?.type === 'failed' ? { code: end.error.code, retryable: end.error.retryable ?? false } : undefined;
  }
}

/** A server for the tests of one file, and the engines that talk to it. */
export class Bench {
  readonly server: FakeOpenAi;
  /** Everything that was logged, as one text. */
  logged = '';
  #origin = '';
  #engines: OpenAiBackend[] = [];
  #count = 0;

  constructor(flavor: Flavor = likeVllm) {
    this.server = new FakeOpenAi(flavor);
    beforeAll(async () => {
      this.#origin = await this.server.listen();
    });
    afterAll(async () => {
      await this.reset();
      await this.server.close();
    });
  }

  /** Between tests. */
  async reset(flavor: Flavor = this.server.flavor): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.close()));
    this.#engines = [];
    this.logged = '';
    this.server.flavor = flavor;
    this.server.script = undefined;
    this.server.modelsScript = undefined;
    this.server.tokenMs = 0;
    this.server.requests.length = 0;
    this.server.aborted = 0;
  }

  make(config: Partial<OpenAiServerConfig> = {}, time: Clock = clock, preprocessor: Preprocessor = new FakePreprocessor({ maxModelTokens: CONTEXT })): OpenAiBackend {
    const write = (message: string, fields?: object): void => void (this.logged += `${message} ${JSON.stringify(fields)}\n`);
    const log: Logger = { debug: write, info: write, warn: write, error: write, child: () => log, isEnabled: () => false };
    const baseUrl = `${this.#origin}/server-${this.#count++}/v1`;
    const engine = new OpenAiBackend({ config: { ...defaults, baseUrl, ...config }, blockSize: BLOCK_SIZE, preprocessor, clock: time, log });
    this.#engines.push(engine);
    return engine;
  }

  async started(config: Partial<OpenAiServerConfig> = {}, time: Clock = clock, preprocessor?: Preprocessor): Promise<OpenAiBackend> {
    const engine = this.make(config, time, preprocessor);
    await engine.start();
    this.server.requests.length = 0;
    return engine;
  }

  async run(request: Partial<EngineRequest> = {}, config: Partial<OpenAiServerConfig> = {}): Promise<Recorder> {
    const engine = await this.started(config);
    const sink = new Recorder();
    engine.submit({ ...base, ...request }, sink);
    await sink.ended;
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(sink.ends).toHaveLength(1);
    return sink;
  }
}

/** Sends `parts` one by one, as separate packets. */
export const streaming =
  (...parts: (string | Buffer)[]): Script =>
  async (_received, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    for (const part of parts) {
      response.write(part);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    response.end();
  };

/** Polls; a loaded machine may take its time. */
export async function until(what: string, holds: () => boolean, timeoutMs = 10_000): Promise<void> {
  for (let waitedMs = 0; !holds(); waitedMs += 5) {
    if (waitedMs > timeoutMs) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Mulberry32. */
export function seeded(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}
