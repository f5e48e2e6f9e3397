import { ArmatureError, FinishCode } from '@armature/contracts';
import type { EngineRequest } from '@armature/contracts';
import { decodeParams, encodeParams } from './disaggregated-params.ts';
import type { DisaggregatedParams } from './disaggregated-params.ts';

/** Body of `POST /v1/completions` of `trtllm-serve`, tokens in. */
export interface CompletionRequestBody {
  readonly model: string;
  readonly prompt: readonly number[];
  readonly max_tokens: number;
  readonly stream: boolean;
  readonly [field: string]: unknown;
}

export interface CompletionResult {
  /** Text of the first choice; the context server of a disaggregated request returns at most one token's. */
  readonly text: string;
  readonly finish: FinishCode;
  /** True when the context server's answer is already whole: no generation leg. */
  readonly isComplete: boolean;
  readonly promptTokenIds: readonly number[] | undefined;
  readonly params: DisaggregatedParams | undefined;
}

/** An engine request in TensorRT-LLM's words. A context leg is never streamed and samples one token. */
export function encodeCompletion(model: string, request: EngineRequest, params: DisaggregatedParams | undefined): CompletionRequestBody {
  const { sampling, stop } = request;
  const isContext = params?.requestType === 'context_only';
  const generated = request.tokenIds.length - request.promptTokens; // before, elsewhere (migration)
  const maxTokens = isContext ? 1 : Math.max(1, stop.maxTokens - generated);
  const minTokens = isContext ? 0 : Math.min(maxTokens, Math.max(0, stop.minTokens - generated));
  const bias = Object.fromEntries([...sampling.biasTokenIds].map((token, i) => [token, sampling.biasValues[i]]));
  return {
    model,
    prompt: [...request.tokenIds],
    max_tokens: maxTokens,
    stream: !isContext,
    ...(isContext ? {} : { stream_options: { include_usage: true } }),
    n: isContext ? 1 : request.choices,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    ...(sampling.topK > 0 ? { top_k: sampling.topK } : {}),
    ...(sampling.minP > 0 ? { min_p: sampling.minP } : {}),
    // 53 bits: a JSON number keeps no more.
    seed: (sampling.seedHi & 0x1fffff) * 0x1_0000_0000 + (sampling.seedLo >>> 0),
    ...(sampling.frequencyPenalty === 0 ? {} : { frequency_penalty: sampling.frequencyPenalty }),
    ...(sampling.presencePenalty === 0 ? {} : { presence_penalty: sampling.presencePenalty }),
    ...(sampling.repetitionPenalty === 1 ? {} : { repetition_penalty: sampling.repetitionPenalty }),
    ...(sampling.topLogprobs < 0 ? {} : { logprobs: sampling.topLogprobs }),
    ...(stop.stopTokenIds.length === 0 ? {} : { stop_token_ids: [...stop.stopTokenIds] }),
    ...(sampling.biasTokenIds.length === 0 ? {} : { logit_bias: bias }),
    ...(minTokens > 0 ? { min_tokens: minTokens } : {}),
    ...(stop.ignoreEos ? { ignore_eos: true } : {}),
    ...(request.cacheSalt === '' ? {} : { cache_salt: request.cacheSalt }),
    ...(params === undefined ? {} : { disaggregated_params: encodeParams(params) }),
  };
}

/** The answer of a context leg. Throws `TRTLLM_ANSWER_INVALID`, `TRTLLM_PARAMS_INVALID`, `TRTLLM_FAILED` (retryable). */
export function decodeCompletion(body: unknown): CompletionResult {
  const data = body as { choices?: unknown; prompt_token_ids?: unknown } | null;
  const choice: unknown = Array.isArray(data?.choices) ? data.choices[0] : undefined;
  if (typeof choice !== 'object' || choice === null) {
    throw new ArmatureError('TRTLLM_ANSWER_INVALID', 'the answer has no choices', { hint: 'is this a trtllm-serve completion?' });
  }
  const fields = choice as Readonly<Record<string, unknown>>;
  const reason = fields['finish_reason'];
  if (reason === 'error' || reason === 'cancelled') {
    throw new ArmatureError('TRTLLM_FAILED', `TensorRT-LLM ended the request with "${reason}"`, { retryable: true, hint: 'see the log of the server' });
  }
  const params = fields['disaggregated_params'];
  const ids = fields['prompt_token_ids'] ?? data?.prompt_token_ids;
  return {
    text: typeof fields['text'] === 'string' ? fields['text'] : '',
    finish: reason === 'stop' ? FinishCode.Stop : reason === 'length' ? FinishCode.Length : FinishCode.None,
    // The orchestrator's rule: anything but "length" or "not_finished" means that the context server has answered the request.
    isComplete: reason !== null && reason !== undefined && reason !== 'length' && reason !== 'not_finished',
    promptTokenIds: Array.isArray(ids) ? (ids as number[]) : undefined,
    params: params === undefined || params === null ? undefined : decodeParams(params),
  };
}
