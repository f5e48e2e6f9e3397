import { ArmatureError, FinishCode } from '@armature/contracts';
import type { EngineRequest, Usage } from '@armature/contracts';
import type { Dialect } from './dialect.ts';

/** What a body is made of, beside the request. */
export interface BodyFacts {
  readonly model: string;
  readonly prompt: readonly number[] | string;
  readonly maxModelTokens: number;
  readonly dialect: Dialect;
}

/** Body of `POST /completions`. Only what is asked for is sent: strict servers answer 400 to fields they do not know. */
export function completionBody(request: EngineRequest, { model, prompt, maxModelTokens, dialect }: BodyFacts): Record<string, unknown> {
  const { sampling, stop } = request;
  const { extensions } = dialect;
  const maxTokens = maxNewTokens(request, maxModelTokens);
  const minTokens = Math.min(maxTokens, Math.max(0, stop.minTokens - generatedBefore(request)));
  return {
    model,
    prompt,
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: maxTokens,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    // 53 bits: what a JSON number keeps of the 64.
    seed: (sampling.seedHi & 0x1fffff) * 0x1_0000_0000 + (sampling.seedLo >>> 0),
    ...(request.choices === 1 ? {} : { n: request.choices }),
    ...(sampling.frequencyPenalty === 0 ? {} : { frequency_penalty: sampling.frequencyPenalty }),
    ...(sampling.presencePenalty === 0 ? {} : { presence_penalty: sampling.presencePenalty }),
    ...(sampling.biasTokenIds.length === 0 ? {} : { logit_bias: Object.fromEntries([...sampling.biasTokenIds].map((token, i) => [token, sampling.biasValues[i]])) }),
    ...logprobFields(request, dialect),
    ...(extensions.has('top_k') ? { top_k: sampling.topK === 0 ? -1 : sampling.topK } : {}),
    ...(sampling.minP === 0 ? {} : { min_p: sampling.minP }),
    // Sent even if neutral, as top_k: the server may have a default of its own.
    ...(extensions.has('repetition_penalty') ? { repetition_penalty: sampling.repetitionPenalty } : {}),
    ...(stop.stopTokenIds.length === 0 ? {} : { stop_token_ids: [...stop.stopTokenIds] }),
    ...(stop.ignoreEos ? { ignore_eos: true } : {}),
    ...(minTokens === 0 ? {} : { min_tokens: minTokens }),
    ...(request.cacheSalt === '' ? {} : { cache_salt: request.cacheSalt }),
  };
}

function logprobFields({ sampling }: EngineRequest, { idsFrom }: Dialect): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  if (sampling.topLogprobs >= 0) fields['logprobs'] = sampling.topLogprobs;
  else if (idsFrom === 'logprobs') fields['logprobs'] = 0;
  if (idsFrom === 'ids') fields['return_token_ids'] = true;
  if (idsFrom !== 'text' && 'logprobs' in fields) fields['return_tokens_as_token_ids'] = true;
  return fields;
}

/** Output tokens that came from another engine (migration) count against the limits of the whole request. */
function generatedBefore(request: EngineRequest): number {
  return request.tokenIds.length - request.promptTokens;
}

/** Within the context, too: servers refuse requests that could leave it. */
export function maxNewTokens(request: EngineRequest, maxModelTokens: number): number {
  return Math.max(1, Math.min(request.stop.maxTokens - generatedBefore(request), maxModelTokens - request.tokenIds.length));
}

export interface ChunkLogprobs {
  readonly tokens?: readonly string[];
  readonly token_logprobs?: readonly (number | null)[];
  readonly top_logprobs?: readonly (Readonly<Record<string, number>> | null)[] | null;
}

export interface ChunkChoice {
  readonly index?: number;
  readonly text?: string | null;
  readonly token_ids?: readonly number[] | null;
  readonly finish_reason?: string | null;
  /** vLLM: the stop token, when one ended the choice. */
  readonly stop_reason?: unknown;
  readonly logprobs?: ChunkLogprobs | null;
}

interface ErrorBody {
  readonly message?: unknown;
  readonly type?: unknown;
  readonly code?: unknown;
}

export interface CompletionChunk {
  readonly object?: unknown;
  readonly choices?: readonly ChunkChoice[] | null;
  readonly usage?: { readonly prompt_tokens?: number; readonly completion_tokens?: number; readonly prompt_tokens_details?: { readonly cached_tokens?: number | null } | null } | null;
  readonly error?: ErrorBody | string | null;
}

/**
 * One completion, or one event of a stream. An error, or a choice that the server gave up, is thrown: no request ends as an empty success.
 * Throws `OPENAI_STREAM_INVALID`, `OPENAI_FAILED`.
 */
export function parseChunk(data: string): CompletionChunk {
  const chunk = jsonObject(data) as CompletionChunk | undefined;
  if (chunk === undefined || !Array.isArray(chunk.choices ?? [])) {
    throw new ArmatureError('OPENAI_STREAM_INVALID', `the answer brought ${JSON.stringify(data.slice(0, 80))}, which is not a completion`, { retryable: true, hint: 'is engine.config.baseUrl an OpenAI-compatible API, without a proxy that changes answers?' });
  }
  const error = chunk.error ?? (chunk.object === 'error' ? (chunk as ErrorBody) : undefined);
  if (error !== undefined && error !== null) {
    throw new ArmatureError('OPENAI_FAILED', `the server said in its answer: ${messageOf(error)}`, { retryable: !isAboutRequest(error), hint: 'see the log of that server' });
  }
  const given = chunk.choices?.find(({ finish_reason: reason }) => reason === 'abort' || reason === 'error');
  if (given !== undefined) throw new ArmatureError('OPENAI_FAILED', `the server gave the request up (${given.finish_reason})`, { retryable: true, hint: 'see the log of that server' });
  return chunk;
}

export function jsonObject(text: string): object | undefined {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

export function messageOf(error: ErrorBody | string): string {
  if (typeof error === 'string') return error.slice(0, 500);
  return typeof error.message === 'string' && error.message !== '' ? error.message.slice(0, 500) : 'an error without a message';
}

function isAboutRequest(error: ErrorBody | string): boolean {
  if (typeof error === 'string') return false;
  const status = Number(error.code);
  return error.type === 'invalid_request_error' || error.type === 'BadRequestError' || (status >= 400 && status < 500 && status !== 408 && status !== 429);
}

export function finishOf(reason: string | null | undefined): FinishCode {
  if (reason === null || reason === undefined || reason === '') return FinishCode.None;
  if (reason === 'length') return FinishCode.Length;
  return reason === 'content_filter' ? FinishCode.ContentFilter : FinishCode.Stop;
}

/** With `return_tokens_as_token_ids` a token is named `token_id:123`; -1: it is not. */
export function tokenIdOf(name: string): number {
  const id = Number(name.startsWith('token_id:') ? name.slice(9) : NaN);
  return Number.isInteger(id) && id >= 0 ? id : -1;
}

/** Prompt tokens are the request's: after a migration the server's prompt holds output too. Without usage, what was delivered counts. */
export function usageOf(usage: CompletionChunk['usage'], request: EngineRequest, delivered: number): Usage {
  return {
    promptTokens: request.promptTokens,
    cachedTokens: Math.max(0, Math.min(request.promptTokens, usage?.prompt_tokens_details?.cached_tokens ?? 0)),
    outputTokens: usage?.completion_tokens ?? delivered,
  };
}
