import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expectedTensors } from '../checkpoint/checkpoint.ts';
import { readShape } from '../checkpoint/shape.ts';
import type { TensorType } from '../checkpoint/safetensors.ts';

/** Small xorshift generator for tests: seeded, so that failures repeat. */
export function seededRandom(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 0x1_0000_0000;
  };
}

export function randomFloats(random: () => number, count: number, scale = 1): Float32Array {
  return Float32Array.from({ length: count }, () => (random() * 2 - 1) * scale);
}

function encode(values: Float32Array, dtype: TensorType): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  // Truncation is enough: the numbers are random anyway. Halves cover normal numbers only.
  const word = (b: number): number => {
    if (dtype === 'BF16') return b >>> 16;
    const exponent = ((b >>> 23) & 255) - 112;
    return exponent <= 0 ? 0 : ((b >>> 16) & 0x8000) | (exponent << 10) | ((b >>> 13) & 0x3ff);
  };
  return new Uint8Array(Uint16Array.from(bits, word).buffer);
}

export function writeSafetensors(path: string, tensors: ReadonlyMap<string, { shape: readonly number[]; values: Float32Array }>, dtype: TensorType): void {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  const parts: Uint8Array[] = [];
  let at = 0;
  for (const [name, tensor] of tensors) {
    const bytes = encode(tensor.values, dtype);
    header[name] = { dtype, shape: tensor.shape, data_offsets: [at, at + bytes.length] };
    parts.push(bytes);
    at += bytes.length;
  }
  const text = JSON.stringify(header);
  const head = Buffer.from(text + ' '.repeat((8 - (text.length % 8)) % 8));
  const length = Buffer.alloc(8);
  length.writeUInt32LE(head.length, 0);
  writeFileSync(path, Buffer.concat([length, head, ...parts]));
}

export interface CheckpointChoices {
  readonly config?: Readonly<Record<string, unknown>>;
  readonly dtype?: TensorType;
  readonly shards?: number;
  readonly seed?: number;
}

const folders: string[] = [];

/** Writes a random model to a temporary folder and returns the folder. */
export function writeCheckpoint(choices: CheckpointChoices = {}): string {
  const folder = mkdtempSync(join(tmpdir(), 'armature-model-'));
  if (folders.push(folder) === 1) process.once('exit', () => folders.forEach((path) => rmSync(path, { recursive: true, force: true })));
  const config = {
    architectures: ['LlamaForCausalLM'],
    vocab_size: 77,
    hidden_size: 36,
    intermediate_size: 52,
    num_hidden_layers: 2,
    num_attention_heads: 6,
    num_key_value_heads: 2,
    head_dim: 8,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: true,
    eos_token_id: 3,
    ...choices.config,
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  const random = seededRandom(choices.seed ?? 1);
  const tensors = new Map<string, { shape: readonly number[]; values: Float32Array }>();
  for (const [name, shape] of expectedTensors(readShape(folder))) {
    const values = randomFloats(random, shape.reduce((a, b) => a * b, 1), 0.4);
    if (name.endsWith('norm.weight')) values.forEach((value, i) => (values[i] = 1 + value));
    tensors.set(name, { shape, values });
  }
  writeFiles(folder, tensors, choices);
  return folder;
}

function writeFiles(folder: string, tensors: Map<string, { shape: readonly number[]; values: Float32Array }>, choices: CheckpointChoices): void {
  const dtype = choices.dtype ?? 'F32';
  const shards = choices.shards ?? 1;
  if (shards === 1) {
    writeSafetensors(join(folder, 'model.safetensors'), tensors, dtype);
    return;
  }
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < shards; shard++) {
    const file = `model-0000${shard + 1}-of-0000${shards}.safetensors`;
    const part = new Map([...tensors].filter((_, i) => i % shards === shard));
    for (const name of part.keys()) weightMap[name] = file;
    writeSafetensors(join(folder, file), part, dtype);
  }
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }));
}
