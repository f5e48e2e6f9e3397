import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { ModelCard } from '@armature/contracts';
import type { ModelFiles } from './model-files.ts';
import type { Tokenizer } from './tokenizer/tokenizer.ts';

type Json = Record<string, unknown>;
type Defaults = { -readonly [K in keyof ModelCard['defaults']]: ModelCard['defaults'][K] };

export interface ModelCardOptions {
  readonly source: string;
  readonly tokenizer: Tokenizer;
  /** 0 = from the files. */
  readonly maxModelTokens: number;
}

/** Facts about the model from its files. Throws `PREPROCESSOR_FILE_INVALID` where a needed one is absent. */
export function buildModelCard(files: ModelFiles, options: ModelCardOptions): ModelCard {
  const { config, generationConfig } = files;
  // Multimodal models keep the language model's config one level down.
  const text = isObject(config.text_config) ? { ...config, ...config.text_config } : config;
  const architectures = Array.isArray(config.architectures) ? (config.architectures as unknown[]) : [];
  return {
    source: options.source,
    architecture: String(architectures[0] ?? config.model_type ?? 'unknown'),
    vocabSize: positive(text.vocab_size) ?? options.tokenizer.size,
    maxModelTokens: options.maxModelTokens > 0 ? options.maxModelTokens : contextLength(files, text),
    eosTokenIds: eosTokenIds(files, text, options.tokenizer),
    bosTokenId: tokenIdOf(files.tokenizerConfig.bos_token, options.tokenizer) ?? firstId(text.bos_token_id),
    fingerprint: fingerprint(files),
    defaults: samplingDefaults(generationConfig),
    hasChatTemplate: files.templates !== undefined,
  };
}

/** Content of a token field: text, or the serialised form of a special token. */
export function tokenContent(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  return isObject(value) && typeof value.content === 'string' ? value.content : undefined;
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function positive(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : undefined;
}

function contextLength(files: ModelFiles, config: Json): number {
  // model_max_length is 1e30 where the author did not say.
  const ofTokenizer = positive(files.tokenizerConfig.model_max_length);
  const found = positive(config.max_position_embeddings) ?? positive(config.n_positions) ?? positive(config.max_sequence_length) ?? (ofTokenizer !== undefined && ofTokenizer < 1e9 ? ofTokenizer : undefined);
  if (found !== undefined) return found;
  const file = join(files.folder, 'config.json');
  throw new ArmatureError('PREPROCESSOR_FILE_INVALID', `${file} does not say how long the context is (max_position_embeddings)`, {
    hint: 'set maxModelTokens in the preprocessor’s config',
    details: { file },
  });
}

function ids(value: unknown): number[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
}

function firstId(value: unknown): number | undefined {
  return ids(value)[0];
}

function tokenIdOf(value: unknown, tokenizer: Tokenizer): number | undefined {
  const content = tokenContent(value);
  return content === undefined ? undefined : tokenizer.tokenId(content);
}

/** What generation_config.json says (else config.json), and the tokenizer's own. */
function eosTokenIds(files: ModelFiles, config: Json, tokenizer: Tokenizer): number[] {
  const said = ids(files.generationConfig.eos_token_id);
  const all = new Set(said.length > 0 ? said : ids(config.eos_token_id));
  const own = tokenIdOf(files.tokenizerConfig.eos_token, tokenizer);
  if (own !== undefined) all.add(own);
  return [...all];
}

function samplingDefaults(generation: Json): ModelCard['defaults'] {
  const defaults: Defaults = {};
  if (generation.do_sample === false) defaults.temperature = 0;
  else if (typeof generation.temperature === 'number') defaults.temperature = generation.temperature;
  if (typeof generation.top_p === 'number') defaults.topP = generation.top_p;
  if (typeof generation.top_k === 'number') defaults.topK = generation.top_k;
  const maxTokens = positive(generation.max_new_tokens);
  if (maxTokens !== undefined) defaults.maxTokens = maxTokens;
  return defaults;
}

function fingerprint(files: ModelFiles): string {
  const hash = createHash('sha256').update('armature model card 1\n');
  for (const part of [files.tokenizerText, files.configText, ...[...(files.templates ?? new Map<string, string>())].flat()]) hash.update(`${part.length}:`).update(part);
  return hash.digest('hex');
}
