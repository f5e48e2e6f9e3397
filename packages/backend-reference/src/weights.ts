import type { Checkpoint } from './checkpoint/checkpoint.ts';
import { fillRopeTable, inverseFrequencies } from './math/rope-table.ts';
import { PANEL } from './memory-plan.ts';
import type { LayerPlan, MemoryPlan } from './memory-plan.ts';
import type { RankHeads } from './ranks.ts';

/** Row-major [outs][k] into panels [out / 8][k][out % 8] that begin at `target`, as outputs `firstOut`, `firstOut + 1`, ... */
export function packPanels(source: Float32Array, k: number, target: Float32Array, firstOut: number): void {
  const outs = source.length / k;
  for (let row = 0; row < outs; row++) {
    const out = firstOut + row;
    let at = Math.floor(out / PANEL) * PANEL * k + (out % PANEL);
    for (let i = row * k; i < (row + 1) * k; i++, at += PANEL) target[at] = source[i]!;
  }
}

type QkvPart = 'queries' | 'keys' | 'values';

/** A rank's rows are [queries | keys | values] of its heads: which of the model's heads they are, and at which head of the rows they begin. */
function headsOf(rank: RankHeads, part: QkvPart): readonly [first: number, count: number, at: number] {
  if (part === 'queries') return [rank.firstHead, rank.heads, 0];
  return [rank.firstKvHead, rank.kvHeads, part === 'keys' ? rank.heads : rank.heads + rank.kvHeads];
}

const LAYER = /^model\.layers\.(\d+)\.(.+)$/;

/** Copies all weights to their places and fills the rotary table. Returns the model's fingerprint. */
export function loadWeights(checkpoint: Checkpoint, plan: MemoryPlan, buffer: SharedArrayBuffer): string {
  const { shape, limits } = plan;
  const copy = (address: number, values: Float32Array): void => new Float32Array(buffer, address, values.length).set(values);
  const pack = (address: number, values: Float32Array, k: number, firstOut = 0): void =>
    packPanels(values, k, new Float32Array(buffer, address, Math.ceil((firstOut + values.length / k) / PANEL) * PANEL * k), firstOut);
  const { headDim, hiddenSize, intermediateSize } = shape;
  const eachRank = (values: Float32Array, part: QkvPart, width: number, take: (rank: number, rows: Float32Array, firstOut: number) => void): void =>
    plan.ranks.forEach((rank, r) => {
      const [first, count, at] = headsOf(rank, part);
      take(r, values.subarray(first * headDim * width, (first + count) * headDim * width), at * headDim);
    });
  const project = (layer: LayerPlan, values: Float32Array, part: QkvPart): void =>
    eachRank(values, part, hiddenSize, (rank, rows, firstOut) => pack(layer.qkv[rank]!, rows, hiddenSize, firstOut));
  const bias = (layer: LayerPlan, values: Float32Array, part: QkvPart): void =>
    eachRank(values, part, 1, (rank, rows, firstOut) => copy(layer.qkvBias[rank]! + 4 * firstOut, rows));
  const loadLayer = (index: number, name: string, values: Float32Array): void => {
    const layer = plan.layers[index]!;
    if (name === 'input_layernorm.weight') copy(layer.attentionNorm, values);
    else if (name === 'post_attention_layernorm.weight') copy(layer.mlpNorm, values);
    else if (name === 'self_attn.q_proj.weight') project(layer, values, 'queries');
    else if (name === 'self_attn.k_proj.weight') project(layer, values, 'keys');
    else if (name === 'self_attn.v_proj.weight') project(layer, values, 'values');
    else if (name === 'self_attn.q_proj.bias') bias(layer, values, 'queries');
    else if (name === 'self_attn.k_proj.bias') bias(layer, values, 'keys');
    else if (name === 'self_attn.v_proj.bias') bias(layer, values, 'values');
    else if (name === 'self_attn.o_proj.weight') pack(layer.output, values, shape.heads * headDim);
    else if (name === 'self_attn.o_proj.bias') copy(layer.outputBias, values);
    else if (name === 'mlp.gate_proj.weight') pack(layer.gateUp, values, hiddenSize);
    else if (name === 'mlp.up_proj.weight') pack(layer.gateUp, values, hiddenSize, intermediateSize);
    else pack(layer.down, values, intermediateSize);
  };
  const fingerprint = checkpoint.readAll((name, values) => {
    const match = LAYER.exec(name);
    if (match !== null) loadLayer(Number(match[1]), match[2]!, values);
    else if (name === 'model.norm.weight') copy(plan.finalNorm, values);
    else if (name === 'lm_head.weight') pack(plan.head, values, hiddenSize);
    else if (shape.tiedEmbeddings) pack(plan.embedding, values, hiddenSize);
    else copy(plan.embedding, values);
  });
  const table = new Float32Array(buffer, plan.ropeTable, limits.maxModelTokens * shape.headDim);
  fillRopeTable(table, inverseFrequencies(shape.headDim, shape.ropeTheta, shape.ropeScaling));
  return fingerprint;
}
