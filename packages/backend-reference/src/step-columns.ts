import { ArmatureError } from '@armature/contracts';
import type { StepBatch, StepResult } from '@armature/engine-core';
import { MAX_TOP_LOGPROBS } from './memory-plan.ts';
import type { MemoryPlan } from './memory-plan.ts';

/** The step's columns in the shared memory: the event loop writes a batch, the thread computes in place and writes the result. */
export class StepColumns {
  readonly #plan: MemoryPlan;
  readonly #header: Int32Array;
  readonly #slots: Int32Array;
  readonly #queryLengths: Int32Array;
  readonly #contextLengths: Int32Array;
  readonly #samples: Int32Array;
  readonly #outputIndexes: Int32Array;
  readonly #blockStarts: Int32Array;
  readonly #blocks: Int32Array;
  readonly #tokenIds: Int32Array;
  /** Views on the result; rewritten by the next step. */
  readonly result: StepResult;

  constructor(plan: MemoryPlan, buffer: SharedArrayBuffer) {
    const { columns, limits } = plan;
    const sequences = limits.maxSequences;
    const words = (address: number, count: number): Int32Array => new Int32Array(buffer, address, count);
    this.#plan = plan;
    this.#header = words(columns.header, 16);
    this.#slots = words(columns.slots, sequences);
    this.#queryLengths = words(columns.queryLengths, sequences);
    this.#contextLengths = words(columns.contextLengths, sequences);
    this.#samples = words(columns.samples, sequences);
    this.#outputIndexes = words(columns.outputIndexes, sequences);
    this.#blockStarts = words(columns.blockStarts, sequences);
    this.#blocks = words(columns.blocks, sequences * plan.maxBlocksPerSequence);
    this.#tokenIds = words(columns.tokenIds, limits.maxBatchedTokens);
    this.result = {
      tokenIds: words(columns.resultTokenIds, sequences),
      logprobs: new Float32Array(buffer, columns.resultLogprobs, sequences),
      topTokenIds: words(columns.resultTopTokenIds, sequences * MAX_TOP_LOGPROBS),
      topLogprobs: new Float32Array(buffer, columns.resultTopLogprobs, sequences * MAX_TOP_LOGPROBS),
      maxTopLogprobs: MAX_TOP_LOGPROBS,
    };
  }

  /** Copies a batch in; everything that becomes an address is checked, so that a wrong batch cannot touch foreign memory. */
  write(batch: StepBatch): void {
    const { limits, shape } = this.#plan;
    const count = batch.sequenceCount;
    if (count < 1 || count > limits.maxSequences) throw invalid(`${count} sequences, the limit is ${limits.maxSequences}`);
    let tokens = 0;
    let blocks = 0;
    for (let i = 0; i < count; i++) {
      const query = batch.queryLengths[i]!;
      const context = batch.contextLengths[i]!;
      if (query < 1 || context < 0 || context + query > limits.maxModelTokens) throw invalid(`sequence ${i} has ${context} + ${query} tokens, the limit is ${limits.maxModelTokens}`);
      this.#slots[i] = batch.slots[i]!;
      this.#queryLengths[i] = query;
      this.#contextLengths[i] = context;
      this.#samples[i] = batch.samples[i]!;
      this.#outputIndexes[i] = batch.outputIndexes[i]!;
      this.#blockStarts[i] = blocks;
      blocks = this.#copyBlocks(batch, i * batch.maxBlocksPerSequence, Math.ceil((context + query) / limits.blockSize), blocks);
      tokens += query;
    }
    if (tokens > limits.maxBatchedTokens) throw invalid(`${tokens} tokens, the limit is ${limits.maxBatchedTokens}`);
    for (let t = 0; t < tokens; t++) {
      const id = batch.tokenIds[t]!;
      if (!(id >= 0 && id < shape.vocabSize)) throw invalid(`token id ${id}, the vocabulary has ${shape.vocabSize}`);
      this.#tokenIds[t] = id;
    }
    this.#header[0] = count;
  }

  #copyBlocks(batch: StepBatch, from: number, count: number, to: number): number {
    const total = this.#plan.limits.totalBlocks;
    for (let b = 0; b < count; b++) {
      const block = batch.blockTable[from + b]!;
      if (!(block >= 0 && block < total)) throw invalid(`block ${block}, the arena has ${total}`);
      this.#blocks[to + b] = block;
    }
    return to + count;
  }
}

function invalid(what: string): ArmatureError {
  return new ArmatureError('ENGINE_STEP_INVALID', `step refused: ${what}`, { hint: 'this is a fault of the scheduler that drives the model runner' });
}
