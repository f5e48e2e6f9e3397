import type { ModelCard, ModelHandle, Random, ResponseFormat, RoutingOverrides, SamplingParams, StopParams } from '@armature/contracts';
import { badRequest, unsupported } from './api-error.ts';
import { invalidType, invalidValue, isObject, isSet, nested, optionalBoolean, optionalInteger, optionalNumber, optionalObject, optionalString } from './fields.ts';
import type { Json } from './fields.ts';
import { LIMITS } from './limits.ts';
import { NO_ROUTING, parsePriority, parseRouting, parseStrictPriority } from './routing-fields.ts';

const MAX = Number.MAX_SAFE_INTEGER;
const NO_IDS = new Int32Array(0);
const NO_VALUES = new Float32Array(0);

/** Sampling, stopping, routing: what chat and completions have in common. Defaults of the model are filled in later, by `samplingFor`. */
export interface CommonFields {
  readonly model: string;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly choices: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: Int32Array;
  readonly minTokens: number;
  readonly ignoreEos: boolean;
  readonly temperature: number | undefined;
  readonly topP: number | undefined;
  readonly topK: number | undefined;
  readonly minP: number;
  readonly seed: number | undefined;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly repetitionPenalty: number;
  readonly biasTokenIds: Int32Array;
  readonly biasValues: Float32Array;
  /** Undefined: free text. */
  readonly responseFormat: ResponseFormat | undefined;
  readonly cacheSalt: string;
  readonly priority: number;
  readonly strictPriority: number;
  readonly routing: RoutingOverrides;
}

/** Throws a 400 that names the first field at fault. */
export function parseCommon(body: Json): CommonFields {
  const model = body['model'];
  if (model === undefined || model === null) throw badRequest('model', 'missing_required_parameter', "Missing required parameter: 'model'.");
  if (typeof model !== 'string') throw invalidType('model', 'a string', model);
  if (model === '' || model.length > LIMITS.modelName) throw invalidValue('model', `must have 1 to ${LIMITS.modelName} characters.`);
  const stream = optionalBoolean(body, 'stream') ?? false;
  const [stop, stopTokenIds] = parseStop(body);
  const [biasTokenIds, biasValues] = parseBias(body);
  const nvext = nested(body, 'nvext');
  const hints = nested(nvext, 'nvext.agent_hints');
  optionalString(body, 'user', LIMITS.user);
  const greedy = optionalBoolean(nvext, 'nvext.greed_sampling') === true;
  const temperature = optionalNumber(body, 'temperature', 0, LIMITS.temperature);
  return {
    model,
    stream,
    includeUsage: parseStreamOptions(body, stream),
    choices: optionalInteger(body, 'n', 1, LIMITS.choices) ?? 1,
    stop,
    stopTokenIds,
    minTokens: optionalInteger(body, 'min_tokens', 0, MAX) ?? 0,
    ignoreEos: optionalBoolean(body, 'ignore_eos') ?? optionalBoolean(nvext, 'nvext.ignore_eos') ?? false,
    temperature: greedy ? 0 : temperature,
    topP: positive(body, 'top_p', 1),
    topK: topK(body),
    minP: optionalNumber(body, 'min_p', 0, 1) ?? 0,
    seed: seedOf(body),
    frequencyPenalty: optionalNumber(body, 'frequency_penalty', -LIMITS.penalty, LIMITS.penalty) ?? 0,
    presencePenalty: optionalNumber(body, 'presence_penalty', -LIMITS.penalty, LIMITS.penalty) ?? 0,
    repetitionPenalty: positive(body, 'repetition_penalty', LIMITS.repetitionPenalty) ?? 1,
    biasTokenIds,
    biasValues,
    responseFormat: parseResponseFormat(body),
    cacheSalt: optionalString(body, 'cache_salt', LIMITS.cacheSalt) ?? optionalString(nvext, 'nvext.cache_salt', LIMITS.cacheSalt) ?? '',
    priority: parsePriority(body, hints),
    strictPriority: parseStrictPriority(hints),
    routing: isSet(body['nvext']) ? parseRouting(nvext, hints) : NO_ROUTING,
  };
}

function positive(body: Json, key: string, max: number): number | undefined {
  const value = optionalNumber(body, key, 0, max);
  if (value === 0) throw invalidValue(key, `must be greater than 0 and at most ${max}, got 0.`);
  return value;
}

function topK(body: Json): number | undefined {
  const value = optionalInteger(body, 'top_k', -1, LIMITS.topK);
  return value === -1 ? 0 : value;
}

function seedOf(body: Json): number | undefined {
  return optionalInteger(body, 'seed', -MAX, MAX);
}

