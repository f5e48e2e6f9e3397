/** Observations before a line says anything. */
const ENOUGH = 5;

/**
 * y = a + b x by least squares, in which older observations count less: each new one takes the weight of all before it down to `keep`. With x hardly
 * varying the slope cannot be told; the line is then proportional (a = 0), which errs on the dear side for small x and on the cheap side for none.
 */
export class FadingLine {
  readonly #keep: number;
  #weight = 0;
  #x = 0;
  #y = 0;
  #xx = 0;
  #xy = 0;
  #count = 0;

  /** `keep`: 0.98 forgets half in about 34 observations. */
  constructor(keep = 0.98) {
    this.#keep = keep;
  }

  /** x >= 0, y >= 0; anything else is ignored. */
  observe(x: number, y: number): void {
    if (!(x >= 0) || !(y >= 0) || !Number.isFinite(x + y)) return;
    this.#weight = this.#weight * this.#keep + 1;
    this.#x = this.#x * this.#keep + x;
    this.#y = this.#y * this.#keep + y;
    this.#xx = this.#xx * this.#keep + x * x;
    this.#xy = this.#xy * this.#keep + x * y;
    this.#count++;
  }

  get count(): number {
    return this.#count;
  }

  /** NaN: too few observations. Never below 0. */
  at(x: number): number {
    if (this.#count < ENOUGH) return NaN;
    const meanX = this.#x / this.#weight;
    const meanY = this.#y / this.#weight;
    const variance = this.#xx / this.#weight - meanX * meanX;
    const covariance = this.#xy / this.#weight - meanX * meanY;
    if (variance <= 1e-3 * meanX * meanX || covariance <= 0) return meanX === 0 ? meanY : (meanY / meanX) * x;
    const slope = covariance / variance;
    const start = meanY - slope * meanX;
    // A negative start is noise of a steep line: through the origin then, with the slope that the mean has.
    return start >= 0 ? start + slope * x : (meanY / meanX) * x;
  }
}
