import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { RopeScaling } from '../math/rope-table.ts';

/** Sizes and constants of a Llama-architecture model, from config.json. Plain data: travels to the thread. */
export interface ModelShape {
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly maxTokens: number;
  readonly normEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
  readonly tiedEmbeddings: boolean;
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly eosTokenIds: readonly number[];
}

type Json = Readonly<Record<string, unknown>>;

export function unsupported(field: string, found: unknown, wanted: string): ArmatureError {
  return new ArmatureError('ENGINE_MODEL_UNSUPPORTED', `config.json: ${field} is ${JSON.stringify(found)}, the reference engine wants ${wanted}`, {
    hint: 'use a Llama-architecture model (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM), or another engine such as vllm',
    details: { field, found },
  });
}

export function readJson(folder: string, file: string): Json | undefined {
  let text: string;
  try {
    text = readFileSync(join(folder, file), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new ArmatureError('ENGINE_MODEL_FILE_INVALID', `${file} of the model cannot be read: ${(error as Error).message}`, { hint: 'check the permissions of the model folder', cause: error });
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  } catch {
    // falls through to the one message
  }
  throw new ArmatureError('ENGINE_MODEL_FILE_INVALID', `${file} of the model is not a JSON object`, { hint: 'download the model again', details: { folder, file } });
}

function integer(config: Json, field: string, fallback?: number): number {
  const value = config[field] ?? fallback;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) throw unsupported(field, value, 'a positive integer');
  return value;
}

function flag(config: Json, field: string, fallback: boolean): boolean {
  const value = config[field] ?? fallback;
  if (typeof value !== 'boolean') throw unsupported(field, value, 'true or false');
  return value;
}

function positive(config: Json, field: string, name: string, fallback?: number): number {
  const value = config[field] ?? fallback;
  if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) throw unsupported(name, value, 'a positive number');
  return value;
}

function readScaling(source: Json | undefined): RopeScaling {
  const type = source?.['rope_type'] ?? source?.['type'] ?? 'default';
  if (source === undefined || type === 'default') return { type: 'none' };
  const number = (field: string): number => positive(source, field, `rope_scaling.${field}`);
  if (type === 'linear') return { type: 'linear', factor: number('factor') };
  if (type !== 'llama3') throw unsupported('rope_scaling.rope_type', type, '"default", "linear" or "llama3"');
  return {
    type: 'llama3',
    factor: number('factor'),
    lowFrequencyFactor: number('low_freq_factor'),
    highFrequencyFactor: number('high_freq_factor'),
    originalMaxTokens: number('original_max_position_embeddings'),
  };
}

function tokenIds(value: unknown): readonly number[] {
  const list: unknown[] = Array.isArray(value) ? value : value === undefined || value === null ? [] : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isInteger(id));
}

const ARCHITECTURES = ['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM'];

function checkFixed(config: Json, architecture: string): void {
  const activation = config['hidden_act'] ?? 'silu';
  if (activation !== 'silu') throw unsupported('hidden_act', activation, '"silu"');
  if (flag(config, 'mlp_bias', false)) throw unsupported('mlp_bias', true, 'false');
  if (config['quantization_config'] !== undefined) throw unsupported('quantization_config', config['quantization_config'], 'unquantized f32, f16 or bf16 weights');
  const window = config['sliding_window'];
  const windowInUse = architecture === 'Qwen2ForCausalLM' ? config['use_sliding_window'] === true : window !== undefined && window !== null;
  if (architecture !== 'LlamaForCausalLM' && windowInUse) throw unsupported('sliding_window', window, 'null (full attention)');
}

function checkDivisions(shape: ModelShape): void {
  const { heads, kvHeads, headDim, hiddenSize, intermediateSize } = shape;
  if (heads % kvHeads !== 0) throw unsupported('num_key_value_heads', kvHeads, `a divisor of num_attention_heads (${heads})`);
  if (headDim % 8 !== 0) throw unsupported('head_dim', headDim, 'a multiple of 8');
  if (hiddenSize % 4 !== 0) throw unsupported('hidden_size', hiddenSize, 'a multiple of 4');
  if (intermediateSize % 4 !== 0) throw unsupported('intermediate_size', intermediateSize, 'a multiple of 4');
}

/** Reads and checks config.json (and the end-of-sequence ids of generation_config.json). */
export function readShape(folder: string): ModelShape {
  const config = readJson(folder, 'config.json');
  if (config === undefined) {
    throw new ArmatureError('ENGINE_MODEL_FILE_MISSING', `no config.json in ${folder}`, { hint: 'point `source` at a Hugging Face model folder' });
  }
  const names = config['architectures'];
  const architecture = Array.isArray(names) ? String(names[0]) : String(names);
  if (!ARCHITECTURES.includes(architecture)) throw unsupported('architectures', names, `one of ${ARCHITECTURES.join(', ')}`);
  checkFixed(config, architecture);
  const heads = integer(config, 'num_attention_heads');
  const hiddenSize = integer(config, 'hidden_size');
  const rope = (config['rope_parameters'] ?? undefined) as Json | undefined; // transformers 5 gathers what rope_theta and rope_scaling said
  const isQwen = architecture === 'Qwen2ForCausalLM';
  const attentionBias = flag(config, 'attention_bias', false);
  const generation = readJson(folder, 'generation_config.json');
  const shape: ModelShape = {
    architecture,
    vocabSize: integer(config, 'vocab_size'),
    hiddenSize,
    intermediateSize: integer(config, 'intermediate_size'),
    layers: integer(config, 'num_hidden_layers'),
    heads,
    kvHeads: integer(config, 'num_key_value_heads', heads),
    headDim: integer(config, 'head_dim', hiddenSize / heads),
    maxTokens: integer(config, 'max_position_embeddings'),
    normEps: positive(config, 'rms_norm_eps', 'rms_norm_eps', 1e-6),
    ropeTheta: positive(rope?.['rope_theta'] === undefined ? config : rope, 'rope_theta', 'rope_theta', 10000),
    ropeScaling: readScaling(rope ?? ((config['rope_scaling'] ?? undefined) as Json | undefined)),
    tiedEmbeddings: flag(config, 'tie_word_embeddings', false),
    qkvBias: isQwen || attentionBias,
    outputBias: !isQwen && attentionBias,
    eosTokenIds: [...new Set([...tokenIds(generation?.['eos_token_id']), ...tokenIds(config['eos_token_id'])])],
  };
  checkDivisions(shape);
  return shape;
}
