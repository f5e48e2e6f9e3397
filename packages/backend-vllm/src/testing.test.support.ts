import { afterEach, beforeEach, expect } from 'vitest';
import type { Clock, EngineRequest, EngineSink, InferenceEnd, Logger, PrefillHandover, TokenBatch } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { FakeVllm } from './fake-vllm.test.support.ts';
import { KvEvents, VllmBackend } from './index.ts';
import type { VllmConfig } from './index.ts';

export const clock = realClock;
/** Everything that was logged, as one text. */
export let logged = '';
const write = (message: string, fields?: object): void => void (logged += `${message} ${JSON.stringify(fields)}\n`);
export const log: Logger = { debug: write, info: write, warn: write, error: write, child: () => log, isEnabled: () => false };

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
  readonly batches: TokenBatch[] = [];
  readonly ends: InferenceEnd[] = [];
  readonly handovers: PrefillHandover[] = [];
  readonly ended: Promise<InferenceEnd>;
  #resolve!: (end: InferenceEnd) => void;
  onTokens: (() => void) | undefined = undefined;

  constructor() {
    this.ended = new Promise((resolve) => (this.#resolve = resolve));
  }
  tokens(batch: TokenBatch): void {
    this.batches.push(batch);
    this.onTokens?.();
  }
  prefilled(handover: PrefillHandover): void {
    this.handovers.push(handover);
  }
  end(end: InferenceEnd): void {
    this.ends.push(end);
    this.#resolve(end);
  }
  get ids(): number[] {
    return this.batches.flatMap((batch) => [...batch.tokenIds]);
  }
}

export let server: FakeVllm;
export let baseUrl: string;
let backends: VllmBackend[] = [];
beforeEach(async () => {
  logged = '';
  server = new FakeVllm();
  baseUrl = await server.listen();
});
afterEach(async () => {
  await Promise.all(backends.map((backend) => backend.close()));
  backends = [];
  await server.close();
});

export const noEvents = { endpoint: '', listen: false, replayEndpoint: '', topic: '', replayTimeoutMs: 1000 };

export const noServe = { model: '', command: ['vllm'], host: '127.0.0.1', port: 0, kvEvents: true, tensorParallelSize: 1, pipelineParallelSize: 1, kvTransferConfig: '', extraArgs: [], env: {}, restarts: 3, restartDelayMs: 20, stopTimeoutMs: 2000 };

/** Whole, with short intervals. */
export function configWith(config: Partial<VllmConfig>): VllmConfig {
  return { baseUrl, connector: '', model: '', apiKey: '', totalBlocks: 0, sendPriority: false, startTimeoutMs: 10_000, probeIntervalMs: 20, probeTimeoutMs: 5000, idleTimeoutMs: 30_000, canaryIntervalMs: 0, canaryTimeoutMs: 500, kvEvents: noEvents, serve: noServe, ...config };
}

export function make(config: Partial<VllmConfig> = {}, time: Clock = clock): VllmBackend {
  const kvEvents = config.kvEvents ?? noEvents;
  const events = kvEvents.endpoint === '' ? undefined : new KvEvents({ config: kvEvents, blockSize: 32, clock: time, log });
  const backend = new VllmBackend({
    config: configWith(config),
    blockSize: 32,
    clock: time,
    log,
    ...(events === undefined ? {} : { events }),
  });
  backends.push(backend);
  return backend;
}

export async function started(config: Partial<VllmConfig> = {}, time: Clock = clock): Promise<VllmBackend> {
  const backend = make(config, time);
  await backend.start();
  return backend;
}

/** Sends `parts` one by one, as separate packets. */
export const streaming =
  (...parts: (string | Buffer)[]): FakeVllm['answer'] =>
  async (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    for (const part of parts) {
      response.write(part);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    response.end();
  };

export async function run(request: Partial<EngineRequest> = {}, config: Partial<VllmConfig> = {}): Promise<Recorder> {
  const backend = await started(config);
  const sink = new Recorder();
  backend.submit({ ...base, ...request }, sink);
  await sink.ended;
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(sink.ends).toHaveLength(1);
  return sink;
}
