import { ArmatureError, FinishCode } from '@armature/contracts';
import type { EngineRequest } from '@armature/contracts';

/** Body of vLLM's `POST /v1/completions`, token ids in, token ids out. Facts: vLLM 0.32. */
export function completionBody(model: string, request: EngineRequest, sendPriority: boolean): Record<string, unknown> {
  const { sampling, stop } = request;
  return {
    model,
    prompt: [...request.tokenIds],
    ...(request.leg === 'prefill' ? prefillLimits : outputLimits(request)),
    return_token_ids: true,
    return_tokens_as_token_ids: true,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    top_k: sampling.topK,
    min_p: sampling.minP,
    // vLLM takes a signed 64-bit seed; a JSON number keeps 53 bits.
    seed: (sampling.seedHi & 0x1fffff) * 0x1_0000_0000 + (sampling.seedLo >>> 0),
    frequency_penalty: sampling.frequencyPenalty,
    presence_penalty: sampling.presencePenalty,
    repetition_penalty: sampling.repetitionPenalty,
    ...(sampling.biasTokenIds.length === 0 ? {} : { logit_bias: Object.fromEntries([...sampling.biasTokenIds].map((token, i) => [token, sampling.biasValues[i]])) }),
    ...(request.cacheSalt === '' ? {} : { cache_salt: request.cacheSalt }),
    // vLLM: lower is sooner; ours: higher is sooner. Without `--scheduling-policy priority` vLLM refuses any but 0.
    ...(request.priority === 0 || !sendPriority ? {} : { priority: -request.priority }),
    ...(request.leg === 'prefill' ? {} : structuredOutputs(request)),
    ...(stop.stopTokenIds.length === 0 || request.leg === 'prefill' ? {} : { stop_token_ids: [...stop.stopTokenIds] }),
    ...transferParams(request),
  };
}

/**
 * The one token that ends a prefill is nobody's output. It must end by length: after an end-of-sequence or stop token vLLM's connectors
 * free the blocks at once and return no transfer parameters (`request_finished` asks for FINISHED_LENGTH_CAPPED).
 */
const prefillLimits = { stream: false, n: 1, max_tokens: 1, min_tokens: 1, ignore_eos: true };

function outputLimits(request: EngineRequest): Record<string, unknown> {
  const { stop, sampling } = request;
  const maxTokens = maxNewTokens(request);
  return {
    stream: true,
    stream_options: { include_usage: true },
    n: request.choices,
    max_tokens: maxTokens,
    // vLLM refuses min_tokens above max_tokens.
    min_tokens: Math.min(maxTokens, Math.max(0, stop.minTokens - generatedBefore(request))),
    ignore_eos: stop.ignoreEos,
    ...(sampling.topLogprobs < 0 ? {} : { logprobs: sampling.topLogprobs }),
  };
}

/** Output tokens that came from another engine (migration) count against the limits of the whole request. */
function generatedBefore(request: EngineRequest): number {
  return request.tokenIds.length - request.promptTokens;
}

export function maxNewTokens(request: EngineRequest): number {
  return Math.max(1, request.stop.maxTokens - generatedBefore(request));
}

/** In vLLM's own words, which 0.11 to 0.33 heed: `/v1/completions` of 0.11.0 takes `response_format` too, ignores it and answers freely. */
function structuredOutputs({ responseFormat: format }: EngineRequest): Record<string, unknown> {
  if (format === undefined) return {};
  return { structured_outputs: format.type === 'json_object' ? { json_object: true } : { json: JSON.parse(format.schema) as unknown } };
}

function transferParams(request: EngineRequest): Record<string, unknown> {
  if (request.leg === 'prefill') return { kv_transfer_params: { do_remote_decode: true, do_remote_prefill: false } };
  if (request.kvSource?.type === 'opaque') return { kv_transfer_params: request.kvSource.params };
  return {};
}

export interface ChunkChoice {
  readonly index?: number;
  readonly text?: string;
  readonly token_ids?: readonly number[] | null;
  readonly finish_reason?: string | null;
  readonly logprobs?: {
    readonly token_logprobs?: readonly (number | null)[];
    readonly top_logprobs?: readonly (Readonly<Record<string, number>> | null)[];
  } | null;
}

interface ErrorBody {
  readonly message?: string;
  readonly code?: unknown;
}

export interface CompletionChunk {
  readonly object?: string;
  readonly message?: string;
  readonly code?: unknown;
  readonly choices?: readonly ChunkChoice[];
  readonly usage?: { readonly prompt_tokens?: number; readonly completion_tokens?: number; readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null } | null;
  readonly kv_transfer_params?: Readonly<Record<string, unknown>> | null;
  readonly error?: ErrorBody;
}

/**
 * One completion, or one event of a stream. An error, or a choice that vLLM gave up, is thrown: no request ends as an empty success.
 * Throws `VLLM_STREAM_INVALID`, `VLLM_FAILED`, `ENGINE_REQUEST_UNSUPPORTED`.
 */
export function parseChunk(data: string): CompletionChunk {
  let chunk: CompletionChunk | null | undefined;
  try {
    chunk = JSON.parse(data) as CompletionChunk | null;
  } catch {
    chunk = undefined;
  }
  if (typeof chunk !== 'object' || chunk === null || !Array.isArray(chunk.choices ?? [])) {
    throw new ArmatureError('VLLM_STREAM_INVALID', `the answer brought ${JSON.stringify(data.slice(0, 80))}, which is not a completion`, { retryable: true, hint: 'is engine.config.baseUrl a vLLM server, without a proxy that changes answers?' });
  }
  const error = chunk.error ?? (chunk.object === 'error' ? chunk : undefined);
  if (error !== undefined) throw errorIn(error);
  const given = chunk.choices?.find(({ finish_reason: reason }) => reason === 'abort' || reason === 'error');
  if (given !== undefined) throw new ArmatureError('VLLM_FAILED', `vLLM gave the request up (${given.finish_reason})`, { retryable: true, hint: 'see the log of the vLLM server' });
  return chunk;
}

/** What vLLM finds wrong with a request (a token beyond the vocabulary, a schema that is no grammar) comes in a stream that began with 200. */
function errorIn({ message = 'an error without a message', code }: ErrorBody): ArmatureError {
  if (!isWorthRetrying(Number(code))) return new ArmatureError('ENGINE_REQUEST_UNSUPPORTED', `vLLM: ${message}`, { hint: 'change the request as vLLM says' });
  return new ArmatureError('VLLM_FAILED', `vLLM: ${message}`, { retryable: true, hint: 'see the log of the vLLM server' });
}

/** The same request may succeed elsewhere or later, unless the status says that the request itself is wrong. */
export function isWorthRetrying(status: number): boolean {
  return !(status >= 400 && status < 500) || status === 408 || status === 429;
}

/** With `return_tokens_as_token_ids` a token is named `token_id:123`. */
export function tokenIdOf(name: string): number {
  const id = Number(name.startsWith('token_id:') ? name.slice(9) : NaN);
  return Number.isInteger(id) ? id : -1;
}

export function finishOf(reason: string | null | undefined): FinishCode {
  if (reason === null || reason === undefined) return FinishCode.None;
  if (reason === 'length') return FinishCode.Length;
  return reason === 'content_filter' ? FinishCode.ContentFilter : FinishCode.Stop;
}
