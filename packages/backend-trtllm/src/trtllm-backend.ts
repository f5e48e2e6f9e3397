import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, KvEvent, Logger, Random } from '@armature/contracts';
import { Canary } from './canary.ts';
import type { ChildServer } from './child-server.ts';
import type { CompletionCall } from './completion.ts';
import type { TrtllmConfig } from './config.ts';
import { dialectOf } from './dialect.ts';
import type { Dialect } from './dialect.ts';
import { Http } from './http.ts';
import { EVENTS_HINT } from './kv-events/follower.ts';
import type { KvEventFollower } from './kv-events/follower.ts';
import { runContext, runOutput } from './legs.ts';
import type { LegHost } from './legs.ts';
import { objectOf, parseJson, stringifyJson } from './lossless-json.ts';
import type { ModelEnds } from './model-ends.ts';
import { closedError, drainingError, notStarted, overloaded, requestProblem, unreachable } from './problems.ts';
import { Running } from './running.ts';
import { ServerWatch } from './server-watch.ts';

export interface TrtllmOptions {
  readonly config: TrtllmConfig;
  /** Of the model in our configuration; the server's own must be the same where it is known. */
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** For ids that pair the two legs of a request. */
  readonly random: Random;
  /** Where the model's sequences end, from its checkpoint. */
  readonly ends: ModelEnds;
  /** Made over the same `Http`; undefined: KV events are not followed. */
  readonly follower: ((http: Http) => KvEventFollower) | undefined;
  /** The server, when we start it; ended with the backend. */
  readonly process?: ChildServer;
}

const UNKNOWN_LIMIT = 0x7fff_ffff;
const MAX_BATCHED_TOKENS = 8192;

/** One trtllm-serve over HTTP: token ids in, token ids out, abort by closing the connection. */
export class TrtllmBackend implements EngineBackend {
  readonly abilities: EngineAbilities;
  readonly #options: TrtllmOptions;
  readonly #http: Http;
  readonly #watch: ServerWatch;
  readonly #canary: Canary;
  readonly #follower: KvEventFollower | undefined;
  readonly #running: Set<Running>;
  #info: EngineInfo | undefined;
  #legs: LegHost | undefined;
  #model: string;
  #isDraining: boolean;
  #onIdle: (() => void) | undefined;

  constructor(options: TrtllmOptions) {
    const { config, clock, log, process, follower } = options;
    this.#options = options;
    this.abilities = { roles: ['both', 'prefill', 'decode'], roleChange: 'none', firstToken: 'prefill', legs: 'sequential', kvEvents: follower !== undefined, maxTopLogprobs: 0 };
    this.#http = new Http(config.baseUrl, config.apiKey, clock);
    this.#follower = follower?.(this.#http);
    this.#watch = new ServerWatch({ http: this.#http, config, process, clock, log, recovered: () => this.#follower?.restarted() });
    this.#canary = new Canary({ intervalMs: config.canaryIntervalMs, timeoutMs: config.canaryTimeoutMs, ask: (signal) => this.#askForToken(signal), clock, log });
    this.#running = new Set();
    this.#info = undefined;
    this.#legs = undefined;
    this.#model = config.model;
    this.#isDraining = false;
    this.#onIdle = undefined;
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new ArmatureError('ENGINE_NOT_STARTED', 'the TensorRT-LLM backend has not been started', { hint: 'await start() first' });
    return this.#info;
  }