function parseStreamOptions(body: Json, stream: boolean): boolean {
  const options = optionalObject(body, 'stream_options');
  if (options === undefined) return false;
  if (!stream) throw badRequest('stream_options', 'invalid_value', "'stream_options' is only allowed when 'stream' is true.");
  const value = options['include_usage'];
  if (value === undefined || value === null) return false;
  if (typeof value !== 'boolean') throw invalidType('stream_options.include_usage', 'a boolean', value);
  return value;
}

function parseStop(body: Json): readonly [readonly string[], Int32Array] {
  const value = body['stop'];
  const strings: string[] = [];
  const ids: number[] = [];
  if (typeof value === 'string') pushStop(strings, value, 'stop');
  else if (Array.isArray(value)) {
    if (value.length > LIMITS.stopStrings) throw invalidValue('stop', `must have at most ${LIMITS.stopStrings} entries, got ${value.length}.`);
    for (let i = 0; i < value.length; i++) {
      const entry: unknown = value[i];
      if (typeof entry === 'string') pushStop(strings, entry, `stop[${i}]`);
      else if (typeof entry === 'number') ids.push(tokenId(entry, `stop[${i}]`));
      else throw invalidType(`stop[${i}]`, 'a string (or an integer: a token id)', entry);
    }
  } else if (value !== undefined && value !== null) throw invalidType('stop', 'a string or an array of strings', value);

  const listed = body['stop_token_ids'];
  if (listed !== undefined && listed !== null) {
    if (!Array.isArray(listed)) throw invalidType('stop_token_ids', 'an array of integers', listed);
    if (listed.length > LIMITS.stopTokenIds) throw invalidValue('stop_token_ids', `must have at most ${LIMITS.stopTokenIds} entries, got ${listed.length}.`);
    for (let i = 0; i < listed.length; i++) ids.push(tokenId(listed[i], `stop_token_ids[${i}]`));
  }
  return [strings, ids.length === 0 ? NO_IDS : Int32Array.from(ids)];
}

function pushStop(to: string[], value: string, param: string): void {
  if (value === '') throw invalidValue(param, 'must not be an empty string.');
  if (value.length > LIMITS.stopLength) throw invalidValue(param, `must have at most ${LIMITS.stopLength} characters, got ${value.length}.`);
  to.push(value);
}

/** The vocabulary's upper bound is checked once the model is known. */
export function tokenId(value: unknown, param: string): number {
  if (typeof value !== 'number') throw invalidType(param, 'a token id (an integer)', value);
  if (!Number.isInteger(value) || value < 0 || value > 0x7fffffff) throw invalidValue(param, `must be a token id (a non-negative integer), got ${value}.`);
  return value;
}

function parseBias(body: Json): readonly [Int32Array, Float32Array] {
  const value = optionalObject(body, 'logit_bias');
  if (value === undefined) return [NO_IDS, NO_VALUES];
  const keys = Object.keys(value);
  if (keys.length > LIMITS.biases) throw invalidValue('logit_bias', `must have at most ${LIMITS.biases} entries, got ${keys.length}.`);
  const ids = new Int32Array(keys.length);
  const values = new Float32Array(keys.length);
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i]!;
    if (!/^(0|[1-9]\d{0,9})$/.test(key)) throw invalidValue('logit_bias', `has the key ${JSON.stringify(key.slice(0, 40))}, which is not a token id.`);
    ids[i] = tokenId(Number(key), 'logit_bias');
    const param = `logit_bias.${key}`;
    const bias = optionalNumber({ [param]: value[key] }, param, -LIMITS.bias, LIMITS.bias);
    if (bias === undefined) throw invalidType(param, 'a number', value[key]);
    values[i] = bias;
  }
  return [ids, values];
}

const FORMATS = ['text', 'json_object', 'json_schema'];

/** `{type: text | json_object}` or `{type: json_schema, json_schema: {name, schema}}`; `strict` and `description` change nothing: engines keep to the schema. */
function parseResponseFormat(body: Json): ResponseFormat | undefined {
  const format = optionalObject(body, 'response_format');
  if (format === undefined) return undefined;
  const type = format['type'];
  if (typeof type !== 'string') throw invalidType('response_format.type', 'a string', type);
  if (type === 'text') return undefined;
  if (type === 'json_object') return { type };
  if (type !== 'json_schema') throw unsupported('response_format.type', `'response_format.type' '${type.slice(0, 40)}' is not supported. Supported are: ${FORMATS.join(', ')}.`);
  const wanted = format['json_schema'];
  if (!isObject(wanted)) throw invalidType('response_format.json_schema', 'an object', wanted);
  const { name, schema } = wanted;
  if (typeof name !== 'string') throw invalidType('response_format.json_schema.name', 'a string', name);
  if (!/^[\w-]{1,64}$/.test(name)) throw invalidValue('response_format.json_schema.name', "must have 1 to 64 letters, digits, '_' or '-'.");
  if (!isObject(schema)) throw invalidType('response_format.json_schema.schema', 'an object', schema);
  const text = JSON.stringify(schema);
  if (text.length > LIMITS.schemaLength) throw invalidValue('response_format.json_schema.schema', `must have at most ${LIMITS.schemaLength} characters as JSON, got ${text.length}.`);
  return { type, name, schema: text };
}

