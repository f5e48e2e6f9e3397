import { ArmatureError } from '@armature/contracts';
import { objectOf, parseJson, stringifyJson } from './lossless-json.ts';
import type { JsonValue } from './lossless-json.ts';

/**
 * TensorRT-LLM's words for a handed-over context (`disaggregated_params`), as it said them. Only the fields below are looked at; every field, known or
 * not, travels on untouched, because the opaque state of one engine version must reach the generation server as it left the context server.
 */
export interface DisaggregatedParams {
  /** Tokens sampled by the context server: the first output. */
  readonly firstGenTokens: readonly number[];
  /** The whole object as JSON text: integers above 2^53 (request ids) survive. */
  readonly json: string;
}

const HINT = 'this is not the disaggregated_params of TensorRT-LLM 1.x; see packages/backend-trtllm/README.md';

/** What a context request carries: nothing is known yet but an id that pairs the two legs, where the version has one. */
export function contextParams(disaggRequestId: bigint | undefined): Readonly<Record<string, JsonValue>> {
  return { request_type: 'context_only', ...(disaggRequestId === undefined ? {} : { disagg_request_id: disaggRequestId }) };
}

/**
 * The context server's answer as parameters of the generation request: only `request_type` is changed. Throws `TRTLLM_PARAMS_INVALID`,
 * `TRTLLM_HANDOVER_INCOMPLETE`.
 */
export function generationParams(wire: unknown): DisaggregatedParams {
  const params = objectOf(wire);
  if (params === undefined) throw new ArmatureError('TRTLLM_HANDOVER_INCOMPLETE', 'the context server returned no disaggregated_params', { hint: HANDOVER_HINT });
  const { request_type: type, ctx_request_id: id } = params;
  if (type !== 'context_only' && type !== 'context_and_generation') throw invalid('request_type', type);
  if (!isAbsent(id) && typeof id !== 'number' && typeof id !== 'bigint') throw invalid('ctx_request_id', id);
  const state = params['encoded_opaque_state'] ?? params['opaque_state'];
  if (!isAbsent(state) && typeof state !== 'string') throw invalid('encoded_opaque_state', state);
  if (isAbsent(state) && isAbsent(id)) throw new ArmatureError('TRTLLM_HANDOVER_INCOMPLETE', 'the context server returned neither an opaque state nor a ctx_request_id', { hint: HANDOVER_HINT });
  const tokens = params['first_gen_tokens'];
  if (!isAbsent(tokens) && !(Array.isArray(tokens) && tokens.every((token) => typeof token === 'number' && Number.isInteger(token)))) throw invalid('first_gen_tokens', tokens);
  return { firstGenTokens: (tokens ?? []) as readonly number[], json: stringifyJson({ ...params, request_type: 'generation_only' }) };
}

const HANDOVER_HINT = 'is its cache_transceiver_config set? Without it TensorRT-LLM cannot hand KV over';

/** What a prefill leg hands over: one entry per choice, null where the choice ended with its first token. */
export function encodeHandover(choices: readonly (DisaggregatedParams | undefined)[]): Readonly<Record<string, unknown>> {
  return { engine: 'trtllm', disaggregatedParams: choices.map((choice) => choice?.json ?? null) };
}

/** The parameters of one choice, to be sent; undefined: it has ended. Throws `TRTLLM_PARAMS_INVALID`. */
export function decodeHandover(params: Readonly<Record<string, unknown>>, choice: number): JsonValue | undefined {
  const { engine, disaggregatedParams } = params;
  if (engine !== 'trtllm' || !Array.isArray(disaggregatedParams)) {
    throw new ArmatureError('TRTLLM_PARAMS_INVALID', 'the prefill worker handed over parameters of another engine', { hint: 'prefill and decode workers of a model must both run TensorRT-LLM' });
  }
  const json: unknown = disaggregatedParams[choice];
  if (json === null) return undefined;
  if (typeof json !== 'string') throw invalid(`disaggregatedParams[${choice}]`, json);
  return parseJson(json);
}

function isAbsent(value: unknown): value is null | undefined {
  return value === undefined || value === null;
}

function invalid(field: string, found: unknown): ArmatureError {
  return new ArmatureError('TRTLLM_PARAMS_INVALID', `${field} is ${found === undefined ? 'missing' : stringifyJson(found)}`, { hint: HINT });
}
