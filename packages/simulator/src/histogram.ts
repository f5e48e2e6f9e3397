/** Buckets per power of two: a quantile is at most 0.8 % off. */
const STEPS = 128;
/** Values below 2^-8 count as that; 40 powers of two above. */
const LOWEST = -8;
const POWERS = 40;

const scratch = new DataView(new ArrayBuffer(8));

/** Of a positive number: power of two and the leading bits of its mantissa, exact on every platform. */
function bucketOf(value: number): number {
  if (!(value > 2 ** LOWEST)) return 0;
  scratch.setFloat64(0, value);
  const high = scratch.getUint32(0);
  const power = (high >>> 20) - 1023;
  const step = (high >>> 13) & 127;
  return Math.min(STEPS * POWERS - 1, (power - LOWEST) * STEPS + step);
}

function lowerEdge(bucket: number): number {
  return 2 ** (LOWEST + Math.floor(bucket / STEPS)) * (1 + (bucket % STEPS) / STEPS);
}

/** Non-negative numbers, counted in buckets; mean and extremes are exact. Its size does not depend on how many came. */
export class Histogram {
  readonly #counts = new Float64Array(STEPS * POWERS);
  #count = 0;
  #sum = 0;
  #least = Infinity;
  #most = 0;

  get count(): number {
    return this.#count;
  }

  get mean(): number {
    return this.#count === 0 ? NaN : this.#sum / this.#count;
  }

  get max(): number {
    return this.#count === 0 ? NaN : this.#most;
  }

  add(value: number): void {
    this.#counts[bucketOf(value)]!++;
    this.#count++;
    this.#sum += value;
    if (value < this.#least) this.#least = value;
    if (value > this.#most) this.#most = value;
  }

  /** The value below which the share `q` of all lies, interpolated within its bucket; NaN without any. */
  quantile(q: number): number {
    if (this.#count === 0) return NaN;
    const rank = q * this.#count;
    let before = 0;
    for (let bucket = 0; bucket < this.#counts.length; bucket++) {
      const here = this.#counts[bucket]!;
      if (here === 0 || before + here < rank) {
        before += here;
        continue;
      }
      const low = lowerEdge(bucket);
      const value = low + (lowerEdge(bucket + 1) - low) * ((rank - before) / here);
      return Math.min(this.#most, Math.max(this.#least, value));
    }
    return this.#most;
  }

  reset(): void {
    this.#counts.fill(0);
    this.#count = 0;
    this.#sum = 0;
    this.#least = Infinity;
    this.#most = 0;
  }
}
