import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import { readFully, readHeader, toFloats } from './safetensors.ts';
import type { TensorPlace } from './safetensors.ts';
import { readJson, readShape } from './shape.ts';
import type { ModelShape } from './shape.ts';

const INDEX_FILE = 'model.safetensors.index.json';

/** Weight files of a folder: those named by the index, else model.safetensors. */
function weightFiles(folder: string): string[] {
  const index = readJson(folder, INDEX_FILE);
  if (index === undefined) {
    if (!existsSync(join(folder, 'model.safetensors'))) {
      throw new ArmatureError('ENGINE_MODEL_FILE_MISSING', `no model.safetensors and no ${INDEX_FILE} in ${folder}`, {
        hint: 'point `source` at a Hugging Face model folder with safetensors weights',
      });
    }
    return ['model.safetensors'];
  }
  const map = index['weight_map'];
  const files = typeof map === 'object' && map !== null ? [...new Set(Object.values(map))] : [];
  if (files.length === 0 || !files.every((file) => typeof file === 'string' && file === basename(file))) {
    throw new ArmatureError('ENGINE_MODEL_FILE_INVALID', `${INDEX_FILE} has no weight_map from tensors to file names of the same folder`, { hint: 'download the model again' });
  }
  return (files as string[]).sort();
}

/** Names and shapes of the tensors that a model of this shape has. */
export function expectedTensors(shape: ModelShape): Map<string, readonly number[]> {
  const { hiddenSize, intermediateSize, headDim } = shape;
  const q = shape.heads * headDim;
  const kv = shape.kvHeads * headDim;
  const tensors = new Map<string, readonly number[]>([['model.embed_tokens.weight', [shape.vocabSize, hiddenSize]]]);
  if (!shape.tiedEmbeddings) tensors.set('lm_head.weight', [shape.vocabSize, hiddenSize]);
  tensors.set('model.norm.weight', [hiddenSize]);
  for (let layer = 0; layer < shape.layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    tensors.set(`${prefix}input_layernorm.weight`, [hiddenSize]);
    tensors.set(`${prefix}post_attention_layernorm.weight`, [hiddenSize]);
    tensors.set(`${prefix}self_attn.q_proj.weight`, [q, hiddenSize]);
    tensors.set(`${prefix}self_attn.k_proj.weight`, [kv, hiddenSize]);
    tensors.set(`${prefix}self_attn.v_proj.weight`, [kv, hiddenSize]);
    tensors.set(`${prefix}self_attn.o_proj.weight`, [hiddenSize, q]);
    tensors.set(`${prefix}mlp.gate_proj.weight`, [intermediateSize, hiddenSize]);
    tensors.set(`${prefix}mlp.up_proj.weight`, [intermediateSize, hiddenSize]);
    tensors.set(`${prefix}mlp.down_proj.weight`, [hiddenSize, intermediateSize]);
    if (shape.qkvBias) {
      tensors.set(`${prefix}self_attn.q_proj.bias`, [q]);
      tensors.set(`${prefix}self_attn.k_proj.bias`, [kv]);
      tensors.set(`${prefix}self_attn.v_proj.bias`, [kv]);
    }
    if (shape.outputBias) tensors.set(`${prefix}self_attn.o_proj.bias`, [hiddenSize]);
  }
  return tensors;
}

/** A model folder whose files were checked: every tensor is there with the right shape, inside its file. */
export class Checkpoint {
  readonly folder: string;
  readonly shape: ModelShape;
  readonly #places: ReadonlyMap<string, TensorPlace>;

  private constructor(folder: string, shape: ModelShape, places: ReadonlyMap<string, TensorPlace>) {
    this.folder = folder;
    this.shape = shape;
    this.#places = places;
  }

  /** Reads config.json and the headers only. */
  static open(folder: string): Checkpoint {
    const shape = readShape(folder);
    const found = new Map<string, TensorPlace>();
    for (const file of weightFiles(folder)) for (const tensor of readHeader(join(folder, file))) found.set(tensor.name, tensor);
    const places = new Map<string, TensorPlace>();
    for (const [name, sizes] of expectedTensors(shape)) {
      const tensor = found.get(name);
      if (tensor === undefined) {
        throw new ArmatureError('ENGINE_MODEL_FILE_INVALID', `the weights have no tensor ${name}`, { hint: 'config.json and weights do not belong together: download the model again', details: { folder, tensor: name } });
      }
      if (tensor.shape.join() !== sizes.join()) {
        throw new ArmatureError('ENGINE_MODEL_FILE_INVALID', `tensor ${name} has shape [${tensor.shape.join(', ')}], config.json wants [${sizes.join(', ')}]`, {
          hint: 'config.json and weights do not belong together: download the model again',
          details: { folder, tensor: name },
        });
      }
      places.set(name, tensor);
    }
    return new Checkpoint(folder, shape, places);
  }

  /**
   * Reads all tensors one after the other, in a fixed order; `visit` gets each as f32 and must not keep it.
   * Returns the model's fingerprint: 32 hex digits over shape, tensor names, types, sizes and bytes.
   */
  readAll(visit: (name: string, values: Float32Array) => void): string {
    const hash = createHash('sha256').update(JSON.stringify(this.shape));
    const files = new Map<string, number>();
    try {
      for (const tensor of this.#places.values()) {
        let file = files.get(tensor.path);
        if (file === undefined) files.set(tensor.path, (file = openSync(tensor.path, 'r')));
        const bytes = new Uint8Array(tensor.lengthBytes);
        readFully(file, bytes, tensor.byteOffset, tensor.path);
        hash.update(`${tensor.name} ${tensor.dtype} ${tensor.shape.join('x')}\n`).update(bytes);
        visit(tensor.name, toFloats(bytes, tensor.dtype));
      }
    } finally {
      for (const file of files.values()) closeSync(file);
    }
    return hash.digest('hex').slice(0, 32);
  }
}
