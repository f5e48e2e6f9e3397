import { objectOf } from '../lossless-json.ts';
import type { JsonValue } from '../lossless-json.ts';

type Check = (value: JsonValue) => boolean;

const isText: Check = (value) => typeof value === 'string';
const isFlag: Check = (value) => typeof value === 'boolean';
const isNumber: Check = (value) => typeof value === 'number';
const isInteger: Check = (value) => (typeof value === 'number' && Number.isInteger(value)) || typeof value === 'bigint';
const isMap: Check = (value) => objectOf(value) !== undefined;
const isIntegers: Check = (value) => Array.isArray(value) && (value as readonly JsonValue[]).every(isInteger);

/** Fields of `CompletionRequest` of trtllm-serve, which forbids all others. `null` stands for absent everywhere. */
const COMPLETION: Readonly<Record<string, Check>> = {
  model: isText,
  prompt: (value) => isText(value) || isIntegers(value),
  best_of: isInteger,
  echo: isFlag,
  frequency_penalty: isNumber,
  logit_bias: isMap,
  logprobs: isInteger,
  max_tokens: isInteger,
  n: isInteger,
  presence_penalty: isNumber,
  seed: isInteger,
  stop: (value) => isText(value) || Array.isArray(value),
  stream: isFlag,
  stream_options: isMap,
  suffix: isText,
  temperature: isNumber,
  top_p: isNumber,
  user: isText,
  use_beam_search: isFlag,
  top_k: isInteger,
  top_p_min: isNumber,
  min_p: isNumber,
  repetition_penalty: isNumber,
  length_penalty: isNumber,
  early_stopping: isFlag,
  stop_token_ids: isIntegers,
  include_stop_str_in_output: isFlag,
  ignore_eos: isFlag,
  min_tokens: isInteger,
  skip_special_tokens: isFlag,
  spaces_between_special_tokens: isFlag,
  truncate_prompt_tokens: isInteger,
  return_context_logits: isFlag,
  detokenize: isFlag,
  add_special_tokens: isFlag,
  response_format: isMap,
  lora_request: isMap,
  disaggregated_params: isMap,
};

/** Fields of `DisaggregatedParams` on HTTP; `encoded_opaque_state` is the text form of Python's `opaque_state`. */
const DISAGGREGATED: Readonly<Record<string, Check>> = {
  request_type: (value) => value === 'context_only' || value === 'generation_only' || value === 'context_and_generation',
  first_gen_tokens: isIntegers,
  ctx_request_id: isInteger,
  encoded_opaque_state: isText,
  draft_tokens: isIntegers,
};
/** Known since 1.2. */
const DISAGGREGATED_1_2: Readonly<Record<string, Check>> = {
  disagg_request_id: isInteger,
  ctx_dp_rank: isInteger,
  ctx_info_endpoint: isText,
  schedule_style: isText,
  conversation_id: isText,
  first_gen_log_probs: (value) => Array.isArray(value),
  ctx_usage: isMap,
};

export type Fields = Readonly<Record<string, JsonValue>>;

/** What the server of a version would say of a body, as its validation does; undefined: it is well-formed. */
export function completionProblem(body: Fields, options: { readonly isNewest: boolean; readonly cacheSalt: boolean; readonly isOfTomorrow: boolean }): string | undefined {
  const known = { ...COMPLETION, ...(options.cacheSalt ? { cache_salt: isText } : {}), ...(options.isNewest ? { priority: isNumber } : {}) };
  const problem = problemOf(body, known, 'body');
  if (problem !== undefined) return problem;
  for (const name of ['model', 'prompt']) if (body[name] === undefined || body[name] === null) return `body.${name}: Field required`;
  const params = objectOf(body['disaggregated_params']);
  return params === undefined ? undefined : problemOf(params, { ...DISAGGREGATED, ...(options.isNewest ? DISAGGREGATED_1_2 : {}), ...(options.isOfTomorrow ? { a_field_of_tomorrow: isMap } : {}) }, 'body.disaggregated_params');
}

function problemOf(fields: Fields, known: Readonly<Record<string, Check>>, where: string): string | undefined {
  for (const [name, value] of Object.entries(fields)) {
    const check = known[name];
    if (check === undefined) return `${where}.${name}: Extra inputs are not permitted`;
    if (value !== null && !check(value)) return `${where}.${name}: Input has the wrong type`;
  }
  return undefined;
}

/** Integer of a checked field. */
export function integerOf(value: JsonValue | undefined, otherwise: number): number {
  return typeof value === 'number' ? value : typeof value === 'bigint' ? Number(BigInt.asIntN(53, value)) : otherwise;
}
