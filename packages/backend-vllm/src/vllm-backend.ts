import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, InferenceEnd, KvEvent, Logger, Timer, Usage } from '@armature/contracts';
import { SseParser } from './sse.ts';
import { batchOf, completionBody, parseMetrics } from './wire.ts';
import type { CompletionChunk } from './wire.ts';

export interface VllmConfig {
  readonly baseUrl: string;
  readonly model: string;
  readonly apiKey: string;
  readonly totalBlocks: number;
  readonly startTimeoutMs: number;
  readonly probeIntervalMs: number;
  readonly probeTimeoutMs: number;
}

export interface VllmOptions {
  readonly config: VllmConfig;
  /** Block size of the model in our configuration; vLLM's own must be the same where it is known. */
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
}

const RETRY_MS = 250;
const NO_TOKENS = new Int32Array(0);
const unknownVocabulary = 0x7fff_ffff;
const closedError: ErrorData = { code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true };

class Running {
  readonly abort = new AbortController();
  readonly sink: EngineSink;
  hasEnded = false;

  constructor(sink: EngineSink) {
    this.sink = sink;
  }

  end(end: InferenceEnd): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    this.sink.end(end);
  }
}

/** Attaches to a running `vllm serve` over HTTP: token ids in, token ids out, abort by closing the connection. */
export class VllmBackend implements EngineBackend {
  readonly abilities: EngineAbilities = { roles: ['both', 'prefill', 'decode'], roleChange: 'none', firstToken: 'decode', legs: 'sequential', kvEvents: false, maxTopLogprobs: 20 };
  readonly #options: VllmOptions;
  readonly #running = new Set<Running>();
  readonly #closing = new AbortController();
  #info: EngineInfo | undefined;
  #model: string;
  #metrics: ReadonlyMap<string, number> = new Map();
  #failure: ErrorData | undefined;
  #probeTimer: Timer | undefined = undefined;

  constructor(options: VllmOptions) {
    this.#options = options;
    this.#model = options.config.model;
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new ArmatureError('ENGINE_NOT_STARTED', 'the vLLM backend has not been started');
    return this.#info;
  }

  /** Waits until the server is healthy, then reads its model and limits. Throws `VLLM_UNREACHABLE`, `VLLM_MODEL_UNKNOWN`, `VLLM_BLOCK_SIZE_MISMATCH`. */
  async start(): Promise<void> {
    const { config, blockSize } = this.#options;
    await this.#waitUntilHealthy();
    const { data } = (await this.#json('/v1/models')) as { data: { id: string; max_model_len?: number; root?: string }[] };
    const model = config.model === '' ? data[0] : data.find((entry) => entry.id === config.model);
    if (model === undefined) {
      throw new ArmatureError('VLLM_MODEL_UNKNOWN', `vLLM at ${config.baseUrl} does not serve "${config.model}"`, { hint: `it serves: ${data.map((entry) => entry.id).join(', ') || 'nothing'}` });
    }
    this.#model = model.id;
    const { cacheConfig } = await this.#readMetrics();
    const found = Number(cacheConfig.get('block_size') ?? blockSize);
    if (found !== blockSize) {
      throw new ArmatureError('VLLM_BLOCK_SIZE_MISMATCH', `vLLM uses blocks of ${found} tokens, the configuration says ${blockSize}`, { hint: `set models[].blockSize: ${found}, or start vLLM with --block-size ${blockSize}` });
    }
    const totalBlocks = config.totalBlocks > 0 ? config.totalBlocks : Number(cacheConfig.get('num_gpu_blocks') ?? 0);
    this.#info = {
      modelFingerprint: `vllm/${model.root ?? model.id}`,
      vocabSize: unknownVocabulary,
      maxModelTokens: model.max_model_len ?? unknownVocabulary,
      blockSize,
      totalBlocks,
      maxSequences: 256,
      maxBatchedTokens: 8192,
    };
    this.#scheduleProbe();
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const running = new Running(sink);
    if (this.#closing.signal.aborted) {
      running.end({ type: 'failed', error: closedError });
      return running;
    }
    this.#running.add(running);
    void this.#run(request, running).finally(() => this.#running.delete(running));
    return running;
  }

  cancel(handle: EngineHandle): void {
    const running = handle as Running;
    running.abort.abort();
    running.end({ type: 'cancelled' });
  }

