import type { Kernels, SharedMemory } from './kernels.ts';
import { PANEL, qkvWidth, TILE_ROWS } from './memory-plan.ts';
import type { LayerPlan, MemoryPlan } from './memory-plan.ts';

/**
 * One forward pass over the step in the memory's columns. Writes the KV of all rows into their blocks and leaves one row of logits per
 * sampled sequence, in batch order. The last layer computes only what sampled rows need.
 *
 * Ranks project, rotate and attend for their own heads, one rank after the other, each over its own arena. They write into their columns of the same
 * query rows, which are then what a gather of the heads would give: everything after it has the same bits for any number of ranks.
 */
export class ForwardPass {
  readonly #plan: MemoryPlan;
  readonly #kernels: Kernels;
  /** Per rank. */
  readonly #rankKernels: readonly Kernels[];
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #rowBlocks: Uint32Array;
  /** Bytes of one row of each kind. */
  readonly #hiddenBytes: number;
  readonly #queryBytes: number;
  readonly #gateUpBytes: number;
  /** Of one rank. */
  readonly #qkvBytes: number;
  readonly #rankQueryBytes: number;
  readonly #layerBytes: number;

  /** `kernels`: one instance per rank, as `kernelsFor` makes them. */
  constructor(plan: MemoryPlan, kernels: readonly Kernels[], memory: SharedMemory) {
    const { shape, ranks } = plan;
    const rank = ranks[0]!;
    this.#plan = plan;
    this.#kernels = kernels[0]!;
    this.#rankKernels = kernels;
    this.#words = new Int32Array(memory.buffer);
    this.#bytes = new Uint8Array(memory.buffer);
    this.#rowBlocks = new Uint32Array(memory.buffer, plan.columns.rowBlocks, ranks.length * plan.limits.maxBatchedTokens);
    this.#hiddenBytes = 4 * shape.hiddenSize;
    this.#queryBytes = 4 * shape.heads * shape.headDim;
    this.#gateUpBytes = 8 * shape.intermediateSize;
    this.#qkvBytes = 4 * qkvWidth(shape, rank);
    this.#rankQueryBytes = 4 * rank.heads * shape.headDim;
    this.#layerBytes = plan.rankBlockBytes / shape.layers;
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

  /** Position of every row, and the address of its block in every rank's arena. Returns the number of rows. */
  #placeRows(sequences: number): number {
    const { columns, limits, rankArenas, rankBlockBytes } = this.#plan;
    const words = this.#words;
    let row = 0;
    for (let i = 0; i < sequences; i++) {
      const context = words[columns.contextLengths / 4 + i]!;
      const count = words[columns.queryLengths / 4 + i]!;
      const blocks = columns.blocks / 4 + words[columns.blockStarts / 4 + i]!;
      for (let t = 0; t < count; t++, row++) {
        words[columns.rowPositions / 4 + row] = context + t;
        const offset = words[blocks + Math.floor((context + t) / limits.blockSize)]! * rankBlockBytes;
        for (let rank = 0; rank < rankArenas.length; rank++) this.#rowBlocks[rank * limits.maxBatchedTokens + row] = rankArenas[rank]! + offset;
      }
    }
    return row;
  }

  /** Norm, then query, key and value projections of each rank, rotation, KV into the rank's blocks. */
  #projectRows(index: number, rows: number): void {
    const { scratch, shape, layers, ranks } = this.#plan;
    const layer = layers[index]!;
    for (let row = 0; row < rows; row += TILE_ROWS) {
      const count = Math.min(TILE_ROWS, rows - row);
      this.#kernels.rmsnorm(scratch.residual + row * this.#hiddenBytes, this.#hiddenBytes, count, layer.attentionNorm, shape.hiddenSize, shape.normEps, scratch.tileNormed, this.#hiddenBytes);
      for (let rank = 0; rank < ranks.length; rank++) this.#projectRank(rank, index, row, count);
    }
  }

  #projectRank(rank: number, index: number, row: number, count: number): void {
    const { scratch, columns, limits, shape, layers, ropeTable } = this.#plan;
    const kernels = this.#rankKernels[rank]!;
    const { qkv, qkvBias } = layers[index]!;
    const outs = this.#qkvBytes / 4;
    kernels.matmul(scratch.tileNormed, this.#hiddenBytes, count, qkv[rank]!, shape.hiddenSize, outs, scratch.tileQkv, this.#qkvBytes, 0);
    if (qkvBias.length > 0) kernels.addBias(scratch.tileQkv, this.#qkvBytes, count, qkvBias[rank]!, outs);
    const queries = scratch.queries + row * this.#queryBytes + rank * this.#rankQueryBytes;
    const blocks = columns.rowBlocks + 4 * (rank * limits.maxBatchedTokens + row);
    kernels.ropeStore(scratch.tileQkv, this.#qkvBytes, count, columns.rowPositions + 4 * row, blocks, index * this.#layerBytes, queries, this.#queryBytes, ropeTable);
  }

  #attendAll(layer: number, sequences: number): void {
    const { scratch, columns } = this.#plan;
    const words = this.#words;
    let queries = scratch.queries;
    for (let i = 0; i < sequences; i++) {
      const count = words[columns.queryLengths / 4 + i]!;
      this.#attend(queries, count, words[columns.contextLengths / 4 + i]!, layer, i);
      queries += count * this.#queryBytes;
    }
  }

  /** Attention of `count` query rows of a sequence, which are overwritten with the result: each rank does the columns of its heads. */
  #attend(queries: number, count: number, context: number, layer: number, sequence: number): void {
    const { scratch, columns } = this.#plan;
    const blocks = columns.blocks + 4 * this.#words[columns.blockStarts / 4 + sequence]!;
    for (let rank = 0; rank < this.#rankKernels.length; rank++) {
      this.#rankKernels[rank]!.attention(queries + rank * this.#rankQueryBytes, this.#queryBytes, count, context, blocks, layer * this.#layerBytes, scratch.scores);
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
      this.#attend(target, 1, words[columns.contextLengths / 4 + i]! + count - 1, layer, i);
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
