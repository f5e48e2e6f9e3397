import type { Kernels, SharedMemory } from './kernels.ts';
import { PANEL, TILE_ROWS } from './memory-plan.ts';
import type { LayerPlan, MemoryPlan } from './memory-plan.ts';

/**
 * One forward pass over the step in the memory's columns. Writes the KV of all rows into their blocks and leaves one row of logits per
 * sampled sequence, in batch order. The last layer computes only what sampled rows need.
 */
export class ForwardPass {
  readonly #plan: MemoryPlan;
  readonly #kernels: Kernels;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #rowBlocks: Uint32Array;
  /** Bytes of one row of each kind. */
  readonly #hiddenBytes: number;
  readonly #queryBytes: number;
  readonly #qkvBytes: number;
  readonly #gateUpBytes: number;
  readonly #layerBytes: number;

  constructor(plan: MemoryPlan, kernels: Kernels, memory: SharedMemory) {
    const { shape } = plan;
    this.#plan = plan;
    this.#kernels = kernels;
    this.#words = new Int32Array(memory.buffer);
    this.#bytes = new Uint8Array(memory.buffer);
    this.#rowBlocks = new Uint32Array(memory.buffer, plan.columns.rowBlocks, plan.limits.maxBatchedTokens);
    this.#hiddenBytes = 4 * shape.hiddenSize;
    this.#queryBytes = 4 * shape.heads * shape.headDim;
    this.#qkvBytes = 4 * (shape.heads + 2 * shape.kvHeads) * shape.headDim;
    this.#gateUpBytes = 8 * shape.intermediateSize;
    this.#layerBytes = plan.bytesPerBlock / shape.layers;
  }

  /** Number of sampled sequences, that is rows of logits. */
  run(): number {
    const plan = this.#plan;
    const { scratch, columns, shape } = plan;
    const sequences = this.#words[columns.header / 4]!;
    const rows = this.#placeRows(sequences);
    this.#kernels.embed(columns.tokenIds, rows, plan.embedding, shape.hiddenSize, shape.tiedEmbeddings ? PANEL : 1, scratch.residual, this.#hiddenBytes);
    const last = shape.layers - 1;
    for (let layer = 0; layer < last; layer++) {
      this.#projectRows(layer, rows);
      this.#attendAll(layer, sequences);
      this.#finishRows(plan.layers[layer]!, scratch.residual, scratch.queries, rows);
    }
    this.#projectRows(last, rows);
    const sampled = this.#attendSampled(last, sequences);
    if (sampled === 0) return 0;
    this.#finishRows(plan.layers[last]!, scratch.sampledResidual, scratch.sampledQueries, sampled);
    this.#logits(sampled);
    return sampled;
  }

  /** Byte address of row `index` of the logits. */
  logitsRow(index: number): number {
    return this.#plan.scratch.logits + index * this.#plan.paddedVocab * 4;
  }

