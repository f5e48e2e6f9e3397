import type { StepBatch } from '@armature/engine-core';

/** When each of several decode passes ends that are done at once. */
export class LookAhead {
  readonly #limitMs: number;
  readonly #endsAtMs: Float64Array;
  #passes = 1;

  constructor(limitMs: number, maxPasses: number) {
    this.#limitMs = limitMs;
    this.#endsAtMs = new Float64Array(maxPasses);
  }

  /** Plans passes of a batch that only decodes; returns when the last one ends. `passMs` of so many sequences that hold so many KV tokens. */
  plan(batch: StepBatch, nowMs: number, passMs: (sequences: number, contextTokens: number) => number): number {
    const { sequenceCount } = batch;
    let contextTokens = 0;
    for (let i = 0; i < sequenceCount; i++) contextTokens += batch.contextLengths[i];
    const most = Math.min(batch.maxPasses ?? 1, this.#endsAtMs.length);
    let atMs = nowMs;
    let passes = 0;
    do {
      atMs += passMs(sequenceCount, contextTokens + passes * sequenceCount);
      this.#endsAtMs[passes++] = atMs;
    } while (passes < most && atMs - nowMs < this.#limitMs);
    this.#passes = passes;
    return atMs;
  }

  /** Only the pass that is running at `nowMs` is still done; returns when it ends, undefined when it is the last one anyway. */
  shorten(nowMs: number): number | undefined {
    let passes = 1;
    while (passes < this.#passes && this.#endsAtMs[passes - 1] < nowMs) passes++;
    if (passes === this.#passes) return undefined;
    this.#passes = passes;
    return this.#endsAtMs[passes - 1];
  }

  /** The passes that were done. */
  take(): number {
    const passes = this.#passes;
    this.#passes = 1;
    return passes;
  }
}
