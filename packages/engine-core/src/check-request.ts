import type { EngineAbilities, EngineInfo, EngineRequest, ErrorData } from '@armature/contracts';

/** Why an engine cannot take a request, or undefined. */
export function checkRequest(request: EngineRequest, info: EngineInfo, abilities: EngineAbilities): ErrorData | undefined {
  const { tokenIds, choices, stop, sampling, firstTokens, promptTokens, adapter } = request;
  if (tokenIds.length === 0 || promptTokens < 1 || promptTokens > tokenIds.length) {
    return { code: 'ENGINE_PROMPT_EMPTY', message: `a request needs prompt tokens; it has ${tokenIds.length}` };
  }
  if (tokenIds.length >= info.maxModelTokens) {
    return {
      code: 'ENGINE_PROMPT_TOO_LONG',
      message: `the prompt has ${tokenIds.length} tokens; the engine takes at most ${info.maxModelTokens} with the output`,
      hint: 'shorten the prompt, or give the engine more KV blocks',
    };
  }
  const roles = abilities.roles.includes('both') ? ROLES_OF_BOTH : abilities.roles;
  if (request.leg !== 'full' && !roles.includes(request.leg)) {
    return { code: 'ENGINE_LEG_UNSUPPORTED', message: `this engine has no ${request.leg} leg; it can be ${abilities.roles.join(', ')}` };
  }
  if (!Number.isInteger(choices) || choices < 1 || choices > Math.min(MAX_CHOICES, info.maxSequences)) {
    return { code: 'ENGINE_CHOICES_INVALID', message: `${choices} choices asked for; 1 to ${Math.min(MAX_CHOICES, info.maxSequences)} are possible` };
  }
  if (firstTokens !== undefined && firstTokens.length !== choices) {
    return { code: 'ENGINE_CHOICES_INVALID', message: `${firstTokens.length} first tokens came for ${choices} choices` };
  }
  if (request.kvSource?.type === 'opaque') {
    return { code: 'ENGINE_KV_SOURCE_UNSUPPORTED', message: 'the KV source is in the words of another engine', hint: 'prefill and decode workers must run the same engine' };
  }
  if (!(stop.maxTokens >= 1)) return { code: 'ENGINE_MAX_TOKENS_INVALID', message: `maxTokens is ${stop.maxTokens}; at least 1` };
  if (!(sampling.topLogprobs <= abilities.maxTopLogprobs)) {
    return { code: 'ENGINE_LOGPROBS_INVALID', message: `${sampling.topLogprobs} top logprobs asked for; at most ${abilities.maxTopLogprobs}` };
  }
  return adapterProblem(adapter, info) ?? tokenProblem(tokenIds, 0, info.vocabSize) ?? (firstTokens === undefined ? undefined : tokenProblem(firstTokens, ENDED, info.vocabSize));
}

const ROLES_OF_BOTH = ['both', 'prefill', 'decode'];
/** First token of a choice that has ended with it. */
const ENDED = -1;
/** Choice numbers are a byte column. */
const MAX_CHOICES = 256;

function adapterProblem(adapter: string | undefined, { adapters = [] }: EngineInfo): ErrorData | undefined {
  if (adapter === undefined || adapters.includes(adapter)) return undefined;
  return { code: 'ENGINE_ADAPTER_UNKNOWN', message: `no adapter "${adapter}"`, hint: `this engine has ${adapters.join(', ') || 'none'}` };
}

function tokenProblem(tokenIds: Int32Array, lowest: number, vocabSize: number): ErrorData | undefined {
  // One test for all: a token out of range makes one of the two differences negative. Long prompts pass here once per leg, so four at a time.
  const highest = (vocabSize - 1) | 0;
  const count = tokenIds.length;
  let differences = 0;
  let i = 0;
  for (; i + 3 < count; i += 4) {
    const a = tokenIds[i];
    const b = tokenIds[i + 1];
    const c = tokenIds[i + 2];
    const d = tokenIds[i + 3];
    differences |= (a - lowest) | (highest - a) | (b - lowest) | (highest - b) | (c - lowest) | (highest - c) | (d - lowest) | (highest - d);
  }
  for (; i < count; i++) differences |= (tokenIds[i] - lowest) | (highest - tokenIds[i]);
  if (differences >= 0) return undefined;
  for (i = 0; i < count; i++) {
    const token = tokenIds[i];
    if (token >= lowest && token < vocabSize) continue;
    return { code: 'ENGINE_TOKEN_OUT_OF_RANGE', message: `token ${i} is ${token}; the vocabulary has ${vocabSize}`, hint: 'tokenizer and model do not belong together' };
  }
  return undefined;
}
