import { badRequest, unsupported } from './api-error.ts';
import { invalidType, invalidValue, optionalBoolean, optionalInteger } from './fields.ts';
import type { Json } from './fields.ts';
import { LIMITS } from './limits.ts';
import { parseCommon, parseMaxTokens, refuseUnsupported, tokenId } from './sampling-fields.ts';
import type { CommonFields } from './sampling-fields.ts';

/** A valid `POST /v1/completions`. */
export interface CompletionFields {
  readonly common: CommonFields;
  readonly prompts: readonly (string | Int32Array)[];
  readonly echo: boolean;
  readonly maxTokens: number | undefined;
  readonly topLogprobs: number;
}

/** Throws a 400 that names the first field at fault. */
export function parseCompletion(body: Json): CompletionFields {
  const common = parseCommon(body);
  const prompts = parsePrompt(body['prompt']);
  refuseUnsupported(body);
  const echo = optionalBoolean(body, 'echo') ?? false;
  const topLogprobs = optionalInteger(body, 'logprobs', 0, LIMITS.topLogprobs) ?? -1;
  if (echo && topLogprobs >= 0) throw unsupported('logprobs', "'logprobs' together with 'echo' is not supported: engines here give no logprobs of prompt tokens.");
  if (prompts.length * common.choices > LIMITS.choices) {
    throw invalidValue('n', `times the number of prompts (${common.choices} x ${prompts.length}) must be at most ${LIMITS.choices}.`);
  }
  return { common, prompts, echo, topLogprobs, maxTokens: parseMaxTokens(body) };
}

function parsePrompt(value: unknown): (string | Int32Array)[] {
  if (value === undefined || value === null) throw badRequest('prompt', 'missing_required_parameter', "Missing required parameter: 'prompt'.");
  if (typeof value === 'string') return [value];
  if (!Array.isArray(value)) throw invalidType('prompt', 'a string, an array of strings, an array of token ids, or an array of those', value);
  if (value.length === 0) throw badRequest('prompt', 'empty_array', "'prompt' must not be an empty array.");
  if (typeof value[0] === 'number') return [tokenList(value, 'prompt')];
  if (value.length > LIMITS.prompts) throw invalidValue('prompt', `must have at most ${LIMITS.prompts} prompts, got ${value.length}.`);
  return value.map((entry: unknown, i) => {
    if (typeof entry === 'string') return entry;
    if (Array.isArray(entry)) return tokenList(entry, `prompt[${i}]`);
    throw invalidType(`prompt[${i}]`, 'a string or an array of token ids', entry);
  });
}

function tokenList(value: readonly unknown[], param: string): Int32Array {
  if (value.length === 0) throw badRequest(param, 'empty_array', `'${param}' must not be an empty array.`);
  const ids = new Int32Array(value.length);
  for (let i = 0; i < value.length; i++) {
    const entry = value[i];
    if (typeof entry === 'number' && entry >= 0 && entry <= 0x7fffffff && Number.isInteger(entry)) ids[i] = entry;
    else ids[i] = tokenId(entry, `${param}[${i}]`);
  }
  return ids;
}
