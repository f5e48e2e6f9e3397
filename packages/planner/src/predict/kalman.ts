import type { Predictor } from './predictor.ts';

/** Fewer values: the last one goes on. */
const MIN_VALUES = 5;
const FIRST_VARIANCE = 1_000;

/**
 * A local linear trend followed by a Kalman filter, as the reference's planner does: state [level, slope], transition [[1, 1], [0, 1]], observation
 * [1, 0], first covariance 1000·I; by default process noise diag(1, 0.1) and observation noise 10.
 */
export class Kalman implements Predictor {
  readonly #levelNoise: number;
  readonly #slopeNoise: number;
  readonly #observationNoise: number;
  #level = NaN;
  #slope = 0;
  #last = NaN;
  #values = 0;
  /** The covariance is symmetric: of the level, of both, of the slope. */
  #p00 = FIRST_VARIANCE;
  #p01 = 0;
  #p11 = FIRST_VARIANCE;

  constructor(options: { readonly levelNoise: number; readonly slopeNoise: number; readonly observationNoise: number }) {
    this.#levelNoise = options.levelNoise;
    this.#slopeNoise = options.slopeNoise;
    this.#observationNoise = options.observationNoise;
  }

  observe(value: number): void {
    this.#values++;
    this.#last = value;
    if (this.#values === 1) {
      this.#level = value;
      return;
    }
    const level = this.#level + this.#slope;
    const p00 = this.#p00 + 2 * this.#p01 + this.#p11 + this.#levelNoise;
    const p01 = this.#p01 + this.#p11;
    const p11 = this.#p11 + this.#slopeNoise;
    const variance = p00 + this.#observationNoise;
    const surprise = value - level;
    this.#level = level + (p00 / variance) * surprise;
    this.#slope += (p01 / variance) * surprise;
    this.#p00 = p00 - (p00 * p00) / variance;
    this.#p01 = p01 - (p00 * p01) / variance;
    this.#p11 = p11 - (p01 * p01) / variance;
  }

  predict(steps: number): number {
    return this.#values < MIN_VALUES ? this.#last : this.#level + steps * this.#slope;
  }
}