  /**
   * Starts the server if it is ours to start, waits until it is healthy, then reads its version, model, limits and events. Throws `TRTLLM_START_FAILED`,
   * `TRTLLM_PORT_TAKEN`, `TRTLLM_UNREACHABLE`, `TRTLLM_VERSION_UNKNOWN`, `TRTLLM_MODEL_UNKNOWN`, `TRTLLM_BLOCK_SIZE_MISMATCH`, `TRTLLM_ANSWER_INVALID`, `ENGINE_CLOSED`.
   */
  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      await this.#options.process?.stop();
      throw error;
    }
  }

  async #start(): Promise<void> {
    const { config, process, log } = this.#options;
    await process?.start();
    await this.#watch.waitUntilHealthy();
    process?.served();
    const dialect = await this.#readDialect();
    this.#model = await this.#readModel();
    await this.#watch.readMetrics();
    await this.#follower?.start();
    this.#watch.throwIfClosed();
    this.#info = this.#facts();
    this.#legs = this.#legHost(this.#info, dialect);
    if (this.#follower === undefined) log.info('KV events are not followed: the router credits this worker no overlap', { hint: `${EVENTS_HINT}; then set engine.config.kvEvents: true` });
    log.info('TensorRT-LLM is ready', { baseUrl: config.baseUrl, model: this.#model, dialect: dialect.version });
    this.#watch.follow();
    this.#canary.start();
  }

  async #readDialect(): Promise<Dialect> {
    const { config } = this.#options;
    const reported = config.version === 'auto' ? versionIn((await this.#watch.answer('/version')).text) : '';
    const dialect = dialectOf(config.version, reported);
    if (dialect !== undefined) return dialect;
    throw new ArmatureError('TRTLLM_VERSION_UNKNOWN', `TensorRT-LLM at ${config.baseUrl} says it is version ${JSON.stringify(reported.slice(0, 40))}; 1.0 and newer are known`, {
      hint: 'set engine.config.version to the wire format it speaks, or run TensorRT-LLM 1.0 or newer',
    });
  }

  async #readModel(): Promise<string> {
    const { config } = this.#options;
    const { status, text } = await this.#watch.answer('/v1/models');
    const data = status === 200 ? objectOf(parseJson(text))?.['data'] : undefined;
    const names = Array.isArray(data) ? (data as readonly unknown[]).flatMap((model) => (typeof objectOf(model)?.['id'] === 'string' ? [objectOf(model)?.['id'] as string] : [])) : [];
    const [first] = names;
    if (first === undefined) throw new ArmatureError('TRTLLM_ANSWER_INVALID', `${config.baseUrl}/v1/models answered ${status} and names no model`, { hint: 'is engine.config.baseUrl a trtllm-serve server?' });
    if (config.model === '' || names.includes(config.model)) return config.model === '' ? first : config.model;
    throw new ArmatureError('TRTLLM_MODEL_UNKNOWN', `TensorRT-LLM does not serve "${config.model}"`, { hint: `set engine.config.model to one of: ${names.join(', ')}` });
  }

  /** Throws `TRTLLM_BLOCK_SIZE_MISMATCH`. */
  #facts(): EngineInfo {
    const { config, blockSize, ends } = this.#options;
    const { stats } = this.#watch;
    if (stats?.blockSize !== undefined && stats.blockSize !== blockSize) {
      throw new ArmatureError('TRTLLM_BLOCK_SIZE_MISMATCH', `TensorRT-LLM has blocks of ${stats.blockSize} tokens, the model ${blockSize}`, {
        hint: `set models[].blockSize: ${stats.blockSize}, or kv_cache_config.tokens_per_block: ${blockSize}`,
      });
    }
    const maxModelTokens = config.maxModelTokens || config.serve?.maxSeqLen || ends.maxModelTokens || UNKNOWN_LIMIT;
    const enough = config.maxSequences * Math.ceil(Math.min(maxModelTokens, 1 << 17) / blockSize);
    const adapters = config.adapters.map(({ name }) => name);
    return {
      modelFingerprint: `trtllm/${this.#model}`,
      vocabSize: ends.vocabSize || UNKNOWN_LIMIT,
      maxModelTokens,
      blockSize,
      totalBlocks: config.totalBlocks || stats?.totalBlocks || this.#follower?.totalBlocks || enough,
      maxSequences: config.maxSequences,
      maxBatchedTokens: config.serve?.maxNumTokens || MAX_BATCHED_TOKENS,
      ...(adapters.length === 0 ? {} : { adapters }),
    };
  }

  #legHost({ maxModelTokens, vocabSize }: EngineInfo, dialect: Dialect): LegHost {
    const { config, random, ends } = this.#options;
    const call = (running: Running): Pick<CompletionCall, 'model' | 'maxModelTokens' | 'adapter' | 'sendPriority'> => ({
      model: this.#model,
      maxModelTokens,
      adapter: config.adapters.find(({ name }) => name === running.request.adapter),
      sendPriority: config.sendPriority,
    });
    return {
      http: this.#http,
      output: { maxModelTokens, vocabSize, eosTokenIds: ends.eosTokenIds },
      call,
      disaggRequestId: () => (dialect.disaggRequestId ? (BigInt(random.u32() >>> 1) << 32n) | BigInt(random.u32()) : undefined),
      heard: () => this.#canary.heard(),
    };
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const { clock, log, config } = this.#options;
    const running = new Running(request, sink, { clock, log, idleTimeoutMs: config.idleTimeoutMs });
    const refusal = this.#refusalOf(request);
    const legs = this.#legs;
    if (refusal !== undefined || legs === undefined) {
      running.end({ type: 'failed', error: refusal ?? notStarted });
      return running;
    }
    this.#running.add(running);
    running.watch();
    void this.#run(running, legs).finally(() => {
      running.unwatch();
      this.#running.delete(running);
      if (this.#running.size === 0) this.#onIdle?.();
    });
    return running;
  }

  /** Never rejects. */
  async #run(running: Running, legs: LegHost): Promise<void> {
    const { request } = running;
    const { config, blockSize } = this.#options;
    try {
      const usage = await (request.leg === 'prefill' ? runContext(running, legs) : runOutput(running, legs));
      if (request.leg !== 'decode') this.#follower?.computed(Math.floor((usage.promptTokens - usage.cachedTokens) / blockSize));
      // Whoever routes by what this request stored is to know of it before it ends.
      await this.#follower?.settle(config.eventsBeforeEndMs);
      running.end({ type: 'finished', usage }, this.#follower?.lastId);
    } catch (error) {
      running.end({ type: 'failed', error: (ArmatureError.is(error) ? error : unreachable(config.baseUrl, error)).toData() });
    } finally {
      running.abort.abort(); // nothing of it goes on in the server
    }
  }

  cancel(handle: EngineHandle): void {
    (handle as Running).stop({ type: 'cancelled' });
  }

  /** As of the last probe; requests sent since then are counted as running. */
  load(): EngineLoad {
    const totalBlocks = this.#info?.totalBlocks ?? 0;
    const { stats } = this.#watch;
    let ownTokens = 0;
    let prefillTokens = 0;
    for (const running of this.#running) {
      ownTokens += running.tokens;
      prefillTokens += running.prefillTokens;
    }
    const waiting = stats?.waiting ?? 0;
    const used = stats === undefined ? Math.ceil(ownTokens / this.#options.blockSize) : stats.usedBlocks;
    const usedBlocks = Math.min(totalBlocks, used);
    return {
      running: this.#running.size === 0 && stats === undefined ? 0 : Math.max(stats?.running ?? 0, this.#running.size - waiting),
      waiting,
      prefillTokens,
      usedBlocks,
      freeBlocks: totalBlocks - usedBlocks,
      totalBlocks,
      preemptions: stats?.paused ?? 0,
    };
  }

  onKvEvent(listener: (event: KvEvent) => void): void {
    this.#follower?.listen(listener);
  }

  snapshot(): readonly KvEvent[] {
    return this.#follower?.snapshot() ?? [];
  }

  /** It has ended, does not answer /health, or makes no tokens. */
  failure(): ErrorData | undefined {
    return this.#options.process?.problem ?? this.#watch.failure ?? this.#canary.failure;
  }

  async drain(deadlineMs: number): Promise<void> {
    this.#isDraining = true;
    if (this.#running.size === 0) return;
    const { clock } = this.#options;
    await new Promise<void>((resolve) => {
      const timer = clock.setTimer(deadlineMs, resolve);
      this.#onIdle = () => {
        clock.clearTimer(timer);
        resolve();
      };
    });
    this.#onIdle = undefined;
  }

  async close(): Promise<void> {
    this.#watch.close();
    this.#canary.close();
    this.#follower?.close();
    for (const running of [...this.#running]) running.stop({ type: 'failed', error: closedError });
    this.#http.close();
    await this.#options.process?.stop();
  }

  #refusalOf(request: EngineRequest): ErrorData | undefined {
    const { config } = this.#options;
    const info = this.#info;
    if (this.#watch.isClosed) return closedError;
    if (this.#isDraining) return drainingError;
    if (info === undefined) return notStarted;
    if (this.#running.size >= config.maxInFlight) return overloaded(config.maxInFlight);
    return requestProblem(request, {
      vocabSize: info.vocabSize,
      maxModelTokens: info.maxModelTokens,
      maxTopLogprobs: this.abilities.maxTopLogprobs,
      adapters: info.adapters ?? [],
      sendCacheSalt: config.sendCacheSalt,
    });
  }

  /** One token, as any client would ask for it: no whole block, so that nobody's cache is disturbed. */
  async #askForToken(signal: AbortSignal): Promise<void> {
    const body = stringifyJson({ model: this.#model, prompt: [1], max_tokens: 1, stream: false, detokenize: false, temperature: 0 });
    const response = await this.#http.post('/v1/completions', body, signal);
    const text = await response.text();
    if (!response.ok) throw new Error(`status ${response.status}: ${text.slice(0, 200)}`);
  }
}

/** `{"version": "1.2.0"}`, or the text itself. */
function versionIn(text: string): string {
  try {
    const version = objectOf(parseJson(text))?.['version'];
    return typeof version === 'string' ? version : '';
  } catch {
    return text;
  }
}
