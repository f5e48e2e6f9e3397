import { FinishCode } from '@armature/contracts';
import type { EngineRequest, TokenBatch } from '@armature/contracts';

/** Body of vLLM's `POST /v1/completions`, token ids in, token ids out. Facts: vLLM 0.32. */
export function completionBody(model: string, request: EngineRequest): Record<string, unknown> {
  const { sampling, stop } = request;
  const generated = request.tokenIds.length - request.promptTokens;
  const isPrefill = request.leg === 'prefill';
  const bias = Object.fromEntries([...sampling.biasTokenIds].map((token, i) => [token, sampling.biasValues[i]]));
  return {
    model,
    prompt: [...request.tokenIds],
    stream: !isPrefill,
    ...(isPrefill ? {} : { stream_options: { include_usage: true } }),
    return_token_ids: true,
    return_tokens_as_token_ids: true,
    n: isPrefill ? 1 : request.choices,
    max_tokens: isPrefill ? 1 : Math.max(1, stop.maxTokens - generated),
    temperature: sampling.temperature,
    top_p: sampling.topP,
    top_k: sampling.topK,
    min_p: sampling.minP,
    // vLLM takes a signed 64-bit seed; a JSON number keeps 53 bits.
    seed: (sampling.seedHi & 0x1fffff) * 0x1_0000_0000 + (sampling.seedLo >>> 0),
    frequency_penalty: sampling.frequencyPenalty,
    presence_penalty: sampling.presencePenalty,
    repetition_penalty: sampling.repetitionPenalty,
    ...(sampling.biasTokenIds.length === 0 ? {} : { logit_bias: bias }),
    ...(sampling.topLogprobs < 0 ? {} : { logprobs: sampling.topLogprobs }),
    stop_token_ids: [...stop.stopTokenIds],
    min_tokens: isPrefill ? 0 : Math.max(0, stop.minTokens - generated),
    ignore_eos: stop.ignoreEos,
    ...(request.cacheSalt === '' ? {} : { cache_salt: request.cacheSalt }),
    // vLLM: lower is sooner; ours: higher is sooner.
    ...(request.priority === 0 ? {} : { priority: -request.priority }),
    ...transferParams(request),
  };
}

function transferParams(request: EngineRequest): Record<string, unknown> {
  if (request.leg === 'prefill') return { kv_transfer_params: { do_remote_decode: true, do_remote_prefill: false } };
  if (request.kvSource?.type === 'opaque') return { kv_transfer_params: request.kvSource.params };
  return {};
}

export interface CompletionChunk {
  readonly choices?: readonly {
    readonly index?: number;
    readonly token_ids?: readonly number[] | null;
    readonly finish_reason?: string | null;
    readonly logprobs?: {
      readonly token_logprobs?: readonly (number | null)[];
      readonly top_logprobs?: readonly (Readonly<Record<string, number>> | null)[];
    } | null;
  }[];
  readonly usage?: { readonly prompt_tokens?: number; readonly completion_tokens?: number; readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null } | null;
  readonly kv_transfer_params?: Readonly<Record<string, unknown>> | null;
  readonly error?: { readonly message?: string; readonly code?: unknown };
}

/** The tokens of one chunk as columns; undefined when it brings none. */
export function batchOf(chunk: CompletionChunk, request: EngineRequest): TokenBatch | undefined {
  const rows = (chunk.choices ?? []).flatMap((choice) => {
    const ids = choice.token_ids ?? [];
    return ids.map((token, i) => ({ token, choice: choice.index ?? 0, finish: i === ids.length - 1 ? finishOf(choice.finish_reason) : FinishCode.None, at: i, logprobs: choice.logprobs }));
  });
  if (rows.length === 0) return undefined;
  const top = request.sampling.topLogprobs;
  const topCount = Math.max(0, top);
  const batch = {
    count: rows.length,
    tokenIds: Int32Array.from(rows, (row) => row.token),
    choices: request.choices > 1 ? Uint8Array.from(rows, (row) => row.choice) : undefined,
    finish: Uint8Array.from(rows, (row) => row.finish),
    logprobs: top < 0 ? undefined : Float32Array.from(rows, (row) => row.logprobs?.token_logprobs?.[row.at] ?? NaN),
    topCount,
    topTokenIds: topCount === 0 ? undefined : new Int32Array(rows.length * topCount).fill(-1),
    topLogprobs: topCount === 0 ? undefined : new Float32Array(rows.length * topCount),
  };
  rows.forEach((row, i) => {
    const alternatives = Object.entries(row.logprobs?.top_logprobs?.[row.at] ?? {}).sort(([, a], [, b]) => b - a);
    alternatives.slice(0, topCount).forEach(([name, logprob], k) => {
      (batch.topTokenIds as Int32Array)[i * topCount + k] = tokenIdOf(name);
      (batch.topLogprobs as Float32Array)[i * topCount + k] = logprob;
    });
  });
  return batch;
}

/** With `return_tokens_as_token_ids` a token is named `token_id:123`. */
function tokenIdOf(name: string): number {
  const id = Number(name.startsWith('token_id:') ? name.slice(9) : NaN);
  return Number.isInteger(id) ? id : -1;
}

export function finishOf(reason: string | null | undefined): FinishCode {
  if (reason === null || reason === undefined) return FinishCode.None;
  return reason === 'length' ? FinishCode.Length : FinishCode.Stop;
}

/** Numbers of a Prometheus text by name, summed over label sets; plus the labels of `vllm:cache_config_info`. */
export function parseMetrics(text: string): { readonly values: ReadonlyMap<string, number>; readonly cacheConfig: ReadonlyMap<string, string> } {
  const values = new Map<string, number>();
  const cacheConfig = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)/.exec(line);
    if (match === null) continue;
    const [, name = '', labels = '', value = ''] = match;
    values.set(name, (values.get(name) ?? 0) + Number(value));
    if (name !== 'vllm:cache_config_info') continue;
    for (const [, key = '', label = ''] of labels.matchAll(/(\w+)="([^"]*)"/g)) cacheConfig.set(key, label);
  }
  return { values, cacheConfig };
}
