import type { EngineRequest } from '@armature/contracts';
import type { AdapterConfig } from './config.ts';
import { objectOf, parseJson, stringifyJson } from './lossless-json.ts';
import type { JsonValue } from './lossless-json.ts';
import { failed, streamInvalid } from './problems.ts';

/** Body of `POST /v1/completions` of `trtllm-serve`, tokens in, tokens out. Exactly the fields of its `CompletionRequest`, which refuses others. */
export interface CompletionCall {
  readonly model: string;
  readonly request: EngineRequest;
  /** Each choice is a request of its own: a stream of several choices repeats tokens, and a handed-over context serves one. */
  readonly choice: number;
  readonly maxModelTokens: number;
  readonly adapter: AdapterConfig | undefined;
  readonly sendPriority: boolean;
  readonly disaggregatedParams: JsonValue | undefined;
}

/** The request's JSON text. A context leg is never streamed and samples one token. */
export function completionBody(call: CompletionCall): string {
  const { request, choice, adapter } = call;
  const { sampling, stop } = request;
  const isContext = request.leg === 'prefill';
  const maxTokens = isContext ? 1 : maxNewTokens(request, call.maxModelTokens);
  const minTokens = Math.min(maxTokens, Math.max(0, stop.minTokens - generatedBefore(request)));
  return stringifyJson({
    model: call.model,
    prompt: [...request.tokenIds],
    max_tokens: maxTokens,
    stream: !isContext,
    ...(isContext ? {} : { stream_options: { include_usage: true } }),
    // Token ids are only given out in place of text.
    detokenize: false,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    ...(sampling.topK > 0 ? { top_k: sampling.topK } : {}),
    ...(sampling.minP > 0 ? { min_p: sampling.minP } : {}),
    seed: seedOf(request, choice),
    ...(sampling.frequencyPenalty === 0 ? {} : { frequency_penalty: sampling.frequencyPenalty }),
    ...(sampling.presencePenalty === 0 ? {} : { presence_penalty: sampling.presencePenalty }),
    ...(sampling.repetitionPenalty === 1 ? {} : { repetition_penalty: sampling.repetitionPenalty }),
    // 0 means none there; the chosen token comes with one alternative, which is dropped.
    ...(sampling.topLogprobs < 0 ? {} : { logprobs: Math.max(1, sampling.topLogprobs) }),
    ...(stop.stopTokenIds.length === 0 ? {} : { stop_token_ids: [...stop.stopTokenIds], include_stop_str_in_output: true }),
    ...(sampling.biasTokenIds.length === 0 ? {} : { logit_bias: Object.fromEntries([...sampling.biasTokenIds].map((token, i) => [token, sampling.biasValues[i]])) }),
    ...(minTokens > 0 ? { min_tokens: minTokens } : {}),
    ...(stop.ignoreEos ? { ignore_eos: true } : {}),
    ...(request.cacheSalt === '' ? {} : { cache_salt: request.cacheSalt }),
    ...(adapter === undefined ? {} : { lora_request: { lora_name: adapter.name, lora_int_id: adapter.id, lora_path: adapter.path } }),
    ...(call.sendPriority && request.priority !== 0 ? { priority: priorityOf(request.priority) } : {}),
    ...(call.disaggregatedParams === undefined ? {} : { disaggregated_params: call.disaggregatedParams }),
  });
}

/** Output tokens that came from another engine (migration) count against the limits of the whole request. */
export function generatedBefore(request: EngineRequest): number {
  return request.tokenIds.length - request.promptTokens;
}

export function maxNewTokens(request: EngineRequest, maxModelTokens: number): number {
  return Math.max(1, Math.min(request.stop.maxTokens - generatedBefore(request), maxModelTokens - request.tokenIds.length));
}

