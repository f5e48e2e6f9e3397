/** What an earlier sample still weighs after another one. 0.8: about five samples count, so that a change is believed quickly. */
const KEPT = 0.8;
/** Samples of about one size cannot tell latency from bandwidth: below this relative variance of the sizes no line is fitted. */
const MIN_SPREAD = 0.02;

/**
 * How long an amount takes: `ms = latency + amount / speed`, fitted to the latest samples by weighted least squares. When all samples are of about one size, the
 * answer errs on the long side for others: not faster than any of them for less, in proportion for more.
 */
export class TimeEstimate {
  #count = 0;
  #lastMs = -Infinity;
  #weight = 0;
  #x = 0;
  #y = 0;
  #xx = 0;
  #xy = 0;
  /** Weighted mean of the squared relative error of the predictions. */
  #error = 0;

  /** Samples taken. */
  get count(): number {
    return this.#count;
  }

  /** When the latest sample was taken; -Infinity: never. */
  get lastMs(): number {
    return this.#lastMs;
  }

  /** Relative standard deviation of what was predicted against what came. */
  get deviation(): number {
    return Math.sqrt(this.#error);
  }

  sample(amount: number, milliseconds: number, nowMs: number): void {
    if (this.#count > 0) {
      const expected = this.expectedMs(amount);
      const error = expected > 0 ? Math.min(4, Math.abs(milliseconds - expected) / expected) : 0;
      this.#error = this.#count === 1 ? error * error : KEPT * this.#error + (1 - KEPT) * error * error;
    }
    this.#count++;
    this.#lastMs = nowMs;
    this.#weight = KEPT * this.#weight + 1;
    this.#x = KEPT * this.#x + amount;
    this.#y = KEPT * this.#y + milliseconds;
    this.#xx = KEPT * this.#xx + amount * amount;
    this.#xy = KEPT * this.#xy + amount * milliseconds;
  }

  /** Only after a sample. Rather too long than too short. */
  expectedMs(amount: number): number {
    return this.#line(amount) ?? (this.#y / this.#weight) * Math.max(1, (amount * this.#weight) / this.#x);
  }

  /** Only after a sample. In proportion while nothing better is known: for what must not be overestimated for small amounts. */
  proportionalMs(amount: number): number {
    return this.#line(amount) ?? (this.#y / this.#x) * amount;
  }

  /** Undefined: the samples do not tell latency from speed. */
  #line(amount: number): number | undefined {
    const meanX = this.#x / this.#weight;
    const meanY = this.#y / this.#weight;
    const variance = this.#xx / this.#weight - meanX * meanX;
    if (variance <= MIN_SPREAD * meanX * meanX) return undefined;
    const slope = (this.#xy / this.#weight - meanX * meanY) / variance;
    const latency = meanY - slope * meanX;
    if (slope <= 0) return undefined;
    return latency >= 0 ? latency + slope * amount : (meanY / meanX) * amount;
  }
}