  /** Position and block address of every row. Returns the number of rows. */
  #placeRows(sequences: number): number {
    const { columns, limits, arena, bytesPerBlock } = this.#plan;
    const words = this.#words;
    let row = 0;
    for (let i = 0; i < sequences; i++) {
      const context = words[columns.contextLengths / 4 + i]!;
      const count = words[columns.queryLengths / 4 + i]!;
      const blocks = columns.blocks / 4 + words[columns.blockStarts / 4 + i]!;
      for (let t = 0; t < count; t++, row++) {
        words[columns.rowPositions / 4 + row] = context + t;
        this.#rowBlocks[row] = arena + words[blocks + Math.floor((context + t) / limits.blockSize)]! * bytesPerBlock;
      }
    }
    return row;
  }

  /** Norm, query, key and value projections, rotation, KV into the blocks. */
  #projectRows(index: number, rows: number): void {
    const { scratch, columns, shape, layers, ropeTable } = this.#plan;
    const kernels = this.#kernels;
    const layer = layers[index]!;
    const outs = this.#qkvBytes / 4;
    for (let row = 0; row < rows; row += TILE_ROWS) {
      const count = Math.min(TILE_ROWS, rows - row);
      kernels.rmsnorm(scratch.residual + row * this.#hiddenBytes, this.#hiddenBytes, count, layer.attentionNorm, shape.hiddenSize, shape.normEps, scratch.tileNormed, this.#hiddenBytes);
      kernels.matmul(scratch.tileNormed, this.#hiddenBytes, count, layer.qkv, shape.hiddenSize, outs, scratch.tileQkv, this.#qkvBytes, 0);
      if (layer.qkvBias !== 0) kernels.addBias(scratch.tileQkv, this.#qkvBytes, count, layer.qkvBias, outs);
      const queries = scratch.queries + row * this.#queryBytes;
      kernels.ropeStore(scratch.tileQkv, this.#qkvBytes, count, columns.rowPositions + 4 * row, columns.rowBlocks + 4 * row, index * this.#layerBytes, queries, this.#queryBytes, ropeTable);
    }
  }

  #attendAll(layer: number, sequences: number): void {
    const { scratch, columns } = this.#plan;
    const words = this.#words;
    let queries = scratch.queries;
    for (let i = 0; i < sequences; i++) {
      const count = words[columns.queryLengths / 4 + i]!;
      const blocks = columns.blocks + 4 * words[columns.blockStarts / 4 + i]!;
      this.#kernels.attention(queries, this.#queryBytes, count, words[columns.contextLengths / 4 + i]!, blocks, layer * this.#layerBytes, scratch.scores);
      queries += count * this.#queryBytes;
    }
  }

  /** Gathers the last row of each sampled sequence and attends for these rows only. */
  #attendSampled(layer: number, sequences: number): number {
    const { scratch, columns } = this.#plan;
    const words = this.#words;
    let row = 0;
    let sampled = 0;
    for (let i = 0; i < sequences; i++) {
      const count = words[columns.queryLengths / 4 + i]!;
      row += count;
      if (words[columns.samples / 4 + i] === 0) continue;
      const residual = scratch.residual + (row - 1) * this.#hiddenBytes;
      const query = scratch.queries + (row - 1) * this.#queryBytes;
      const target = scratch.sampledQueries + sampled * this.#queryBytes;
      this.#bytes.copyWithin(scratch.sampledResidual + sampled * this.#hiddenBytes, residual, residual + this.#hiddenBytes);
      this.#bytes.copyWithin(target, query, query + this.#queryBytes);
      const position = words[columns.contextLengths / 4 + i]! + count - 1;
      const blocks = columns.blocks + 4 * words[columns.blockStarts / 4 + i]!;
      this.#kernels.attention(target, this.#queryBytes, 1, position, blocks, layer * this.#layerBytes, scratch.scores);
      sampled++;
    }
    return sampled;
  }

  /** Output projection and feed-forward network of `rows` rows, added to their residual. */
  #finishRows(layer: LayerPlan, residuals: number, queries: number, rows: number): void {
    const { scratch, shape } = this.#plan;
    const kernels = this.#kernels;
    const { hiddenSize, intermediateSize } = shape;
    for (let row = 0; row < rows; row += TILE_ROWS) {
      const count = Math.min(TILE_ROWS, rows - row);
      const residual = residuals + row * this.#hiddenBytes;
      kernels.matmul(queries + row * this.#queryBytes, this.#queryBytes, count, layer.output, this.#queryBytes / 4, hiddenSize, residual, this.#hiddenBytes, 1);
      if (layer.outputBias !== 0) kernels.addBias(residual, this.#hiddenBytes, count, layer.outputBias, hiddenSize);
      kernels.rmsnorm(residual, this.#hiddenBytes, count, layer.mlpNorm, hiddenSize, shape.normEps, scratch.tileNormed, this.#hiddenBytes);
      kernels.matmul(scratch.tileNormed, this.#hiddenBytes, count, layer.gateUp, hiddenSize, 2 * intermediateSize, scratch.tileGateUp, this.#gateUpBytes, 0);
      kernels.siluMultiply(scratch.tileGateUp, this.#gateUpBytes, count, intermediateSize);
      kernels.matmul(scratch.tileGateUp, this.#gateUpBytes, count, layer.down, intermediateSize, hiddenSize, residual, this.#hiddenBytes, 1);
    }
  }

  #logits(rows: number): void {
    const { scratch, shape, finalNorm, head, paddedVocab } = this.#plan;
    this.#kernels.rmsnorm(scratch.sampledResidual, this.#hiddenBytes, rows, finalNorm, shape.hiddenSize, shape.normEps, scratch.tileNormed, this.#hiddenBytes);
    this.#kernels.matmul(scratch.tileNormed, this.#hiddenBytes, rows, head, shape.hiddenSize, paddedVocab, scratch.logits, paddedVocab * 4, 0);
  }
}
