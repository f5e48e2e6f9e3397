import type { EngineRequest, ErrorData, ModelCard } from '@armature/contracts';
import type { OpenAiServerConfig } from './config.ts';

/** Fields of `/completions` that are not OpenAI's own. */
export type Extension = 'top_k' | 'min_p' | 'repetition_penalty' | 'stop_token_ids' | 'ignore_eos' | 'min_tokens' | 'cache_salt';

const all: readonly Extension[] = ['top_k', 'min_p', 'repetition_penalty', 'stop_token_ids', 'ignore_eos', 'min_tokens', 'cache_salt'];

/** What servers have, by `owned_by` in their list of models. A server that ignores a field says nothing, so only what is known counts. */
const KNOWN: Readonly<Record<string, readonly Extension[]>> = {
  vllm: all,
  armature: all,
  sglang: ['top_k', 'min_p', 'repetition_penalty', 'stop_token_ids', 'ignore_eos', 'min_tokens'],
  llamacpp: ['top_k', 'min_p', 'ignore_eos'],
};

/** What the server was found to speak. */
export interface Dialect {
  readonly promptAs: 'tokens' | 'text';
  /** Where the token ids of the output come from: `token_ids`, names `token_id:N` of the logprobs, or encoding the text again. */
  readonly idsFrom: 'ids' | 'logprobs' | 'text';
  readonly extensions: ReadonlySet<Extension>;
}

export function extensionsOf(config: OpenAiServerConfig, ownedBy: string): ReadonlySet<Extension> {
  if (config.extensions !== 'auto') return new Set(config.extensions === 'all' ? all : []);
  return new Set(KNOWN[ownedBy.toLowerCase()] ?? []);
}

/**
 * Why this server cannot do what the request asks for, or undefined. A value that is the model's own default is left to the server, which has
 * the same generation_config.json: without that, every request to a model with a default top_k would be refused.
 */
export function unsupportedBy({ extensions }: Dialect, { sampling, stop, cacheSalt }: EngineRequest, defaults: ModelCard['defaults']): ErrorData | undefined {
  const asked: [Extension, boolean][] = [
    ['top_k', sampling.topK !== 0 && sampling.topK !== defaults.topK],
    ['min_p', sampling.minP !== 0],
    ['repetition_penalty', sampling.repetitionPenalty !== 1],
    ['stop_token_ids', stop.stopTokenIds.length > 0],
    ['ignore_eos', stop.ignoreEos],
    ['min_tokens', stop.minTokens > 0],
    ['cache_salt', cacheSalt !== ''],
  ];
  const missing = asked.filter(([name, isAsked]) => isAsked && !extensions.has(name)).map(([name]) => name);
  if (missing.length === 0) return undefined;
  return {
    code: 'ENGINE_REQUEST_UNSUPPORTED',
    message: `the server behind this worker is not known to support ${missing.join(', ')}`,
    hint: 'leave it out; if the server has it, set extensions: all in the config of the openai-server engine',
  };
}
