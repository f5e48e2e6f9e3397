// @hot
import type { StepBatch } from './model-runner.ts';
import type { Sequence } from './sequence.ts';

/** The columns of a pass, allocated once. */
export class StepColumns implements StepBatch {
  sequenceCount: number;
  readonly slots: Int32Array;
  readonly queryLengths: Int32Array;
  readonly contextLengths: Int32Array;
  readonly tokenIds: Int32Array;
  readonly blockTable: Int32Array;
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
    this.blockTable = new Int32Array(maxSequences * maxBlocksPerSequence);
    this.maxBlocksPerSequence = maxBlocksPerSequence;
    this.samples = new Uint8Array(maxSequences);
    this.outputIndexes = new Int32Array(maxSequences);
    this.maxPasses = 1;
  }

  /** `samplesPrefill` false: a prefill leg whose first token is sampled elsewhere ends without a draw. */
  fill(batch: readonly Sequence[], samplesPrefill: boolean): void {
    let at = 0;
    for (let i = 0; i < batch.length; i++) {
      const sequence = batch[i];
      const { computed, scheduled, tokens, blocks } = sequence;
      this.slots[i] = sequence.slot;
      this.queryLengths[i] = scheduled;
      this.contextLengths[i] = computed;
      this.samples[i] = sequence.isComplete && (samplesPrefill || sequence.request.leg !== 'prefill') ? 1 : 0;
      this.outputIndexes[i] = sequence.outputLength;
      for (let k = 0; k < scheduled; k++) this.tokenIds[at++] = tokens[computed + k];
      const row = i * this.maxBlocksPerSequence;
      for (let b = 0; b < sequence.blockCount; b++) this.blockTable[row + b] = blocks[b];
    }
    this.sequenceCount = batch.length;
  }
}
