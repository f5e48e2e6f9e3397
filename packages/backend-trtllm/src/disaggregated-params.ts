import { ArmatureError } from '@armature/contracts';

export type RequestType = 'context_only' | 'generation_only' | 'context_and_generation';

/**
 * TensorRT-LLM's words for a handed-over context (`disaggregated_params`). Known fields are typed; everything else is kept verbatim in
 * `other` and written back, because the opaque state of one engine version must reach the generation server untouched.
 */
export interface DisaggregatedParams {
  readonly requestType: RequestType;
  /** First tokens sampled by the context server, one list entry per beam. */
  readonly firstGenTokens: readonly number[] | undefined;
  /** Id of the request on the context server. */
  readonly ctxRequestId: number | string | undefined;
  /** Opaque KV handle. HTTP says `encoded_opaque_state` (base64 text), the Python field is `opaque_state`. */
  readonly opaqueState: string | undefined;
  /** Which spelling it came in, to answer in kind. */
  readonly opaqueSpelling: 'encoded_opaque_state' | 'opaque_state';
  readonly draftTokens: readonly number[] | undefined;
  readonly other: Readonly<Record<string, unknown>>;
}

const TYPES: readonly string[] = ['context_only', 'generation_only', 'context_and_generation'];
const KNOWN = new Set(['request_type', 'first_gen_tokens', 'ctx_request_id', 'encoded_opaque_state', 'opaque_state', 'draft_tokens']);

/** What a context request carries: nothing is known yet but an id that pairs the two legs. */
export function contextParams(disaggRequestId?: number): DisaggregatedParams {
  return {
    requestType: 'context_only',
    firstGenTokens: undefined,
    ctxRequestId: undefined,
    opaqueState: undefined,
    opaqueSpelling: 'encoded_opaque_state',
    draftTokens: undefined,
    other: disaggRequestId === undefined ? {} : { disagg_request_id: disaggRequestId },
  };
}

/** The context server's answer as parameters of the generation request. */
export function generationParams(context: DisaggregatedParams): DisaggregatedParams {
  if (context.opaqueState === undefined && context.ctxRequestId === undefined) {
    throw new ArmatureError('TRTLLM_HANDOVER_INCOMPLETE', 'the context server returned neither an opaque state nor a ctx_request_id', {
      hint: 'is its cache_transceiver_config set? Without it TensorRT-LLM cannot hand KV over',
    });
  }
  return { ...context, requestType: 'generation_only' };
}

/** Throws `TRTLLM_PARAMS_INVALID`. Unknown fields are kept. */
export function decodeParams(value: unknown): DisaggregatedParams {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return invalid('disaggregated_params', value);
  const data = value as Readonly<Record<string, unknown>>;
  const requestType = data['request_type'];
  if (typeof requestType !== 'string' || !TYPES.includes(requestType)) return invalid('request_type', requestType);
  const spelling = typeof data['encoded_opaque_state'] === 'string' || data['opaque_state'] === undefined || data['opaque_state'] === null ? 'encoded_opaque_state' : 'opaque_state';
  const state = data[spelling];
  if (state !== undefined && state !== null && typeof state !== 'string') return invalid(spelling, state);
  const id = data['ctx_request_id'];
  if (id !== undefined && id !== null && typeof id !== 'number' && typeof id !== 'string') return invalid('ctx_request_id', id);
  return {
    requestType: requestType as RequestType,
    firstGenTokens: tokenList(data['first_gen_tokens'], 'first_gen_tokens'),
    ctxRequestId: id ?? undefined,
    opaqueState: state ?? undefined,
    opaqueSpelling: spelling,
    draftTokens: tokenList(data['draft_tokens'], 'draft_tokens'),
    // The spelling that was not read, if both came, is one of the unknown fields: verbatim.
    other: Object.fromEntries(Object.entries(data).filter(([key, field]) => !KNOWN.has(key) || (key === 'opaque_state' && spelling !== key && field !== undefined && field !== null))),
  };
}

export function encodeParams(params: DisaggregatedParams): Record<string, unknown> {
  return {
    request_type: params.requestType,
    ...(params.firstGenTokens === undefined ? {} : { first_gen_tokens: params.firstGenTokens }),
    ...(params.ctxRequestId === undefined ? {} : { ctx_request_id: params.ctxRequestId }),
    ...(params.opaqueState === undefined ? {} : { [params.opaqueSpelling]: params.opaqueState }),
    ...(params.draftTokens === undefined ? {} : { draft_tokens: params.draftTokens }),
    ...params.other,
  };
}

function tokenList(value: unknown, field: string): readonly number[] | undefined {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value) || !value.every((token) => Number.isInteger(token))) return invalid(field, value);
  return value as readonly number[];
}

function invalid(field: string, found: unknown): never {
  throw new ArmatureError('TRTLLM_PARAMS_INVALID', `${field} is ${JSON.stringify(found) ?? 'missing'}`, {
    hint: 'this is not the disaggregated_params of TensorRT-LLM 1.x; see packages/backend-trtllm/README.md',
  });
}
