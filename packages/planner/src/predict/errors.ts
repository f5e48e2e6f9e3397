import type { Interval } from '@armature/contracts';

/** Errors that are remembered, the newest ones. */
const REMEMBERED = 64;
/** From so many on they say how wide the interval is. */
const MIN_ERRORS = 20;
/** Before that: this share of the mean to both sides. */
const DOUBT = 0.15;
const [LOW, HIGH] = [0.05, 0.95];

/** How far predictions have been from what came, as shares of the prediction; an interval from their quantiles. */
export class PredictionErrors {
  readonly #errors: number[];

  constructor() {
    this.#errors = [];
  }

  add(predicted: number, actual: number): void {
    if (!(Math.abs(predicted) > 1e-9)) return;
    this.#errors.push((actual - predicted) / Math.abs(predicted));
    if (this.#errors.length > REMEMBERED) this.#errors.shift();
  }

  /** Nine times of ten the true value lies in it, if errors stay as they were. Never narrower than the mean alone. */
  around(mean: number): Interval {
    if (this.#errors.length < MIN_ERRORS) return { mean, low: mean - DOUBT * Math.abs(mean), high: mean + DOUBT * Math.abs(mean) };
    const sorted = [...this.#errors].sort((a, b) => a - b);
    const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
    return { mean, low: mean + Math.min(0, at(LOW)) * Math.abs(mean), high: mean + Math.max(0, at(HIGH)) * Math.abs(mean) };
  }
}
