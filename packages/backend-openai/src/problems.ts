import { ArmatureError } from '@armature/contracts';
import type { EngineRequest, ErrorData } from '@armature/contracts';
import { reasonOf } from './upstream.ts';
import { jsonObject, messageOf } from './wire.ts';

export const closedError: ErrorData = { code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true };
const MAX_CHOICES = 256; // choice numbers are a byte column

/** What a status other than 200 means. The other workers of a pool may have another key, model or load, so most of them are worth another try. */
export function refusal(status: number, text: string): ArmatureError {
  const { message, code } = errorIn(text);
  const said = `the server answered ${status}: ${message}`;
  if (status === 401 || status === 403) return new ArmatureError('OPENAI_UNAUTHORIZED', said, { retryable: true, hint: 'check engine.config.apiKey, organization and project' });
  if (status === 404 || status === 405) return new ArmatureError('OPENAI_NOT_FOUND', said, { retryable: true, hint: 'check engine.config.baseUrl (it usually ends in /v1) and model; the server needs /completions' });
  if (status === 429 || status === 503 || status === 529) return new ArmatureError('OPENAI_OVERLOADED', said, { retryable: true, hint: 'lower engine.config.maxSequences to what the server takes' });
  if (status === 413 || code === 'context_length_exceeded') return new ArmatureError('ENGINE_PROMPT_TOO_LONG', said, { hint: 'shorten the prompt, or ask for fewer tokens' });
  if (status >= 400 && status < 500 && status !== 408) return new ArmatureError('ENGINE_REQUEST_UNSUPPORTED', said, { hint: 'the request itself is at fault, or a parameter that the server does not know' });
  return new ArmatureError('OPENAI_REFUSED', said, { retryable: true, hint: 'see the log of that server' });
}

export function unreachable(baseUrl: string, error: unknown): ArmatureError {
  return new ArmatureError('OPENAI_UNREACHABLE', `${baseUrl}: ${reasonOf(error)}`, { retryable: true, hint: 'is the server running, and engine.config.baseUrl right?', cause: error });
}

export function truncated(message: string): ArmatureError {
  return new ArmatureError('OPENAI_STREAM_TRUNCATED', message, { retryable: true, hint: 'the server or a proxy before it went away' });
}

/** OpenAI says `{error: {message, code}}`, FastAPI `{detail}`, a proxy anything. */
function errorIn(text: string): { readonly message: string; readonly code: unknown } {
  const body = jsonObject(text) as { error?: { message?: unknown; code?: unknown } | string; message?: unknown; detail?: unknown } | undefined;
  if (body === undefined) return { message: text === '' ? 'no reason given' : JSON.stringify(text.slice(0, 200)), code: undefined };
  const { error } = body;
  if (error !== undefined && error !== null) return { message: messageOf(error), code: typeof error === 'string' ? undefined : error.code };
  return { message: messageOf({ message: body.message ?? (typeof body.detail === 'string' ? body.detail : undefined) }), code: undefined };
}

export interface RequestLimits {
  readonly vocabSize: number;
  readonly maxModelTokens: number;
  readonly maxSequences: number;
  readonly maxTopLogprobs: number;
}

/** Why an engine cannot take a request, or undefined: what can be told without asking the server. */
export function requestProblem(request: EngineRequest, limits: RequestLimits): ErrorData | undefined {
  const { tokenIds, promptTokens, choices, stop, sampling } = request;
  if (tokenIds.length === 0 || promptTokens < 1 || promptTokens > tokenIds.length) return { code: 'ENGINE_PROMPT_EMPTY', message: `a request needs prompt tokens; it has ${tokenIds.length}` };
  if (request.leg !== 'full' || request.kvSource !== undefined) return { code: 'ENGINE_LEG_UNSUPPORTED', message: `this engine has no ${request.leg} leg: KV does not leave the server`, hint: 'give the pool the role both' };
  if (tokenIds.length >= limits.maxModelTokens) {
    return { code: 'ENGINE_PROMPT_TOO_LONG', message: `the prompt has ${tokenIds.length} tokens; the engine takes at most ${limits.maxModelTokens} with the output`, hint: 'shorten the prompt' };
  }
  const most = Math.min(MAX_CHOICES, limits.maxSequences);
  if (!Number.isInteger(choices) || choices < 1 || choices > most) return { code: 'ENGINE_CHOICES_INVALID', message: `${choices} choices asked for; 1 to ${most} are possible` };
  if (!(stop.maxTokens >= 1)) return { code: 'ENGINE_MAX_TOKENS_INVALID', message: `maxTokens is ${stop.maxTokens}; at least 1` };
  if (sampling.topLogprobs > limits.maxTopLogprobs) return { code: 'ENGINE_LOGPROBS_INVALID', message: `${sampling.topLogprobs} top logprobs asked for; at most ${limits.maxTopLogprobs}` };
  const at = tokenIds.findIndex((token) => token < 0 || token >= limits.vocabSize);
  if (at < 0) return undefined;
  return { code: 'ENGINE_TOKEN_OUT_OF_RANGE', message: `token ${at} is ${tokenIds[at]}; the vocabulary has ${limits.vocabSize}`, hint: 'tokenizer and model do not belong together' };
}
