import { TimeEstimate } from './time-estimate.ts';

/** A sample slower than this many times what was expected says more about the machine's other work than about the engine. */
const MAX_OUTLIER = 4;

/** What the engine needs to compute prompt tokens, from what it needed lately. */
export class PrefillSpeed {
  readonly #estimate = new TimeEstimate();

  /** Without it nothing is fetched: what recomputing costs is unknown, so no fetch can be promised to be faster. */
  get isKnown(): boolean {
    return this.#estimate.count > 0;
  }

  observe(tokens: number, milliseconds: number, nowMs: number): void {
    if (!(tokens > 0 && milliseconds >= 0)) return;
    const limitMs = this.#estimate.count < 4 ? Infinity : MAX_OUTLIER * this.#estimate.proportionalMs(tokens);
    this.#estimate.sample(tokens, Math.min(milliseconds, limitMs), nowMs);
  }

  /** Attention's quadratic part is not modelled: its price is underestimated for long prompts, which errs towards recomputing. */
  computeMs(tokens: number): number {
    return tokens <= 0 ? 0 : this.#estimate.proportionalMs(tokens);
  }
}
