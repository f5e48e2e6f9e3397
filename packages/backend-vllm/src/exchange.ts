import { ArmatureError } from '@armature/contracts';
import type { EngineRequest, Logger, Usage } from '@armature/contracts';
import { Output } from './output.ts';
import type { Running } from './running.ts';
import { errorText } from './server-facts.ts';
import { SseParser } from './sse.ts';
import { reasonOf } from './vllm-http.ts';
import type { VllmHttp } from './vllm-http.ts';
import { completionBody, isWorthRetrying, parseChunk } from './wire.ts';
import type { CompletionChunk } from './wire.ts';

export interface ExchangeOptions {
  readonly http: VllmHttp;
  readonly baseUrl: string;
  readonly sendPriority: boolean;
  /** Served name of the model. */
  readonly model: string;
  readonly maxModelTokens: number;
  readonly log: Logger;
  /** The engine made a token. */
  readonly heard: () => void;
  /** The engine has computed so many prompt tokens that were not in its cache. */
  readonly computed: (tokens: number) => void;
}

const NO_TOKENS = new Int32Array(0);

/** One request to vLLM and its answer, told to `running`, which ends with it. Never rejects. */
export async function exchange(request: EngineRequest, running: Running, options: ExchangeOptions): Promise<void> {
  try {
    const fitting = withinContext(request, options.maxModelTokens);
    await ask(fitting, running, options).catch((error: unknown) => askWithoutKv(fitting, running, { error, options }));
  } catch (error) {
    if (running.hasEnded) return;
    const failure = ArmatureError.is(error)
      ? error.toData()
      : { code: 'VLLM_UNREACHABLE', message: `vLLM at ${options.baseUrl} broke off: ${reasonOf(error)}`, hint: 'see the log of the vLLM server', retryable: true };
    running.end({ type: 'failed', error: failure });
  }
}

/** Some releases (0.11) refuse a `max_tokens` that does not fit into the context, others cut it: it ends by `length` either way. */
function withinContext(request: EngineRequest, maxModelTokens: number): EngineRequest {
  const maxTokens = maxModelTokens - request.promptTokens;
  return request.stop.maxTokens <= maxTokens ? request : { ...request, stop: { ...request.stop, maxTokens } };
}

async function ask(request: EngineRequest, running: Running, options: ExchangeOptions): Promise<void> {
  const response = await post(request, running.abort.signal, options);
  if (request.leg === 'prefill') await prefill(request, running, { response, heard: options.heard });
  else await stream(request, running, { response, ...options });
}

/**
 * By default (`kv_load_failure_policy: fail`) vLLM fails a request whose KV does not come, as when the prefill engine died. Nothing is wrong with this engine: while no
 * token is out it computes the prompt itself. Rethrows any other failure.
 */
async function askWithoutKv(request: EngineRequest, running: Running, { error, options }: { readonly error: unknown; readonly options: ExchangeOptions }): Promise<void> {
  if (!ArmatureError.is(error) || error.code !== 'VLLM_FAILED' || !error.retryable) throw error;
  if (request.kvSource?.type !== 'opaque' || running.hasOutput || running.hasEnded) throw error;
  options.log.warn('vLLM failed a request that was to get its KV from a prefill worker: it computes the prompt itself', { request: request.id, reason: error.message });
  await ask({ ...request, kvSource: undefined }, running, options);
}

async function post(request: EngineRequest, signal: AbortSignal, { http, model, sendPriority }: ExchangeOptions): Promise<Response> {
  const response = await http.post('/v1/completions', request.id, completionBody(request.adapter ?? model, request, sendPriority), signal);
  if (response.ok) return response;
  throw new ArmatureError('VLLM_REFUSED', `vLLM answered ${response.status}: ${errorText(await response.text())}`, {
    retryable: isWorthRetrying(response.status),
    hint: 'see the log of the vLLM server',
  });
}

async function prefill(request: EngineRequest, running: Running, { response, heard }: { readonly response: Response; readonly heard: () => void }): Promise<void> {
  const body = parseChunk(await response.text());
  const params = body.kv_transfer_params;
  if (params === null || params === undefined) {
    throw new ArmatureError('VLLM_NO_TRANSFER', 'vLLM returned no kv_transfer_params for a prefill leg', { hint: 'start it with a KV connector: --kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_both"}\'' });
  }
  const usage = usageOf(body, request, 0);
  heard();
  running.prefilled({ lease: 0, blocks: NO_TOKENS, tokens: request.promptTokens, cachedTokens: usage.cachedTokens, params });
  // abilities.firstToken is `decode`: the one token vLLM had to sample is nobody's output.
  running.end({ type: 'finished', usage: { ...usage, outputTokens: 0 } });
}

async function stream(request: EngineRequest, running: Running, { response, maxModelTokens, heard, computed }: ExchangeOptions & { readonly response: Response }): Promise<void> {
  const output = new Output(request, maxModelTokens);
  let last: CompletionChunk = {};
  let isDone = false;
  const finish = (): void => {
    const usage = usageOf(last, request, output.tokens);
    computed(usage.promptTokens - usage.cachedTokens);
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
    heard();
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
