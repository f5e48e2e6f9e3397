import { ArmatureError } from '@armature/contracts';
import type { ModelShape } from './checkpoint/shape.ts';
import { rankBlockBytes, splitHeads } from './ranks.ts';
import type { RankHeads } from './ranks.ts';

/** Limits chosen by the operator; all checked. */
export interface RunnerLimits {
  readonly blockSize: number;
  readonly totalBlocks: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly maxModelTokens: number;
  /** Ranks that the heads and the KV arena are split over. */
  readonly tensorParallel: number;
}

/** Byte addresses of one layer's weights; matrices in matmul panels. 0 = none. */
export interface LayerPlan {
  readonly attentionNorm: number;
  /** Per rank. */
  readonly qkv: readonly number[];
  /** Per rank; empty = none. */
  readonly qkvBias: readonly number[];
  readonly output: number;
  readonly outputBias: number;
  readonly mlpNorm: number;
  readonly gateUp: number;
  readonly down: number;
}

/** Columns of a step and of its result, written by the event loop and the thread in turn. Byte addresses. */
export interface ColumnPlan {
  /** Int32 words: [0] sequences. */
  readonly header: number;
  readonly slots: number;
  readonly queryLengths: number;
  readonly contextLengths: number;
  readonly samples: number;
  readonly outputIndexes: number;
  /** Per sequence: index of its first entry in `blocks`. */
  readonly blockStarts: number;
  readonly blocks: number;
  readonly tokenIds: number;
  readonly rowPositions: number;
  /** Rank after rank, maxBatchedTokens each. */
  readonly rowBlocks: number;
  readonly resultTokenIds: number;
  readonly resultLogprobs: number;
  readonly resultTopTokenIds: number;
  readonly resultTopLogprobs: number;
}

/** Intermediate values, of all heads unless said. `tile*` hold TILE_ROWS rows, `sampled*` hold maxSequences rows. */
export interface ScratchPlan {
  readonly residual: number;
  readonly queries: number;
  readonly tileNormed: number;
  /** Of one rank. */
  readonly tileQkv: number;
  readonly tileGateUp: number;
  readonly sampledResidual: number;
  readonly sampledQueries: number;
  readonly logits: number;
  readonly adjusted: number;
  readonly weights: number;
  readonly scores: number;
}

/** Where everything lies in the one shared memory. Plain data: made on the event loop, used by both threads. */
export interface MemoryPlan {
  readonly shape: ModelShape;
  readonly limits: RunnerLimits;
  readonly embedding: number;
  /** Output matrix; equal to `embedding` when tied. */
  readonly head: number;
  readonly finalNorm: number;
  readonly layers: readonly LayerPlan[];
  readonly ropeTable: number;
  readonly scratch: ScratchPlan;
  readonly columns: ColumnPlan;
  readonly ranks: readonly RankHeads[];
  /** The KV arena: the ranks' parts, one after the other. */
  readonly arena: number;
  readonly rankArenas: readonly number[];
  /** Of one rank's part of a block. */
  readonly rankBlockBytes: number;
  readonly maxBlocksPerSequence: number;
  /** Floats per row of logits: the vocabulary rounded up to a panel. */
  readonly paddedVocab: number;
  readonly pages: number;
}

/** Rows that the dense parts of a layer take at once: keeps their intermediate values in the second-level cache. */
export const TILE_ROWS = 64;
/** Width of a weight panel, in outputs; see assembly/matmul.ts. */
export const PANEL = 8;
export const MAX_TOP_LOGPROBS = 20;
const PAGE_BYTES = 65536;
const MAX_PAGES = 65536;
const FIRST_BYTE = PAGE_BYTES; // the first page is the compiler's

/** Bytes of one KV block: the parts of all ranks. */
export function bytesPerBlock(shape: ModelShape, blockSize: number, tensorParallel: number): number {
  return tensorParallel * rankBlockBytes(shape, splitHeads(shape, tensorParallel)[0]!, blockSize);
}

/** Outputs of a rank's query, key and value projections. */
export function qkvWidth(shape: ModelShape, { heads, kvHeads }: RankHeads): number {
  return (heads + 2 * kvHeads) * shape.headDim;
}

function padded(outs: number): number {
  return Math.ceil(outs / PANEL) * PANEL;
}

class Layout {
  #next: number;

  constructor(first: number) {
    this.#next = first;
  }

