import type { EngineInfo, EngineRequest, ErrorData } from '@armature/contracts';

export const closedError: ErrorData = { code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true };
export const drainingError: ErrorData = { code: 'ENGINE_DRAINING', message: 'the engine takes no new requests', retryable: true };
export const notStartedError: ErrorData = { code: 'ENGINE_NOT_STARTED', message: 'the vLLM backend has not been started', hint: 'await start() first' };

/** Choice numbers are a byte column. */
const MAX_CHOICES = 256;
/** vLLM's `--max-logprobs`, unless it is told otherwise. */
export const MAX_TOP_LOGPROBS = 20;

/** Why a request cannot be served, or undefined: what can be told without asking vLLM. */
export function requestProblem(request: EngineRequest, limits: Pick<EngineInfo, 'vocabSize' | 'maxModelTokens'>): ErrorData | undefined {
  const { tokenIds, promptTokens, choices, stop, sampling } = request;
  if (tokenIds.length === 0 || promptTokens < 1 || promptTokens > tokenIds.length) return { code: 'ENGINE_PROMPT_EMPTY', message: 'a request needs prompt tokens' };
  if (request.kvSource?.type === 'reservation') {
    return { code: 'ENGINE_KV_SOURCE_UNSUPPORTED', message: 'vLLM cannot read the blocks of another engine', hint: 'prefill and decode workers must both run vLLM' };
  }
  if (tokenIds.length >= limits.maxModelTokens) {
    return { code: 'ENGINE_PROMPT_TOO_LONG', message: `the prompt has ${tokenIds.length} tokens; the engine takes at most ${limits.maxModelTokens} with the output`, hint: 'shorten the prompt, or start vLLM with a longer --max-model-len' };
  }
  if (!Number.isInteger(choices) || choices < 1 || choices > MAX_CHOICES) return { code: 'ENGINE_CHOICES_INVALID', message: `${choices} choices asked for; 1 to ${MAX_CHOICES} are possible` };
  if (!(stop.maxTokens >= 1)) return { code: 'ENGINE_MAX_TOKENS_INVALID', message: `maxTokens is ${stop.maxTokens}; at least 1` };
  if (sampling.topLogprobs > MAX_TOP_LOGPROBS) return { code: 'ENGINE_LOGPROBS_INVALID', message: `${sampling.topLogprobs} top logprobs asked for; at most ${MAX_TOP_LOGPROBS}` };
  const at = tokenIds.findIndex((token) => token < 0 || token >= limits.vocabSize);
  if (at < 0) return undefined;
  return { code: 'ENGINE_TOKEN_OUT_OF_RANGE', message: `token ${at} is ${tokenIds[at]}; the vocabulary has ${limits.vocabSize}`, hint: 'tokenizer and model do not belong together' };
}