  /** As of the last probe. */
  load(): EngineLoad {
    const totalBlocks = this.#info?.totalBlocks ?? 0;
    const usedBlocks = Math.min(totalBlocks, Math.round((this.#metrics.get('vllm:kv_cache_usage_perc') ?? 0) * totalBlocks));
    return {
      running: this.#metrics.get('vllm:num_requests_running') ?? this.#running.size,
      waiting: this.#metrics.get('vllm:num_requests_waiting') ?? 0,
      prefillTokens: 0,
      usedBlocks,
      freeBlocks: totalBlocks - usedBlocks,
      totalBlocks,
      preemptions: this.#metrics.get('vllm:num_preemptions_total') ?? 0,
    };
  }

  onKvEvent(_listener: (event: KvEvent) => void): void {
    // abilities.kvEvents is false: nothing to listen to yet.
  }

  snapshot(): readonly KvEvent[] {
    return [];
  }

  /** What the last probe of /health found. */
  failure(): ErrorData | undefined {
    return this.#failure;
  }

  async close(): Promise<void> {
    this.#closing.abort(new ArmatureError(closedError.code, closedError.message));
    if (this.#probeTimer !== undefined) this.#options.clock.clearTimer(this.#probeTimer);
    this.#probeTimer = undefined;
    for (const running of [...this.#running]) {
      running.abort.abort();
      running.end({ type: 'failed', error: closedError });
    }
  }

  async #run(request: EngineRequest, running: Running): Promise<void> {
    try {
      const response = await this.#post(request, running.abort.signal);
      if (request.leg === 'prefill') await this.#prefill(request, running, response);
      else await this.#stream(request, running, response);
    } catch (error) {
      if (running.hasEnded) return;
      const failure = ArmatureError.is(error)
        ? error.toData()
        : { code: 'VLLM_UNREACHABLE', message: `vLLM at ${this.#options.config.baseUrl} broke off: ${reasonOf(error)}`, retryable: true };
      running.end({ type: 'failed', error: failure });
    }
  }

  async #post(request: EngineRequest, signal: AbortSignal): Promise<Response> {
    const { config } = this.#options;
    const body = JSON.stringify(completionBody(this.#model, request));
    const response = await fetch(`${config.baseUrl}/v1/completions`, { method: 'POST', headers: this.#headers({ 'content-type': 'application/json', 'x-request-id': request.id }), body, signal });
    if (response.ok) return response;
    const found = (await response.json().catch(() => undefined)) as { error?: { message?: string }; message?: string } | undefined;
    throw new ArmatureError('VLLM_REFUSED', `vLLM answered ${response.status}: ${found?.error?.message ?? found?.message ?? 'no reason given'}`, {
      retryable: response.status >= 500 || response.status === 429,
      hint: 'see the log of the vLLM server',
    });
  }

  async #prefill(request: EngineRequest, running: Running, response: Response): Promise<void> {
    const body = (await response.json()) as CompletionChunk;
    const params = body.kv_transfer_params;
    if (params === null || params === undefined) {
      throw new ArmatureError('VLLM_NO_TRANSFER', 'vLLM returned no kv_transfer_params for a prefill leg', { hint: 'start it with a KV connector: --kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_both"}\'' });
    }
    if (running.hasEnded) return;
    const usage = usageOf(body, request);
    running.sink.prefilled?.({ lease: 0, blocks: NO_TOKENS, tokens: request.promptTokens, cachedTokens: usage.cachedTokens, params });
    // abilities.firstToken is `decode`: the one token vLLM had to sample is nobody's output.
    running.end({ type: 'finished', usage: { ...usage, outputTokens: 0 } });
  }

  async #stream(request: EngineRequest, running: Running, response: Response): Promise<void> {
    let usage: Usage | undefined;
    let isDone = false;
    const parser = new SseParser((data) => {
      if (running.hasEnded || isDone) return;
      if (data === '[DONE]') {
        isDone = true;
        return;
      }
      const chunk = parseChunk(data);
      if (chunk.usage !== null && chunk.usage !== undefined) usage = usageOf(chunk, request);
      const batch = batchOf(chunk, request);
      if (batch !== undefined) running.sink.tokens(batch);
    });
    // Leaving the loop cancels the body, and with it the request if the server still works on it.
    for await (const bytes of response.body ?? []) {
      parser.push(bytes as Uint8Array);
      if (running.hasEnded) return;
      if (isDone) break;
    }
    if (!isDone) throw new ArmatureError('VLLM_STREAM_TRUNCATED', 'the stream ended before [DONE]', { retryable: true, hint: 'the vLLM server or a proxy before it went away' });
    running.end({ type: 'finished', usage: usage ?? { promptTokens: request.promptTokens, cachedTokens: 0, outputTokens: 0 } });
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
      const response = await this.#get('/health');
      if (!response.ok) throw new Error(`status ${response.status}`);
      await response.arrayBuffer();
      if (this.#failure !== undefined) log.info('vLLM is healthy again', { baseUrl: config.baseUrl });
      this.#failure = undefined;
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#failure = { code: 'VLLM_UNREACHABLE', message: `vLLM at ${config.baseUrl} is not healthy (${reasonOf(error)})`, hint: 'see the log of the vLLM server', retryable: true };
      return;
    }
    await this.#readMetrics().catch((error: unknown) => log.debug('vLLM metrics not read', { error: String(error) }));
  }

  /** Ends with the backend, and after probeTimeoutMs. */
  async #get(path: string): Promise<Response> {
    const { config, clock } = this.#options;
    const abort = new AbortController();
    const timer = clock.setTimer(config.probeTimeoutMs, () => abort.abort(new Error(`no answer within ${config.probeTimeoutMs} ms`)));
    try {
      return await fetch(`${config.baseUrl}${path}`, { headers: this.#headers({}), signal: AbortSignal.any([abort.signal, this.#closing.signal]) });
    } finally {
      clock.clearTimer(timer);
    }
  }

  async #waitUntilHealthy(): Promise<void> {
    const { config, clock } = this.#options;
    const deadline = clock.nowMs() + config.startTimeoutMs;
    let last = 'no answer';
    do {
      try {
        const response = await this.#get('/health');
        if (response.ok) return;
        last = `status ${response.status}`;
      } catch (error) {
        last = reasonOf(error);
      }
      if (clock.nowMs() < deadline) await clock.sleep(Math.min(RETRY_MS, config.startTimeoutMs), this.#closing.signal);
    } while (clock.nowMs() < deadline);
    throw new ArmatureError('VLLM_UNREACHABLE', `vLLM at ${config.baseUrl} is not healthy after ${config.startTimeoutMs} ms (${last})`, { hint: 'start it with `vllm serve MODEL`, or correct engine.config.baseUrl' });
  }

  async #readMetrics(): Promise<ReturnType<typeof parseMetrics>> {
    const response = await this.#get('/metrics');
    const parsed = parseMetrics(response.ok ? await response.text() : '');
    this.#metrics = parsed.values;
    return parsed;
  }

  async #json(path: string): Promise<unknown> {
    const response = await this.#get(path);
    if (!response.ok) throw new ArmatureError('VLLM_REFUSED', `vLLM answered ${response.status} to ${path}`, { hint: 'does it need engine.config.apiKey?' });
    return response.json();
  }

  #headers(more: Record<string, string>): Record<string, string> {
    const { apiKey } = this.#options.config;
    return apiKey === '' ? more : { ...more, authorization: `Bearer ${apiKey}` };
  }
}

function usageOf(chunk: CompletionChunk, request: EngineRequest): Usage {
  return {
    promptTokens: chunk.usage?.prompt_tokens ?? request.promptTokens,
    cachedTokens: chunk.usage?.prompt_tokens_details?.cached_tokens ?? 0,
    outputTokens: chunk.usage?.completion_tokens ?? 0,
  };
}

/** One event of the stream. An error event, or a choice that vLLM gave up, ends the request: no request ends as an empty success. */
function parseChunk(data: string): CompletionChunk {
  let chunk: CompletionChunk;
  try {
    chunk = JSON.parse(data) as CompletionChunk;
  } catch (error) {
    throw new ArmatureError('VLLM_STREAM_INVALID', `the stream brought ${data.slice(0, 80)}, which is not JSON`, { retryable: true, cause: error });
  }
  if (chunk.error !== undefined) throw new ArmatureError('VLLM_FAILED', chunk.error.message ?? 'vLLM reported an error in the stream', { retryable: true });
  const given = chunk.choices?.find(({ finish_reason: reason }) => reason === 'abort' || reason === 'error');
  if (given !== undefined) throw new ArmatureError('VLLM_FAILED', `vLLM gave the request up (${given.finish_reason})`, { retryable: true });
  return chunk;
}

function reasonOf(error: unknown): string {
  const { cause, message } = error as Error & { cause?: { code?: string } };
  return cause?.code ?? message;
}
