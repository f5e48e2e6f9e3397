import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, KvEvent, Logger, Timer, Usage } from '@armature/contracts';
import { Canary } from './canary.ts';
import type { VllmConnector } from './connector/index.ts';
import { EVENTS_HINT } from './kv-events/kv-events.ts';
import type { KvEvents, KvEventsConfig } from './kv-events/kv-events.ts';
import { parseMetrics } from './metrics.ts';
import type { VllmMetrics } from './metrics.ts';
import { Output } from './output.ts';
import { Running } from './running.ts';
import type { ServeConfig } from './serve/serve-config.ts';
import type { VllmProcess } from './serve/vllm-process.ts';
import { SseParser } from './sse.ts';
import { reasonOf, VllmHttp } from './vllm-http.ts';
import { errorText, lookAtVersion, modelsIn } from './server-facts.ts';
import { completionBody, isWorthRetrying, parseChunk } from './wire.ts';
import type { CompletionChunk } from './wire.ts';

export interface VllmConfig {
  readonly baseUrl: string;
  /** Path of the connector's socket; empty: none. */
  readonly connector: string;
  readonly model: string;
  readonly apiKey: string;
  readonly totalBlocks: number;
  readonly sendPriority: boolean;
  readonly startTimeoutMs: number;
  readonly probeIntervalMs: number;
  readonly probeTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly canaryIntervalMs: number;
  readonly canaryTimeoutMs: number;
  readonly kvEvents: KvEventsConfig;
  readonly serve: ServeConfig;
}

export interface VllmOptions {
  readonly config: VllmConfig;
  /** Block size of the model in our configuration; vLLM's own must be the same where it is known. */
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** Our side of its KV connector; closed with the backend. */
  readonly connector?: VllmConnector;
  /** Follower of its KV events; opened and closed with the backend. */
  readonly events?: KvEvents;
  /** The server, when we start it; ended with the backend. */
  readonly process?: VllmProcess;
}

const RETRY_MS = 250;
const NO_TOKENS = new Int32Array(0);
const unknownLimit = 0x7fff_ffff;
const closedError: ErrorData = { code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true };

/** Attaches to a running `vllm serve` over HTTP: token ids in, token ids out, abort by closing the connection. */
export class VllmBackend implements EngineBackend {
  readonly abilities: EngineAbilities;
  readonly connector?: VllmConnector;
  readonly #options: VllmOptions;
  readonly #http: VllmHttp;
  readonly #running: Set<Running>;
  readonly #closing: AbortController;
  readonly #canary: Canary;
  #isDraining: boolean;
  #onIdle: (() => void) | undefined;
  #info: EngineInfo | undefined;
  #model: string;
  #metrics: VllmMetrics;
  #failure: ErrorData | undefined;
  #probeTimer: Timer | undefined;

  constructor(options: VllmOptions) {
    this.#options = options;
    this.abilities = { roles: ['both', 'prefill', 'decode'], roleChange: 'none', firstToken: 'decode', legs: 'sequential', kvEvents: options.events !== undefined, maxTopLogprobs: 20 };
    if (options.connector !== undefined) this.connector = options.connector;
    this.#http = new VllmHttp(options.config.baseUrl, options.config.apiKey, options.clock);
    this.#running = new Set();
    this.#closing = new AbortController();
    const { clock, log, config } = options;
    this.#canary = new Canary({ intervalMs: config.canaryIntervalMs, timeoutMs: config.canaryTimeoutMs, ask: (signal) => this.#askForToken(signal), clock, log });
    this.#isDraining = false;
    this.#onIdle = undefined;
    this.#info = undefined;
    this.#model = options.config.model;
    this.#metrics = parseMetrics('');
    this.#failure = undefined;
    this.#probeTimer = undefined;
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new ArmatureError('ENGINE_NOT_STARTED', 'the vLLM backend has not been started', { hint: 'await start() first' });
    return this.#info;
  }

