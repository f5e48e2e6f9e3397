import { ArmatureError } from '@armature/contracts';
import type { EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, KvEvent } from '@armature/contracts';
import { Canary } from './canary.ts';
import type { VllmConnector } from './connector/index.ts';
import { exchange } from './exchange.ts';
import type { ExchangeOptions } from './exchange.ts';
import { EVENTS_HINT } from './kv-events/kv-events.ts';
import { closedError, drainingError, MAX_TOP_LOGPROBS, notStartedError, requestProblem } from './problems.ts';
import { checkRanks, ONLY_RANK, rankHeaders } from './ranks.ts';
import type { RankPlace } from './ranks.ts';
import { Running } from './running.ts';
import { checkBlockSize, errorText, lookAtVersion, modelsIn, silentSources } from './server-facts.ts';
import { ServerWatch } from './server-watch.ts';
import type { VllmOptions } from './vllm-config.ts';
import { VllmHttp } from './vllm-http.ts';

const unknownLimit = 0x7fff_ffff;

/** One vLLM server, or one data-parallel rank of it, over HTTP: token ids in, token ids out, abort by closing the connection. */
export class VllmBackend implements EngineBackend {
  readonly abilities: EngineAbilities;
  readonly connector?: VllmConnector;
  readonly #options: VllmOptions;
  readonly #place: RankPlace;
  readonly #http: VllmHttp;
  readonly #watch: ServerWatch;
  readonly #running: Set<Running>;
  readonly #canary: Canary;
  #isDraining: boolean;
  #onIdle: (() => void) | undefined;
  #info: EngineInfo | undefined;
  #exchange: ExchangeOptions | undefined;

  constructor(options: VllmOptions) {
    const { clock, log, config, events, place = ONLY_RANK } = options;
    this.#options = options;
    this.#place = place;
    this.abilities = { roles: ['both', 'prefill', 'decode'], roleChange: 'none', firstToken: 'decode', legs: 'sequential', kvEvents: events !== undefined, maxTopLogprobs: MAX_TOP_LOGPROBS, responseFormats: ['json_object', 'json_schema'] };
    if (options.connector !== undefined) this.connector = options.connector;
    this.#http = new VllmHttp(config.baseUrl, config.apiKey, clock, rankHeaders(place));
    this.#watch = new ServerWatch({
      http: this.#http,
      config,
      engine: place.ranks > 1 ? place.rank : undefined,
      process: options.process,
      clock,
      log,
      recovered: () => events?.resync('the engine was away'),
    });
    this.#running = new Set();
    this.#canary = new Canary({ intervalMs: config.canaryIntervalMs, timeoutMs: config.canaryTimeoutMs, ask: (signal) => this.#askForToken(signal), clock, log });
    this.#isDraining = false;
    this.#onIdle = undefined;
    this.#info = undefined;
    this.#exchange = undefined;
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new ArmatureError('ENGINE_NOT_STARTED', 'the vLLM backend has not been started', { hint: 'await start() first' });
    return this.#info;
  }

  /**
   * Starts the server if it is ours to start, waits until it is healthy, then reads its model and limits.
   * Throws `VLLM_START_FAILED`, `VLLM_PORT_TAKEN`, `VLLM_EVENTS_ENDPOINT`, `VLLM_EVENTS_ADDON_MISSING`, `VLLM_UNREACHABLE`, `VLLM_REFUSED`, `VLLM_ANSWER_INVALID`, `VLLM_MODEL_UNKNOWN`, `VLLM_BLOCK_SIZE_MISMATCH`, `VLLM_RANKS_MISMATCH`, `ENGINE_CLOSED`.
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
    const { config, blockSize, log, process, events } = this.#options;
    await process?.start();
    await this.#watch.waitUntilHealthy();
    process?.served();
    const version = lookAtVersion(await this.#http.get('/version', config.probeTimeoutMs).catch(() => undefined), log);
    const { model, adapters } = modelsIn(await this.#watch.answer('/v1/models'), config);
    const metrics = await this.#watch.readMetrics();
    this.#watch.throwIfClosed();
    checkBlockSize(metrics.blockSize ?? blockSize, blockSize);
    checkRanks(this.#place, { metrics, version, followsEvents: events !== undefined, log });
    await this.connector?.ready(config.startTimeoutMs);
    this.#watch.throwIfClosed();
    const totalBlocks = config.totalBlocks > 0 ? config.totalBlocks : metrics.totalBlocks;
    if (totalBlocks === 0) log.warn('vLLM does not report its number of KV blocks: set engine.config.totalBlocks', { baseUrl: config.baseUrl });
    await this.#openEvents(totalBlocks);
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
    this.#exchange = {
      http: this.#http,
      baseUrl: config.baseUrl,
      sendPriority: config.sendPriority,
      model: model.id,
      maxModelTokens: this.#info.maxModelTokens,
      log,
      heard: () => this.#canary.heard(),
      computed: (tokens) => events?.computed(Math.floor(tokens / blockSize)),
    };
    this.#watch.follow();
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
    this.#watch.throwIfClosed();
    // Since 0.2x; others do not know the route. Not fatal: a proxy may hide it.
    const sources = await this.#http.get('/kv_event_sources', config.probeTimeoutMs).catch(() => undefined);
    if (silentSources(sources, this.#place.rank)) log.warn('vLLM has its KV events off: the router sees no cache of this worker', { code: 'VLLM_EVENTS_SILENT', hint: EVENTS_HINT });
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const { clock, log, config } = this.#options;
    const running = new Running(sink, clock, log, config.idleTimeoutMs);
    const refusal = this.#refusalOf(request);
    if (refusal !== undefined || this.#exchange === undefined) {
      running.end({ type: 'failed', error: refusal ?? notStartedError });
      return running;
    }
    this.#running.add(running);
    running.watch();
    void exchange(request, running, this.#exchange).finally(() => {
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
    const { metrics } = this.#watch;
    const waiting = metrics.sum('vllm:num_requests_waiting') ?? 0;
    const usedBlocks = Math.min(totalBlocks, Math.round((metrics.mean('vllm:kv_cache_usage_perc') ?? 0) * totalBlocks));
    return {
      running: Math.max(metrics.sum('vllm:num_requests_running') ?? 0, this.#running.size - waiting),
      waiting,
      prefillTokens: 0,
      usedBlocks,
      freeBlocks: totalBlocks - usedBlocks,
      totalBlocks,
      preemptions: metrics.sum('vllm:num_preemptions_total') ?? 0,
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
    this.#http.close();
    for (const running of [...this.#running]) running.stop({ type: 'failed', error: closedError });
    this.#canary.close();
    this.#options.events?.close();
    await this.#options.process?.stop();
    await this.connector?.close();
  }

  #refusalOf(request: EngineRequest): ErrorData | undefined {
    if (this.#watch.isClosed) return closedError;
    if (this.#isDraining) return drainingError;
    if (this.#info === undefined) return notStartedError;
    return requestProblem(request, this.#info);
  }

  /** One token, as any client would ask for it: no whole block, so that nobody's cache is disturbed. */
  async #askForToken(signal: AbortSignal): Promise<void> {
    const response = await this.#http.post('/v1/completions', 'canary', { model: this.#exchange?.model, prompt: [1], max_tokens: 1, temperature: 0, stream: false, return_token_ids: true }, signal);
    const text = await response.text();
    if (!response.ok) throw new Error(`status ${response.status}: ${errorText(text)}`);
  }
}
