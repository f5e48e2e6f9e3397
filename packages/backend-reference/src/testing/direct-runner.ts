import { createMemory } from '../kernels.ts';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LoadedModel } from '../loaded-model.ts';
import { planMemory } from '../memory-plan.ts';
import type { RunnerLimits } from '../memory-plan.ts';
import { StepColumns } from '../step-columns.ts';
import type { StepBatch } from '@armature/engine-core';

export interface DirectSequence {
  readonly tokens: readonly number[];
  readonly context: number;
  readonly blocks: readonly number[];
  readonly samples: boolean;
}

/** The model without thread and scheduler, for tests and benchmarks: steps in, raw logits out. */
export class DirectRunner {
  readonly model: LoadedModel;
  readonly #columns: StepColumns;

  constructor(folder: string, limits: Partial<RunnerLimits> = {}) {
    const { shape } = Checkpoint.open(folder);
    const plan = planMemory(shape, {
      blockSize: 16,
      totalBlocks: 256,
      maxSequences: 16,
      maxBatchedTokens: 1024,
      maxModelTokens: shape.maxTokens,
      tensorParallel: 1,
      ...limits,
    });
    const memory = createMemory(plan.pages);
    this.model = new LoadedModel(folder, plan, memory);
    this.#columns = new StepColumns(plan, memory.buffer);
  }

  /** Logits of each sampled sequence: views that the next step overwrites. */
  step(sequences: readonly DirectSequence[]): Float32Array[] {
    const { plan, memory, forward } = this.model;
    this.#columns.write(directBatch(sequences, plan.maxBlocksPerSequence));
    const sampled = forward.run();
    return Array.from({ length: sampled }, (_, i) => new Float32Array(memory.buffer, forward.logitsRow(i), plan.shape.vocabSize));
  }
}

export function directBatch(sequences: readonly DirectSequence[], maxBlocksPerSequence: number): StepBatch {
  const blockTable = new Int32Array(sequences.length * maxBlocksPerSequence).fill(-1);
  sequences.forEach((sequence, i) => blockTable.set(sequence.blocks, i * maxBlocksPerSequence));
  return {
    sequenceCount: sequences.length,
    slots: Int32Array.from(sequences, (_, i) => i),
    queryLengths: Int32Array.from(sequences, (sequence) => sequence.tokens.length),
    contextLengths: Int32Array.from(sequences, (sequence) => sequence.context),
    tokenIds: Int32Array.from(sequences.flatMap((sequence) => [...sequence.tokens])),
    blockTable,
    maxBlocksPerSequence,
    samples: Uint8Array.from(sequences, (sequence) => (sequence.samples ? 1 : 0)),
    outputIndexes: new Int32Array(sequences.length),
  };
}
