import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, InferenceEnd, KvEvent, Logger, Usage } from '@armature/contracts';
import { SseParser } from './sse.ts';
import { batchOf, completionBody, parseMetrics } from './wire.ts';
import type { CompletionChunk } from './wire.ts';

export interface VllmConfig {
  readonly baseUrl: string;
  readonly model: string;
  readonly apiKey: string;
  readonly totalBlocks: number;
  readonly startTimeoutMs: number;
}

export interface VllmOptions {
  readonly config: VllmConfig;
  /** Block size of the model in our configuration; vLLM's own must be the same where it is known. */
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
}

const RETRY_MS = 250;
const METRICS_AGE_MS = 1_000;
const NO_TOKENS = new Int32Array(0);
const unknownVocabulary = 0x7fff_ffff;

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
  #metricsAtMs = -Infinity;
  #failure: ErrorData | undefined;

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
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const running = new Running(sink);
    this.#running.add(running);
    void this.#run(request, running).finally(() => this.#running.delete(running));
    return running;
  }

  cancel(handle: EngineHandle): void {
    const running = handle as Running;
    running.abort.abort();
    running.end({ type: 'cancelled' });
  }

  load(): EngineLoad {
    const { clock } = this.#options;
    if (clock.nowMs() - this.#metricsAtMs > METRICS_AGE_MS) {
      this.#metricsAtMs = clock.nowMs();
      this.#readMetrics().catch((error: unknown) => this.#options.log.debug('vLLM metrics not read', { error: String(error) }));
    }
    const totalBlocks = this.#info?.totalBlocks ?? 0;
    const usedBlocks = Math.round((this.#metrics.get('vllm:kv_cache_usage_perc') ?? 0) * totalBlocks);
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

  failure(): ErrorData | undefined {
    return this.#failure;
  }

  async close(): Promise<void> {
    this.#closing.abort();
    for (const running of [...this.#running]) {
      running.abort.abort();
      running.end({ type: 'failed', error: { code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true } });
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
        : { code: 'VLLM_UNREACHABLE', message: `vLLM at ${this.#options.config.baseUrl} broke off: ${(error as Error).message}`, retryable: true };
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
    const batch = batchOf(body, request);
    if (batch !== undefined) running.sink.tokens(batch);
    running.end({ type: 'finished', usage });
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
      const chunk = JSON.parse(data) as CompletionChunk;
      if (chunk.error !== undefined) throw new ArmatureError('VLLM_FAILED', chunk.error.message ?? 'vLLM reported an error in the stream', { retryable: true });
      if (chunk.usage !== null && chunk.usage !== undefined) usage = usageOf(chunk, request);
      const batch = batchOf(chunk, request);
      if (batch !== undefined) running.sink.tokens(batch);
    });
    for await (const bytes of response.body ?? []) {
      parser.push(bytes as Uint8Array);
      if (running.hasEnded) return;
    }
    if (!isDone) throw new ArmatureError('VLLM_STREAM_TRUNCATED', 'the stream ended before [DONE]', { retryable: true, hint: 'the vLLM server or a proxy before it went away' });
    running.end({ type: 'finished', usage: usage ?? { promptTokens: request.promptTokens, cachedTokens: 0, outputTokens: 0 } });
  }

  async #waitUntilHealthy(): Promise<void> {
    const { config, clock } = this.#options;
    const deadline = clock.nowMs() + config.startTimeoutMs;
    let last = 'no answer';
    do {
      try {
        const response = await fetch(`${config.baseUrl}/health`, { headers: this.#headers({}), signal: this.#closing.signal });
        if (response.ok) return;
        last = `status ${response.status}`;
      } catch (error) {
        last = (error as Error & { cause?: { code?: string } }).cause?.code ?? (error as Error).message;
      }
      if (clock.nowMs() < deadline) await clock.sleep(RETRY_MS, this.#closing.signal);
    } while (clock.nowMs() < deadline);
    throw new ArmatureError('VLLM_UNREACHABLE', `vLLM at ${config.baseUrl} is not healthy after ${config.startTimeoutMs} ms (${last})`, { hint: 'start it with `vllm serve MODEL`, or correct engine.config.baseUrl' });
  }

  async #readMetrics(): Promise<ReturnType<typeof parseMetrics>> {
    const response = await fetch(`${this.#options.config.baseUrl}/metrics`, { headers: this.#headers({}), signal: this.#closing.signal });
    const parsed = parseMetrics(response.ok ? await response.text() : '');
    this.#metrics = parsed.values;
    return parsed;
  }

  async #json(path: string): Promise<unknown> {
    const response = await fetch(`${this.#options.config.baseUrl}${path}`, { headers: this.#headers({}), signal: this.#closing.signal });
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
