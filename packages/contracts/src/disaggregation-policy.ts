import type { Lifecycle } from './plugin.ts';

/** What is known when the decode worker has been chosen. Reused by the host: do not keep. */
export interface DisaggregationInput {
  promptTokens: number;
  /** Leading prompt tokens whose KV the chosen decode worker holds. */
  overlapTokens: number;
  /** Prefill workers that can take a request now. */
  prefillWorkers: number;
  /** Fewest prompt tokens waiting or running on any prefill worker. */
  leastPrefillTokens: number;
  /** Prompt tokens waiting or running on the chosen decode worker. */
  decodePrefillTokens: number;
  /**
   * Milliseconds to the first token as predicted from what was measured lately: if the chosen decode worker computes the prompt itself, and if a prefill
   * worker does (its queue, the prompt, and what of the transfer comes after it). NaN: too little has been seen.
   */
  localFirstTokenMs: number;
  remoteFirstTokenMs: number;
}

/** Decides per request whether the prompt is computed by a prefill worker (remote) or by the decode worker itself (local). */
export interface DisaggregationPolicy extends Lifecycle {
  readonly name: string;
  /** Whether the decode hop is scored with credit for overlap. */
  readonly creditsDecodeOverlap: boolean;
  /** When no prefill worker is ready. Never silent: each use is counted and recorded. */
  readonly whenNoPrefillWorker: 'local' | 'fail';
  /** True: the predicted times of the input are looked at; without it they stay NaN. */
  readonly usesPredictions?: boolean;
  /** Prompts with fewer uncached tokens may be local; a planner sets it while requests run. Absent: not adjustable. */
  thresholdTokens?: number;
  /** Must not throw or keep `input`. */
  isRemote(input: DisaggregationInput): boolean;
}
