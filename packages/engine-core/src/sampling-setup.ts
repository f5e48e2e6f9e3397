import { FinishCode } from '@armature/contracts';
import type { SamplingSetup } from './model-runner.ts';
import type { Sequence } from './sequence.ts';

const NONE = new Int32Array(0);

/** What the runner needs to know to sample for a sequence. */
export function samplingSetup(sequence: Sequence, eos: ReadonlySet<number>): SamplingSetup {
  const { sampling, stop, promptTokens, adapter } = sequence.request;
  return {
    ...sampling,
    slot: sequence.slot,
    choice: sequence.choice + (sequence.request.firstChoice ?? 0),
    promptTokenIds: sequence.given.length === promptTokens ? sequence.given : sequence.given.subarray(0, promptTokens),
    outputTokenIds: sequence.length === promptTokens ? NONE : sequence.outputTokens(),
    minTokens: stop.minTokens,
    ...(adapter === undefined ? {} : { adapter }),
    bannedBeforeMinTokens: stop.minTokens > 0 ? Int32Array.from(stop.ignoreEos ? stop.stopTokenIds : [...eos, ...stop.stopTokenIds]) : NONE,
  };
}

/** Whether the sequence ends with the token just appended. Below `minTokens` neither stop tokens nor end of sequence end it. */
export function finishOf(sequence: Sequence, eos: ReadonlySet<number>, maxModelTokens: number): FinishCode {
  const { stop } = sequence.request;
  const token = sequence.tokenAt(sequence.length - 1);
  if (sequence.outputLength >= stop.minTokens) {
    if (stop.stopTokenIds.includes(token)) return FinishCode.Stop;
    if (!stop.ignoreEos && eos.has(token)) return FinishCode.Stop;
  }
  if (sequence.outputLength >= stop.maxTokens || sequence.length >= maxModelTokens) return FinishCode.Length;
  return FinishCode.None;
}
