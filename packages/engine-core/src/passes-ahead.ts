import type { KvSizes } from './engine-parts.ts';
import type { Sequence } from './sequence.ts';

export interface PassesAheadLimits {
  readonly maxPasses: number;
  readonly eos: ReadonlySet<number>;
}

/** Passes of a batch in which nobody can end or needs another block before the last one: 1 when any sequence is not a plain decode. */
export function passesAhead(batch: readonly Sequence[], { blockSize, maxModelTokens }: KvSizes, { maxPasses, eos }: PassesAheadLimits): number {
  let passes = maxPasses;
  for (let i = 0; i < batch.length && passes > 1; i++) {
    const sequence = batch[i];
    const { length, computed, blockCount, outputLength } = sequence;
    const { stop, sampling, leg } = sequence.request;
    const mayStop = stop.stopTokenIds.length > 0 || (!stop.ignoreEos && eos.size > 0);
    if (leg === 'prefill' || length - computed !== 1 || sequence.scheduled !== 1 || mayStop || sampling.topLogprobs >= 0) return 1;
    if (outputLength === 0) return 1; // its prompt ends in this pass
    passes = Math.min(passes, blockCount * blockSize - computed, stop.maxTokens - outputLength, maxModelTokens - length);
  }
  return Math.max(1, passes);
}
