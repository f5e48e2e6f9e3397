import type { EngineInfo, EngineRequest, ErrorData } from '@armature/contracts';

/** Why an engine cannot take a request, or undefined. */
export function checkRequest(request: EngineRequest, info: EngineInfo, maxTopLogprobs: number): ErrorData | undefined {
  const { tokenIds, choices, stop, sampling } = request;
  if (tokenIds.length === 0 || request.promptTokens < 1 || request.promptTokens > tokenIds.length) {
    return { code: 'ENGINE_PROMPT_EMPTY', message: `a request needs prompt tokens; it has ${tokenIds.length}` };
  }
  if (tokenIds.length >= info.maxModelTokens) {
    return {
      code: 'ENGINE_PROMPT_TOO_LONG',
      message: `the prompt has ${tokenIds.length} tokens; the engine takes at most ${info.maxModelTokens} with the output`,
      hint: 'shorten the prompt, or give the engine more KV blocks',
    };
  }
  for (let i = 0; i < tokenIds.length; i++) {
    const token = tokenIds[i] as number;
    if (token < 0 || token >= info.vocabSize) {
      return { code: 'ENGINE_TOKEN_OUT_OF_RANGE', message: `token ${i} of the prompt is ${token}; the vocabulary has ${info.vocabSize}`, hint: 'tokenizer and model do not belong together' };
    }
  }
  if (!Number.isInteger(choices) || choices < 1 || choices > info.maxSequences) {
    return { code: 'ENGINE_CHOICES_INVALID', message: `${choices} choices asked for; 1 to ${info.maxSequences} are possible` };
  }
  if (stop.maxTokens < 1) return { code: 'ENGINE_MAX_TOKENS_INVALID', message: `maxTokens is ${stop.maxTokens}; at least 1` };
  if (sampling.topLogprobs > maxTopLogprobs) {
    return { code: 'ENGINE_LOGPROBS_INVALID', message: `${sampling.topLogprobs} top logprobs asked for; at most ${maxTopLogprobs}` };
  }
  return undefined;
}