  /**
   * Starts the server if it is ours to start, waits until it is healthy, then reads its model and limits.
   * Throws `VLLM_START_FAILED`, `VLLM_PORT_TAKEN`, `VLLM_EVENTS_ENDPOINT`, `VLLM_EVENTS_ADDON_MISSING`, `VLLM_UNREACHABLE`, `VLLM_REFUSED`, `VLLM_ANSWER_INVALID`, `VLLM_MODEL_UNKNOWN`, `VLLM_BLOCK_SIZE_MISMATCH`, `ENGINE_CLOSED`.
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
    const { config, blockSize, log, process } = this.#options;
    await process?.start();
    await this.#waitUntilHealthy();
    process?.served();
    lookAtVersion(await this.#http.get('/version', config.probeTimeoutMs).catch(() => undefined), log);
    const { model, adapters } = modelsIn(await this.#answer('/v1/models'), config);
    this.#metrics = parseMetrics((await this.#answer('/metrics')).text);
    this.#throwIfClosed();
    const found = this.#metrics.blockSize ?? blockSize;
    if (found !== blockSize) {
      throw new ArmatureError('VLLM_BLOCK_SIZE_MISMATCH', `vLLM uses blocks of ${found} tokens, the configuration says ${blockSize}`, { hint: `set models[].blockSize: ${found}, or start vLLM with --block-size ${blockSize}` });
    }
    await this.connector?.ready(config.startTimeoutMs);
    this.#throwIfClosed();
    const totalBlocks = config.totalBlocks > 0 ? config.totalBlocks : this.#metrics.totalBlocks;
    if (totalBlocks === 0) log.warn('vLLM does not report its number of KV blocks: set engine.config.totalBlocks', { baseUrl: config.baseUrl });
    await this.#openEvents(totalBlocks);
    this.#model = model.id;
    this.#info = {
      modelFingerprint: `vllm/${model.root ?? model.id}`,
      vocabSize: unknownLimit,
      maxModelTokens: model.max_model_len ?? unknownLimit,
      blockSize,
      totalBlocks,
      maxSequences: 256,
      maxBatchedTokens: 8192,
      ...(adapters.length === 0 ? {} : { adapters }),
    };
    this.#scheduleProbe();
    this.#canary.start();
  }

  async #openEvents(totalBlocks: number): Promise<void> {
    const { events, log, config } = this.#options;
    if (events === undefined) {
      log.info('KV events are not followed: the router credits this worker no overlap', { hint: `${EVENTS_HINT}, and set engine.config.kvEvents.endpoint` });
      return;
    }
    events.setTotalBlocks(totalBlocks);
    await events.open();
    this.#throwIfClosed();
    const sources = await this.#http.get('/kv_event_sources', config.probeTimeoutMs).catch(() => undefined);
    // Since 0.2x; others do not know the route. Not fatal: a proxy may hide it.
    if (sources?.ok === true && sources.text.trim() === '{}') log.warn('vLLM has its KV events off: the router sees no cache of this worker', { code: 'VLLM_EVENTS_SILENT', hint: EVENTS_HINT });
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const { clock, log, config } = this.#options;
    const running = new Running(sink, clock, log, config.idleTimeoutMs);
    const refusal = this.#refusalOf(request);
    if (refusal !== undefined) {
      running.end({ type: 'failed', error: refusal });
      return running;
    }
    this.#running.add(running);
    running.watch();
    void this.#run(request, running).finally(() => {
      running.unwatch();
      this.#running.delete(running);
      if (this.#running.size === 0) this.#onIdle?.();
    });
    return running;
  }

  cancel(handle: EngineHandle): void {
    (handle as Running).stop({ type: 'cancelled' });
  }

  /** As of the last probe; requests sent since then are counted as running. */
  load(): EngineLoad {
    const totalBlocks = this.#info?.totalBlocks ?? 0;
    const waiting = this.#metrics.sum('vllm:num_requests_waiting') ?? 0;
    const usedBlocks = Math.min(totalBlocks, Math.round((this.#metrics.mean('vllm:kv_cache_usage_perc') ?? 0) * totalBlocks));
    return {
      running: Math.max(this.#metrics.sum('vllm:num_requests_running') ?? 0, this.#running.size - waiting),
      waiting,
      prefillTokens: 0,
      usedBlocks,
      freeBlocks: totalBlocks - usedBlocks,
      totalBlocks,
      preemptions: this.#metrics.sum('vllm:num_preemptions_total') ?? 0,
    };
  }

  onKvEvent(listener: (event: KvEvent) => void): void {
    this.#options.events?.listen(listener);
  }

  snapshot(): readonly KvEvent[] {
    return this.#options.events?.snapshot() ?? [];
  }

  /** It has ended, does not answer /health, or makes no tokens. */
  failure(): ErrorData | undefined {
    return this.#options.process?.problem ?? this.#failure ?? this.#canary.failure;
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
    this.#closing.abort(new ArmatureError(closedError.code, closedError.message));
    this.#http.close();
    if (this.#probeTimer !== undefined) this.#options.clock.clearTimer(this.#probeTimer);
    this.#probeTimer = undefined;
    for (const running of [...this.#running]) running.stop({ type: 'failed', error: closedError });
    this.#canary.close();
    this.#options.events?.close();
    await this.#options.process?.stop();
    await this.connector?.close();
  }

  #refusalOf(request: EngineRequest): ErrorData | undefined {
    if (this.#closing.signal.aborted) return closedError;
    if (this.#isDraining) return { code: 'ENGINE_DRAINING', message: 'the engine takes no new requests', retryable: true };
    if (this.#info === undefined) return { code: 'ENGINE_NOT_STARTED', message: 'the vLLM backend has not been started', hint: 'await start() first' };
    if (request.tokenIds.length === 0) return { code: 'ENGINE_PROMPT_EMPTY', message: 'a request needs prompt tokens' };
    if (request.kvSource?.type === 'reservation') {
      return { code: 'ENGINE_KV_SOURCE_UNSUPPORTED', message: 'vLLM cannot read the blocks of another engine', hint: 'prefill and decode workers must both run vLLM' };
    }
    return undefined;
  }

  /** Never rejects. */
  async #run(request: EngineRequest, running: Running): Promise<void> {
    try {
      const response = await this.#post(request, running.abort.signal);
      if (request.leg === 'prefill') await this.#prefill(request, running, response);
      else await this.#stream(request, running, response);
    } catch (error) {
      if (running.hasEnded) return;
      const failure = ArmatureError.is(error)
        ? error.toData()
        : { code: 'VLLM_UNREACHABLE', message: `vLLM at ${this.#options.config.baseUrl} broke off: ${reasonOf(error)}`, hint: 'see the log of the vLLM server', retryable: true };
      running.end({ type: 'failed', error: failure });
    }
  }

  async #post(request: EngineRequest, signal: AbortSignal): Promise<Response> {
    const response = await this.#http.post('/v1/completions', request.id, completionBody(request.adapter ?? this.#model, request, this.#options.config.sendPriority), signal);
    if (response.ok) return response;
    throw new ArmatureError('VLLM_REFUSED', `vLLM answered ${response.status}: ${errorText(await response.text())}`, {
      retryable: isWorthRetrying(response.status),
      hint: 'see the log of the vLLM server',
    });
  }

  async #prefill(request: EngineRequest, running: Running, response: Response): Promise<void> {
    const body = parseChunk(await response.text());
    const params = body.kv_transfer_params;
    if (params === null || params === undefined) {
      throw new ArmatureError('VLLM_NO_TRANSFER', 'vLLM returned no kv_transfer_params for a prefill leg', { hint: 'start it with a KV connector: --kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_both"}\'' });
    }
    const usage = usageOf(body, request, 0);
    this.#canary.heard();
    running.prefilled({ lease: 0, blocks: NO_TOKENS, tokens: request.promptTokens, cachedTokens: usage.cachedTokens, params });
    // abilities.firstToken is `decode`: the one token vLLM had to sample is nobody's output.
    running.end({ type: 'finished', usage: { ...usage, outputTokens: 0 } });
  }

  async #stream(request: EngineRequest, running: Running, response: Response): Promise<void> {
    const output = new Output(request, this.info.maxModelTokens);
    let last: CompletionChunk = {};
    let isDone = false;
    const finish = (): void => {
      const usage = usageOf(last, request, output.tokens);
      this.#options.events?.computed(Math.floor((usage.promptTokens - usage.cachedTokens) / this.#options.blockSize));
      running.end({ type: 'finished', usage });
    };
    const parser = new SseParser((data) => {
      if (running.hasEnded || isDone) return;
      running.heard();
      if (data === '[DONE]') {
        isDone = true;
        if (!output.isComplete) throw truncated('the stream ended with [DONE], and not every choice has a finish reason');
        finish();
        return;
      }
      const chunk = parseChunk(data);
      if (chunk.usage !== null && chunk.usage !== undefined) last = chunk;
      const batch = output.take(chunk);
      if (batch === undefined) return;
      this.#canary.heard();
      running.tokens(batch);
    });
    try {
      // Read to the end, also after [DONE]: only then can the connection be used again.
      for await (const bytes of response.body ?? []) parser.push(bytes as Uint8Array);
    } catch (error) {
      if (!output.isComplete) throw error;
    }
    if (!output.isComplete) throw truncated('the stream ended before [DONE]');
    // Every choice has had its last token: if not done, only the server's goodbye is missing.
    finish();
  }

  #scheduleProbe(): void {
    if (this.#closing.signal.aborted) return;
    this.#probeTimer = this.#options.clock.setTimer(this.#options.config.probeIntervalMs, () => {
      void this.#probe().finally(() => this.#scheduleProbe());
    });
  }

  /** Never rejects. */
  async #probe(): Promise<void> {
    const { config, log } = this.#options;
    try {
      const { ok, status } = await this.#http.get('/health', config.probeTimeoutMs);
      if (!ok) throw new Error(`status ${status}`);
      this.#options.process?.served();
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      if (this.#failure === undefined) log.warn('vLLM is not healthy', { baseUrl: config.baseUrl, reason: reasonOf(error) });
      this.#failure = { code: 'VLLM_UNREACHABLE', message: `vLLM at ${config.baseUrl} is not healthy (${reasonOf(error)})`, hint: 'see the log of the vLLM server', retryable: true };
      return;
    }
    if (this.#failure !== undefined) {
      log.info('vLLM is healthy again', { baseUrl: config.baseUrl });
      this.#options.events?.resync('the engine was away');
    }
    this.#failure = undefined;
    try {
      const { ok, text } = await this.#http.get('/metrics', config.probeTimeoutMs);
      if (ok) this.#metrics = parseMetrics(text);
    } catch (error) {
      log.debug('vLLM metrics not read', { error: reasonOf(error) });
    }
  }

  async #waitUntilHealthy(): Promise<void> {
    const { config, clock } = this.#options;
    const deadline = clock.nowMs() + config.startTimeoutMs;
    let last = 'no answer';
    for (;;) {
      this.#throwIfClosed();
      const problem = this.#options.process?.problem;
      if (problem !== undefined) throw ArmatureError.fromData(problem);
      const leftMs = deadline - clock.nowMs();
      try {
        const { ok, status } = await this.#http.get('/health', Math.min(config.probeTimeoutMs, Math.max(RETRY_MS, leftMs)));
        if (ok) return;
        last = `status ${status}`;
      } catch (error) {
        last = reasonOf(error);
      }
      this.#throwIfClosed();
      const waitMs = Math.min(RETRY_MS, deadline - clock.nowMs());
      if (waitMs <= 0) break;
      await clock.sleep(waitMs, this.#closing.signal);
    }
    throw new ArmatureError('VLLM_UNREACHABLE', `vLLM at ${config.baseUrl} is not healthy after ${config.startTimeoutMs} ms (${last})`, { hint: 'start it with `vllm serve MODEL`, or correct engine.config.baseUrl' });
  }

  /** One token, as any client would ask for it: no whole block, so that nobody's cache is disturbed. */
  async #askForToken(signal: AbortSignal): Promise<void> {
    const response = await this.#http.post('/v1/completions', 'canary', { model: this.#model, prompt: [1], max_tokens: 1, temperature: 0, stream: false, return_token_ids: true }, signal);
    const text = await response.text();
    if (!response.ok) throw new Error(`status ${response.status}: ${errorText(text)}`);
  }

  /** A GET of the start: what goes wrong has a code. */
  async #answer(path: string): Promise<{ readonly ok: boolean; readonly status: number; readonly text: string }> {
    const { config } = this.#options;
    try {
      return await this.#http.get(path, config.probeTimeoutMs);
    } catch (error) {
      this.#throwIfClosed();
      throw new ArmatureError('VLLM_UNREACHABLE', `${config.baseUrl}${path}: ${reasonOf(error)}`, { hint: 'see the log of the vLLM server', cause: error });
    }
  }

  #throwIfClosed(): void {
    if (this.#closing.signal.aborted) throw new ArmatureError(closedError.code, closedError.message);
  }
}

function truncated(message: string): ArmatureError {
  return new ArmatureError('VLLM_STREAM_TRUNCATED', message, { retryable: true, hint: 'the vLLM server or a proxy before it went away' });
}

/** Prompt tokens are the request's: after a migration vLLM's prompt holds output too. Without usage, what was delivered counts. */
function usageOf(chunk: CompletionChunk, request: EngineRequest, delivered: number): Usage {
  const { usage } = chunk;
  return {
    promptTokens: request.promptTokens,
    cachedTokens: Math.min(request.promptTokens, usage?.prompt_tokens_details?.cached_tokens ?? 0),
    outputTokens: usage?.completion_tokens ?? delivered,
  };
}