/** A format that nobody here can hold an answer to is refused: the answer would be wrong. */
export function refuseFormat(format: ResponseFormat | undefined, model: ModelHandle): void {
  if (format === undefined) return;
  const known = model.responseFormats === undefined ? [] : model.responseFormats();
  if (known === undefined || known.includes(format.type)) return;
  const can = known.length === 0 ? 'none of its workers does guided decoding' : `its workers can: ${known.join(', ')}`;
  throw unsupported('response_format', `'response_format' of type '${format.type}' is not supported by the model '${model.name}': ${can}. Use {"type":"text"}.`);
}

/** OpenAI features no engine here can honour: refused rather than silently ignored, since the answer would be wrong. */
export function refuseUnsupported(body: Json): void {
  for (const key of ['guided_json', 'guided_regex', 'guided_choice', 'guided_grammar', 'structured_outputs', 'suffix', 'prompt_logprobs', 'audio']) {
    const value = body[key];
    if (value !== undefined && value !== null) throw unsupported(key, `'${key}' is not supported.`);
  }
  const bestOf = optionalInteger(body, 'best_of', 1, LIMITS.choices);
  if (bestOf !== undefined && bestOf !== (body['n'] ?? 1)) throw unsupported('best_of', "'best_of' is only supported when it equals 'n'.");
  const modalities = body['modalities'];
  if (modalities !== undefined && modalities !== null) {
    if (!Array.isArray(modalities)) throw invalidType('modalities', 'an array of strings', modalities);
    if (modalities.some((one) => one !== 'text')) throw unsupported('modalities', "'modalities' other than text are not supported.");
  }
}

/** Sampling parameters of one request: the client's, else the model's own defaults, else OpenAI's. */
export function samplingFor(fields: CommonFields, card: ModelCard, random: Random, topLogprobs: number): SamplingParams {
  const words = seedWords(fields.seed, random);
  return {
    temperature: fields.temperature ?? card.defaults.temperature ?? 1,
    topP: fields.topP ?? card.defaults.topP ?? 1,
    topK: fields.topK ?? card.defaults.topK ?? 0,
    minP: fields.minP,
    seedLo: words[0],
    seedHi: words[1],
    frequencyPenalty: fields.frequencyPenalty,
    presencePenalty: fields.presencePenalty,
    repetitionPenalty: fields.repetitionPenalty,
    biasTokenIds: fields.biasTokenIds,
    biasValues: fields.biasValues,
    topLogprobs,
  };
}

function seedWords(seed: number | undefined, random: Random): readonly [number, number] {
  if (seed === undefined) return [random.u32(), random.u32()];
  // Two's complement of the 64-bit integer, in two words, without a bigint.
  const lo = seed >>> 0;
  return [lo, ((seed - lo) / 4294967296) >>> 0];
}

export function stopFor(fields: CommonFields, maxTokens: number): StopParams {
  return { maxTokens, minTokens: fields.minTokens, stopTokenIds: fields.stopTokenIds, ignoreEos: fields.ignoreEos };
}

/** Ids must be of this model's vocabulary: an engine would index past its tables. */
export function checkVocabulary(fields: CommonFields, vocabSize: number): void {
  checkIds(fields.stopTokenIds, vocabSize, 'stop_token_ids');
  checkIds(fields.biasTokenIds, vocabSize, 'logit_bias');
}

export function checkIds(ids: Int32Array, vocabSize: number, param: string): void {
  for (let i = 0; i < ids.length; i++) {
    if (ids[i]! >= vocabSize) throw invalidValue(param, `has token id ${ids[i]}, but the model's vocabulary has ${vocabSize} entries.`);
  }
}

export function parseMaxTokens(body: Json): number | undefined {
  const newer = optionalInteger(body, 'max_completion_tokens', 1, MAX);
  const older = optionalInteger(body, 'max_tokens', 1, MAX);
  return newer ?? older;
}

