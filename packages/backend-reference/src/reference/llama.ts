import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { ModelShape } from '../checkpoint/shape.ts';
import { fillRopeTable, inverseFrequencies } from '../math/rope-table.ts';
import { splitHeads } from '../ranks.ts';
import type { RankHeads } from '../ranks.ts';
import { add, attend, matmul, rmsnorm, rope, siluMultiply } from './ops.ts';

/** KV of one sequence and rank: [layer][position] → the concatenated KV heads. */
interface LayerCache {
  readonly keys: Float32Array[];
  readonly values: Float32Array[];
}

/** The whole model, one token at a time, over plain arrays: no pages, no tiles, no batch. The yardstick for the kernels. */
export class ReferenceLlama {
  readonly shape: ModelShape;
  readonly #weights: Map<string, Float32Array>;
  readonly #ropeTable: Float32Array;
  readonly #ranks: readonly RankHeads[];
  /** By rank. */
  readonly #caches: LayerCache[][];

  constructor(checkpoint: Checkpoint, tensorParallel = 1) {
    this.shape = checkpoint.shape;
    this.#ranks = splitHeads(this.shape, tensorParallel);
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
    for (let rank = 0; rank < this.#ranks.length; rank++) this.#caches.push(Array.from({ length: this.shape.layers }, () => ({ keys: [], values: [] })));
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

  /** Outputs `first` to `first + outs` of a projection. */
  #linear(x: Float32Array, name: string, outs: number, first = 0): Float32Array {
    const y = matmul(x, this.#weight(`${name}.weight`).subarray(first * x.length, (first + outs) * x.length), outs);
    const bias = this.#weights.get(`${name}.bias`);
    return bias === undefined ? y : add(y, bias.subarray(first, first + outs));
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

  /** Each rank attends for its heads; then the heads are gathered. */
  #attention(layer: number, h: Float32Array): Float32Array {
    const { heads, headDim } = this.shape;
    const out = new Float32Array(heads * headDim);
    this.#ranks.forEach((rank, r) => out.set(this.#attendRank(layer, h, rank, this.#caches[r]![layer]!), rank.firstHead * headDim));
    return out;
  }

  #attendRank(layer: number, h: Float32Array, { firstHead, heads, firstKvHead, kvHeads }: RankHeads, cache: LayerCache): Float32Array {
    const { headDim } = this.shape;
    const prefix = `model.layers.${layer}.self_attn.`;
    const at = cache.keys.length * headDim;
    const cosines = this.#ropeTable.subarray(at, at + headDim / 2);
    const sines = this.#ropeTable.subarray(at + headDim / 2, at + headDim);
    const turn = (x: Float32Array, head: number): Float32Array => rope(x.subarray(head * headDim, (head + 1) * headDim), cosines, sines);
    const project = (name: string, count: number, first: number): Float32Array => this.#linear(h, `${prefix}${name}`, count * headDim, first * headDim);
    const q = project('q_proj', heads, firstHead);
    const k = project('k_proj', kvHeads, firstKvHead);
    const turned = new Float32Array(k.length);
    for (let head = 0; head < kvHeads; head++) turned.set(turn(k, head), head * headDim);
    cache.keys.push(turned);
    cache.values.push(project('v_proj', kvHeads, firstKvHead));
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
