/** What an earlier sample still weighs after another one. 0.8: about five samples count, so that a change is believed quickly. */
const KEPT = 0.8;
/** Samples of about one size cannot tell latency from bandwidth: below this relative variance of the sizes no line is fitted. */
const MIN_SPREAD = 0.02;
/** A sample this many times what was expected is an outlier: alone it counts as so much; the next one in a row is believed. */
const OUTLIER = 3;
/** Weight of each of the two points by which a prior takes part in the fit: one bad first sample does not outvote it, three good ones do. */
const PRIOR_WEIGHT = 1;

/** `ms = latencyMs + msPerUnit * amount`, from elsewhere, until there are samples. */
export interface PriorLine {
  readonly latencyMs: number;
  readonly msPerUnit: number;
}

/**
 * How long an amount takes: `ms = latency + amount / speed`, fitted to the latest samples by weighted least squares. A prior takes part as two points around the first
 * sample, and fades like samples do. When all samples are of about one size, the answer errs on the long side for others: not faster than any of them for less, in
 * proportion for more. One outlier moves it by what `OUTLIER` says at most; the second in a row is believed in full.
 */
export class TimeEstimate {
  #count = 0;
  #lastMs = -Infinity;
  #outliers = 0;
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

  /** Samples in a row, up to the latest, that were much slower than expected. */
  get outliers(): number {
    return this.#outliers;
  }

  /** Relative standard deviation of what was predicted against what came. */
  get deviation(): number {
    return Math.sqrt(this.#error);
  }

  /** `prior` takes part from the first sample on. */
  sample(amount: number, milliseconds: number, nowMs: number, prior?: PriorLine): void {
    if (this.#count === 0 && prior !== undefined) for (const x of [amount / 2, 2 * amount]) this.#add(x, prior.latencyMs + prior.msPerUnit * x, PRIOR_WEIGHT);
    const counted = this.#weight > 0 ? this.#judge(amount, milliseconds) : milliseconds;
    this.#count++;
    this.#lastMs = nowMs;
    this.#weight *= KEPT;
    this.#x *= KEPT;
    this.#y *= KEPT;
    this.#xx *= KEPT;
    this.#xy *= KEPT;
    this.#add(amount, counted, 1);
  }

  /** Only after a sample. Rather too long than too short. */
  expectedMs(amount: number): number {
    return this.#line(amount) ?? (this.#y / this.#weight) * Math.max(1, (amount * this.#weight) / this.#x);
  }

  /** Only after a sample. In proportion while nothing better is known: for what must not be overestimated for small amounts. */
  proportionalMs(amount: number): number {
    return this.#line(amount) ?? (this.#y / this.#x) * amount;
  }

  /** What the sample counts as; keeps the error of the predictions. */
  #judge(amount: number, milliseconds: number): number {
    const expected = this.expectedMs(amount);
    const limit = expected > 0 ? OUTLIER * expected : Infinity;
    this.#outliers = milliseconds > limit ? this.#outliers + 1 : 0;
    const counted = this.#outliers === 1 ? limit : milliseconds;
    // Alone, an outlier says no more of how well predictions hold than one that was wrong by all of it.
    const error = expected > 0 ? Math.min(this.#outliers === 1 ? 1 : 2, Math.abs(counted - expected) / expected) : 0;
    this.#error = this.#count === 1 && this.#error === 0 ? error * error : KEPT * this.#error + (1 - KEPT) * error * error;
    return counted;
  }

  #add(amount: number, milliseconds: number, weight: number): void {
    this.#weight += weight;
    this.#x += weight * amount;
    this.#y += weight * milliseconds;
    this.#xx += weight * amount * amount;
    this.#xy += weight * amount * milliseconds;
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
