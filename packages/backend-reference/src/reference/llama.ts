import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { ModelShape } from '../checkpoint/shape.ts';
import { fillRopeTable, inverseFrequencies } from '../math/rope-table.ts';
import { add, attend, matmul, rmsnorm, rope, siluMultiply } from './ops.ts';

/** KV of one sequence: [layer][position] → the concatenated KV heads. */
interface LayerCache {
  readonly keys: Float32Array[];
  readonly values: Float32Array[];
}

/** The whole model, one token at a time, over plain arrays: no pages, no tiles, no batch. The yardstick for the kernels. */
export class ReferenceLlama {
  readonly shape: ModelShape;
  readonly #weights: Map<string, Float32Array>;
  readonly #ropeTable: Float32Array;
  readonly #caches: LayerCache[];

  constructor(checkpoint: Checkpoint) {
    this.shape = checkpoint.shape;
    this.#weights = new Map();
    checkpoint.readAll((name, values) => this.#weights.set(name, values.slice()));
    const { headDim, maxTokens, ropeTheta, ropeScaling } = this.shape;
    this.#ropeTable = new Float32Array(maxTokens * headDim);
    fillRopeTable(this.#ropeTable, inverseFrequencies(headDim, ropeTheta, ropeScaling));
    this.#caches = [];
    this.reset();
  }

  /** Forgets the sequence. */
  reset(): void {
    this.#caches.length = 0;
    for (let layer = 0; layer < this.shape.layers; layer++) this.#caches.push({ keys: [], values: [] });
  }

  /** Logits after `tokenId`, the next token of the sequence. */
  next(tokenId: number): Float32Array {
    const { hiddenSize, vocabSize, normEps, layers, tiedEmbeddings } = this.shape;
    const embedding = this.#weight('model.embed_tokens.weight');
    let x: Float32Array = embedding.slice(tokenId * hiddenSize, (tokenId + 1) * hiddenSize);
    for (let layer = 0; layer < layers; layer++) x = this.#layer(layer, x);
    const head = tiedEmbeddings ? embedding : this.#weight('lm_head.weight');
    return matmul(rmsnorm(x, this.#weight('model.norm.weight'), normEps), head, vocabSize);
  }

  #weight(name: string): Float32Array {
    return this.#weights.get(name)!;
  }

  #linear(x: Float32Array, name: string, outs: number): Float32Array {
    const y = matmul(x, this.#weight(`${name}.weight`), outs);
    const bias = this.#weights.get(`${name}.bias`);
    return bias === undefined ? y : add(y, bias);
  }

  #layer(layer: number, input: Float32Array): Float32Array {
    const { hiddenSize, intermediateSize, normEps } = this.shape;
    const prefix = `model.layers.${layer}.`;
    const mixed = this.#attention(layer, rmsnorm(input, this.#weight(`${prefix}input_layernorm.weight`), normEps));
    let x: Float32Array = add(input, matmul(mixed, this.#weight(`${prefix}self_attn.o_proj.weight`), hiddenSize));
    const bias = this.#weights.get(`${prefix}self_attn.o_proj.bias`);
    if (bias !== undefined) x = add(x, bias);
    const h = rmsnorm(x, this.#weight(`${prefix}post_attention_layernorm.weight`), normEps);
    const gate = this.#linear(h, `${prefix}mlp.gate_proj`, intermediateSize);
    const up = this.#linear(h, `${prefix}mlp.up_proj`, intermediateSize);
    return add(x, matmul(siluMultiply(gate, up), this.#weight(`${prefix}mlp.down_proj.weight`), hiddenSize));
  }

  #attention(layer: number, h: Float32Array): Float32Array {
    const { heads, kvHeads, headDim } = this.shape;
    const prefix = `model.layers.${layer}.self_attn.`;
    const cache = this.#caches[layer]!;
    const at = cache.keys.length * headDim;
    const cosines = this.#ropeTable.subarray(at, at + headDim / 2);
    const sines = this.#ropeTable.subarray(at + headDim / 2, at + headDim);
    const turn = (x: Float32Array, head: number): Float32Array => rope(x.subarray(head * headDim, (head + 1) * headDim), cosines, sines);
    const q = this.#linear(h, `${prefix}q_proj`, heads * headDim);
    const k = this.#linear(h, `${prefix}k_proj`, kvHeads * headDim);
    const turned = new Float32Array(k.length);
    for (let head = 0; head < kvHeads; head++) turned.set(turn(k, head), head * headDim);
    cache.keys.push(turned);
    cache.values.push(this.#linear(h, `${prefix}v_proj`, kvHeads * headDim));
    const scale = Math.fround(1 / Math.sqrt(headDim));
    const out = new Float32Array(heads * headDim);
    for (let head = 0; head < heads; head++) {
      const from = Math.floor(head / (heads / kvHeads)) * headDim;
      const keys = cache.keys.map((key) => key.subarray(from, from + headDim));
      const values = cache.values.map((value) => value.subarray(from, from + headDim));
      out.set(attend(turn(q, head), keys, values, scale), head * headDim);
    }
    return out;
  }
}
