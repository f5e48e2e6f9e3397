// @hot
import type { StepBatch } from './model-runner.ts';
import type { Sequence } from './sequence.ts';

/** Sequences that the block table has room for at first: an engine that may run many long sequences seldom does. */
const FIRST_ROWS = 8;

/** The columns of a pass, allocated once; the block table grows to the largest pass. */
export class StepColumns implements StepBatch {
  sequenceCount: number;
  readonly slots: Int32Array;
  readonly queryLengths: Int32Array;
  readonly contextLengths: Int32Array;
  readonly tokenIds: Int32Array;
  blockTable: Int32Array;
  readonly maxBlocksPerSequence: number;
  readonly samples: Uint8Array;
  readonly outputIndexes: Int32Array;
  maxPasses: number;

  constructor(maxSequences: number, maxBatchedTokens: number, maxBlocksPerSequence: number) {
    this.sequenceCount = 0;
    this.slots = new Int32Array(maxSequences);
    this.queryLengths = new Int32Array(maxSequences);
    this.contextLengths = new Int32Array(maxSequences);
    this.tokenIds = new Int32Array(maxBatchedTokens);
    this.blockTable = new Int32Array(Math.min(maxSequences, FIRST_ROWS) * maxBlocksPerSequence);
    this.maxBlocksPerSequence = maxBlocksPerSequence;
    this.samples = new Uint8Array(maxSequences);
    this.outputIndexes = new Int32Array(maxSequences);
    this.maxPasses = 1;
  }

  /** `samplesPrefill` false: a prefill leg whose first token is sampled elsewhere ends without a draw. */
  fill(batch: readonly Sequence[], samplesPrefill: boolean): void {
    if (batch.length * this.maxBlocksPerSequence > this.blockTable.length) this.#grow(batch.length);
    let at = 0;
    for (let i = 0; i < batch.length; i++) {
      const sequence = batch[i];
      const { computed, scheduled, blocks } = sequence;
      this.slots[i] = sequence.slot;
      this.queryLengths[i] = scheduled;
      this.contextLengths[i] = computed;
      this.samples[i] = sequence.isComplete && (samplesPrefill || sequence.request.leg !== 'prefill') ? 1 : 0;
      this.outputIndexes[i] = sequence.outputLength;
      sequence.copyTokens(computed, scheduled, this.tokenIds, at);
      at += scheduled;
      const row = i * this.maxBlocksPerSequence;
      for (let b = 0; b < sequence.blockCount; b++) this.blockTable[row + b] = blocks[b];
    }
    this.sequenceCount = batch.length;
  }

  /** Rows are written before they are read: nothing is copied. */
  #grow(sequences: number): void {
    const rows = Math.min(this.slots.length, Math.max(sequences, (2 * this.blockTable.length) / this.maxBlocksPerSequence));
    this.blockTable = new Int32Array(rows * this.maxBlocksPerSequence);
  }
}