/** Unsigned 64 bits, another one for each choice. */
function seedOf({ sampling, firstChoice = 0 }: EngineRequest, choice: number): bigint {
  const base = (BigInt(sampling.seedHi >>> 0) << 32n) | BigInt(sampling.seedLo >>> 0);
  return BigInt.asUintN(64, base + BigInt(firstChoice + choice) * 0x9e3779b97f4a7c15n);
}

/** Ours: any integer, higher first, 0 normal. Theirs: 0 to 1, 0.5 normal. */
function priorityOf(priority: number): number {
  return 0.5 + (0.5 * priority) / (Math.abs(priority) + 10);
}

export interface CompletionChoice {
  readonly tokenIds: readonly number[];
  readonly finishReason: string | undefined;
  readonly stopReason: JsonValue | undefined;
  readonly logprobs: Readonly<Record<string, JsonValue>> | undefined;
  readonly disaggregatedParams: JsonValue | undefined;
}

export interface CompletionUsage {
  readonly cachedTokens: number;
  readonly completionTokens: number | undefined;
}

/** One completion, or one event of a stream. */
export interface CompletionChunk {
  readonly choice: CompletionChoice | undefined;
  readonly usage: CompletionUsage | undefined;
}

const PROXY_HINT = 'is engine.config.baseUrl a trtllm-serve server, without a proxy that changes answers?';

/** An error, or a choice that the engine gave up, is thrown: no request ends as an empty success. Throws `TRTLLM_STREAM_INVALID`, `TRTLLM_FAILED`. */
export function parseChunk(data: string): CompletionChunk {
  let body: ReturnType<typeof objectOf>;
  try {
    body = objectOf(parseJson(data));
  } catch {
    body = undefined;
  }
  if (body === undefined) throw streamInvalid(`the answer brought ${JSON.stringify(data.slice(0, 80))}, which is not a completion`, PROXY_HINT);
  const error = body['error'] ?? (body['object'] === 'error' ? body : undefined);
  if (error !== undefined && error !== null) throw failed(`an error: ${String(objectOf(error)?.['message'] ?? stringifyJson(error))}`);
  const choices = body['choices'];
  if (!Array.isArray(choices) || choices.length > 1) throw streamInvalid(`the answer has ${Array.isArray(choices) ? choices.length : 'no'} choices, one was asked for`, PROXY_HINT);
  const first: unknown = choices[0];
  return { choice: first === undefined ? undefined : choiceOf(first), usage: usageOf(objectOf(body['usage'])) };
}

function choiceOf(value: unknown): CompletionChoice {
  const fields = objectOf(value);
  if (fields === undefined) throw streamInvalid('a choice is no object', PROXY_HINT);
  const { token_ids: ids, finish_reason: reason, text } = fields;
  if (ids !== undefined && ids !== null && !(Array.isArray(ids) && ids.every((id) => typeof id === 'number'))) throw streamInvalid('token_ids is no list of numbers', PROXY_HINT);
  if ((ids === undefined || ids === null) && typeof text === 'string' && text !== '') throw streamInvalid('the server sends text without token_ids', 'TensorRT-LLM 1.0 or newer is needed, and no proxy that drops detokenize: false');
  if (reason === 'cancelled' || reason === 'timeout' || reason === 'error' || reason === 'abort') throw failed(`"${reason}"`);
  return {
    tokenIds: (ids ?? []) as readonly number[],
    finishReason: typeof reason === 'string' ? reason : undefined,
    stopReason: fields['stop_reason'],
    logprobs: objectOf(fields['logprobs']),
    disaggregatedParams: fields['disaggregated_params'],
  };
}

function usageOf(usage: ReturnType<typeof objectOf>): CompletionUsage | undefined {
  if (usage === undefined) return undefined;
  const cached = objectOf(usage['prompt_tokens_details'])?.['cached_tokens'];
  const completion = usage['completion_tokens'];
  return { cachedTokens: typeof cached === 'number' && cached > 0 ? cached : 0, completionTokens: typeof completion === 'number' ? completion : undefined };
}
