import { ArmatureError } from '@armature/contracts';
import type { EngineRequest, ErrorData } from '@armature/contracts';
import { objectOf, parseJson } from './lossless-json.ts';
import { reasonOf } from './http.ts';

const LOG_HINT = 'see the log of the TensorRT-LLM server';
const MAX_CHOICES = 256; // choice numbers are a byte column

export const closedError: ErrorData = { code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true };
export const notStarted: ErrorData = { code: 'ENGINE_NOT_STARTED', message: 'the TensorRT-LLM backend has not been started', hint: 'await start() first' };

export const drainingError: ErrorData = { code: 'ENGINE_DRAINING', message: 'the engine takes no new requests', retryable: true };

export function overloaded(limit: number): ErrorData {
  return { code: 'ENGINE_OVERLOADED', message: `TensorRT-LLM has ${limit} requests already`, retryable: true, hint: 'add workers, or raise engine.config.maxInFlight' };
}

/** What a status other than 200 means. */
export function refusal(status: number, text: string): ArmatureError {
  const said = `TensorRT-LLM answered ${status}: ${reasonIn(text)}`;
  if (status === 401 || status === 403) return new ArmatureError('TRTLLM_REFUSED', said, { retryable: true, hint: 'check engine.config.apiKey' });
  if (/max_seq_len|max_num_tokens|max_input_len|prompt length/i.test(said)) return new ArmatureError('ENGINE_PROMPT_TOO_LONG', said, { hint: 'shorten the prompt, or raise maxModelTokens and the limits of the server' });
  if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
    return new ArmatureError('ENGINE_REQUEST_UNSUPPORTED', said, { hint: 'a parameter that this version of TensorRT-LLM does not know? See engine.config.version' });
  }
  return new ArmatureError('TRTLLM_REFUSED', said, { retryable: true, hint: LOG_HINT });
}

export function unreachable(baseUrl: string, error: unknown): ArmatureError {
  return new ArmatureError('TRTLLM_UNREACHABLE', `TensorRT-LLM at ${baseUrl}: ${reasonOf(error)}`, { retryable: true, hint: 'start it with `trtllm-serve MODEL`, or correct engine.config.baseUrl', cause: error });
}

export function truncated(message: string): ArmatureError {
  return new ArmatureError('TRTLLM_STREAM_TRUNCATED', message, { retryable: true, hint: 'the server or a proxy before it went away' });
}

export function failed(reason: string): ArmatureError {
  return new ArmatureError('TRTLLM_FAILED', `TensorRT-LLM ended the request with ${reason}`, { retryable: true, hint: LOG_HINT });
}

export function streamInvalid(message: string, hint: string): ArmatureError {
  return new ArmatureError('TRTLLM_STREAM_INVALID', message, { retryable: true, hint });
}

/** `{object: "error", message}` of trtllm-serve, `{error: {message}}` of a stream, `{error: "…"}` or `{detail}` of validation; a proxy may say anything. */
export function reasonIn(text: string): string {
  let body: ReturnType<typeof objectOf>;
  try {
    body = objectOf(parseJson(text));
  } catch {
    body = undefined;
  }
  const inner = body?.['error'];
  for (const found of [objectOf(inner)?.['message'], inner, body?.['message'], body?.['detail']]) if (typeof found === 'string') return found;
  return text === '' ? 'no reason given' : text.slice(0, 300);
}

export interface RequestLimits {
  readonly vocabSize: number;
  readonly maxModelTokens: number;
  readonly maxTopLogprobs: number;
  readonly adapters: readonly string[];
  readonly sendCacheSalt: boolean;
}

/** Why the engine cannot take a request, or undefined: what can be told without asking the server. */
export function requestProblem(request: EngineRequest, limits: RequestLimits): ErrorData | undefined {
  const { tokenIds, promptTokens, choices, stop, sampling, adapter } = request;
  if (tokenIds.length === 0 || promptTokens < 1 || promptTokens > tokenIds.length) return { code: 'ENGINE_PROMPT_EMPTY', message: `a request needs prompt tokens; it has ${tokenIds.length}` };
  if (request.kvSource?.type === 'reservation') return { code: 'ENGINE_KV_SOURCE_UNSUPPORTED', message: 'TensorRT-LLM cannot read the blocks of another engine', hint: 'prefill and decode workers must both run TensorRT-LLM' };
  if (request.leg === 'decode' && request.kvSource === undefined) return { code: 'ENGINE_KV_SOURCE_UNSUPPORTED', message: 'a decode leg without the parameters of a context server', hint: 'prefill and decode workers must both run TensorRT-LLM' };
  if (tokenIds.length >= limits.maxModelTokens) {
    return { code: 'ENGINE_PROMPT_TOO_LONG', message: `the prompt has ${tokenIds.length} tokens; the engine takes at most ${limits.maxModelTokens} with the output`, hint: 'shorten the prompt' };
  }
  if (!Number.isInteger(choices) || choices < 1 || choices > MAX_CHOICES) return { code: 'ENGINE_CHOICES_INVALID', message: `${choices} choices asked for; 1 to ${MAX_CHOICES} are possible` };
  if (!(stop.maxTokens >= 1)) return { code: 'ENGINE_MAX_TOKENS_INVALID', message: `maxTokens is ${stop.maxTokens}; at least 1` };
  if (sampling.topLogprobs > limits.maxTopLogprobs) return { code: 'ENGINE_LOGPROBS_INVALID', message: `${sampling.topLogprobs} top logprobs asked for; at most ${limits.maxTopLogprobs}` };
  if (adapter !== undefined && !limits.adapters.includes(adapter)) return { code: 'ENGINE_ADAPTER_UNKNOWN', message: `no adapter "${adapter}"`, hint: `engine.config.adapters names ${limits.adapters.join(', ') || 'none'}` };
  if (request.cacheSalt !== '' && !limits.sendCacheSalt) {
    return { code: 'ENGINE_CACHE_SALT_UNSUPPORTED', message: 'the completions route of TensorRT-LLM takes no cache salt: the caches of tenants would mix', hint: 'serve salted tenants by another engine, or set engine.config.sendCacheSalt for a server that takes cache_salt there' };
  }
  const at = tokenIds.findIndex((token) => token < 0 || token >= limits.vocabSize);
  if (at < 0) return undefined;
  return { code: 'ENGINE_TOKEN_OUT_OF_RANGE', message: `token ${at} is ${tokenIds[at]}; the vocabulary has ${limits.vocabSize}`, hint: 'tokenizer and model do not belong together' };
}