  /** Address of `count` four-byte words. */
  words(count: number, alignBytes = 64): number {
    const at = Math.ceil(this.#next / alignBytes) * alignBytes;
    this.#next = at + count * 4;
    return at;
  }

  /** Address of a matrix in panels. */
  panels(outs: number, k: number): number {
    return this.words(padded(outs) * k);
  }

  get end(): number {
    return this.#next;
  }
}

function planLayer(layout: Layout, shape: ModelShape, split: readonly RankHeads[]): LayerPlan {
  const { hiddenSize, intermediateSize, headDim } = shape;
  return {
    attentionNorm: layout.words(hiddenSize),
    qkv: split.map((heads) => layout.panels(qkvWidth(shape, heads), hiddenSize)),
    qkvBias: shape.qkvBias ? split.map((heads) => layout.words(qkvWidth(shape, heads))) : [],
    output: layout.panels(hiddenSize, shape.heads * headDim),
    outputBias: shape.outputBias ? layout.words(hiddenSize) : 0,
    mlpNorm: layout.words(hiddenSize),
    gateUp: layout.panels(2 * intermediateSize, hiddenSize),
    down: layout.panels(hiddenSize, intermediateSize),
  };
}

function planScratch(layout: Layout, shape: ModelShape, limits: RunnerLimits, rank: RankHeads): ScratchPlan {
  const { hiddenSize, headDim } = shape;
  const q = shape.heads * headDim;
  const paddedVocab = padded(shape.vocabSize);
  const tile = Math.max(TILE_ROWS, limits.maxSequences);
  return {
    residual: layout.words(limits.maxBatchedTokens * hiddenSize),
    queries: layout.words(limits.maxBatchedTokens * q),
    tileNormed: layout.words(tile * hiddenSize),
    tileQkv: layout.words(TILE_ROWS * qkvWidth(shape, rank)),
    tileGateUp: layout.words(TILE_ROWS * 2 * shape.intermediateSize),
    sampledResidual: layout.words(limits.maxSequences * hiddenSize),
    sampledQueries: layout.words(limits.maxSequences * q),
    logits: layout.words(limits.maxSequences * paddedVocab),
    adjusted: layout.words(paddedVocab),
    weights: layout.words(paddedVocab),
    scores: layout.words(limits.maxModelTokens + limits.blockSize + 4),
  };
}

function planColumns(layout: Layout, limits: RunnerLimits, maxBlocksPerSequence: number): ColumnPlan {
  const sequences = limits.maxSequences;
  return {
    header: layout.words(16),
    slots: layout.words(sequences),
    queryLengths: layout.words(sequences),
    contextLengths: layout.words(sequences),
    samples: layout.words(sequences),
    outputIndexes: layout.words(sequences),
    blockStarts: layout.words(sequences),
    blocks: layout.words(sequences * maxBlocksPerSequence),
    tokenIds: layout.words(limits.maxBatchedTokens),
    rowPositions: layout.words(limits.maxBatchedTokens),
    rowBlocks: layout.words(limits.tensorParallel * limits.maxBatchedTokens),
    resultTokenIds: layout.words(sequences),
    resultLogprobs: layout.words(sequences),
    resultTopTokenIds: layout.words(sequences * MAX_TOP_LOGPROBS),
    resultTopLogprobs: layout.words(sequences * MAX_TOP_LOGPROBS),
  };
}

function checkLimits(shape: ModelShape, limits: RunnerLimits): void {
  for (const [field, value] of Object.entries(limits)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ArmatureError('ENGINE_CONFIG_INVALID', `${field} is ${value}, a positive integer is wanted`, { hint: `set ${field} in the engine's config` });
    }
  }
  if (limits.blockSize % 4 !== 0) {
    throw new ArmatureError('ENGINE_CONFIG_INVALID', `blockSize is ${limits.blockSize}, the reference engine wants a multiple of 4`, { hint: 'set the model\'s blockSize to 16' });
  }
  if (limits.maxModelTokens > shape.maxTokens) {
    throw new ArmatureError('ENGINE_CONFIG_INVALID', `maxModelTokens is ${limits.maxModelTokens}, the model has positions for ${shape.maxTokens}`, {
      hint: `set maxModelTokens to ${shape.maxTokens} or less`,
    });
  }
}

/** Lays out weights, rotary table, scratch, step columns and, last, the KV arena. Refused above 4 GiB, what a 32-bit memory can hold. */
export function planMemory(shape: ModelShape, limits: RunnerLimits): MemoryPlan {
  checkLimits(shape, limits);
  const split = splitHeads(shape, limits.tensorParallel);
  const layout = new Layout(FIRST_BYTE);
  const maxBlocksPerSequence = Math.ceil(limits.maxModelTokens / limits.blockSize);
  const embedding = shape.tiedEmbeddings ? layout.panels(shape.vocabSize, shape.hiddenSize) : layout.words(shape.vocabSize * shape.hiddenSize);
  const head = shape.tiedEmbeddings ? embedding : layout.panels(shape.vocabSize, shape.hiddenSize);
  const finalNorm = layout.words(shape.hiddenSize);
  const layers = Array.from({ length: shape.layers }, () => planLayer(layout, shape, split));
  const ropeTable = layout.words(limits.maxModelTokens * shape.headDim);
  const scratch = planScratch(layout, shape, limits, split[0]!);
  const columns = planColumns(layout, limits, maxBlocksPerSequence);
  const blockBytes = rankBlockBytes(shape, split[0]!, limits.blockSize);
  const rankBytes = limits.totalBlocks * blockBytes;
  const arena = layout.words((split.length * rankBytes) / 4, PAGE_BYTES);
  const rankArenas = split.map((_, rank) => arena + rank * rankBytes);
  const pages = Math.ceil(layout.end / PAGE_BYTES);
  if (pages > MAX_PAGES) {
    throw new ArmatureError('ENGINE_MEMORY_LIMIT', `the model and its KV cache need ${Math.ceil(layout.end / 2 ** 20)} MiB, the reference engine has 4096 MiB (${Math.ceil(arena / 2 ** 20)} MiB of it before the KV cache)`, {
      hint: 'lower kvCacheMemoryMB or totalBlocks, or use another engine for this model',
      details: { neededBytes: layout.end, limitBytes: MAX_PAGES * PAGE_BYTES },
    });
  }
  return { shape, limits, embedding, head, finalNorm, layers, ropeTable, scratch, columns, ranks: split, arena, rankArenas, rankBlockBytes: blockBytes, maxBlocksPerSequence, paddedVocab: padded(shape.vocabSize), pages };
}
