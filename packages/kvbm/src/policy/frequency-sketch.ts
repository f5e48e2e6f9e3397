// @hot
const ROWS = 4;
/** Counters per word, of four bits each. */
const PER_WORD = 8;
/** Times the capacity: after so many uses every count is halved, so that old fame fades (TinyLFU, Einziger 2017). */
const SAMPLE_FACTOR = 10;

/**
 * How often hashes were asked for lately: a count-min sketch of 4-bit counters behind a doorkeeper (a Bloom filter of two probes that keeps
 * what came only once out of the sketch). The estimate is never below the true count of the sample up to its end (15 + 1), halving apart.
 * 2.5 bytes per place; halving takes time in proportion, once per ten uses of each place.
 */
export class FrequencySketch {
  readonly #counters: Int32Array;
  readonly #doorkeeper: Int32Array;
  readonly #rowMask: number;
  readonly #doorMask: number;
  readonly #sample: number;
  #recorded: number;

  constructor(places: number) {
    let width = 64;
    while (width < places) width *= 2;
    this.#counters = new Int32Array((width * ROWS) / PER_WORD);
    // Four bits per place: 1 in 5 newcomers passes by mistake when the sample is full of others; it then counts one too many.
    this.#doorkeeper = new Int32Array((width * 4) / 32);
    this.#rowMask = width - 1;
    this.#doorMask = width * 4 - 1;
    this.#sample = width * SAMPLE_FACTOR;
    this.#recorded = 0;
  }

  /** Counts one use. */
  record(lo: number, hi: number): void {
    const a = mix(lo, hi);
    const b = mix(hi, a) | 1;
    if (!this.#isKnown(a, b)) this.#admit(a, b);
    else for (let row = 0; row < ROWS; row++) this.#increment(row, a + Math.imul(row, b));
    if (++this.#recorded >= this.#sample) this.#halve();
  }

  /** 0 to 16. */
  estimate(lo: number, hi: number): number {
    const a = mix(lo, hi);
    const b = mix(hi, a) | 1;
    let least = 15;
    for (let row = 0; row < ROWS; row++) {
      const at = row * (this.#rowMask + 1) + ((a + Math.imul(row, b)) & this.#rowMask);
      least = Math.min(least, (this.#counters[at >> 3] >>> ((at & 7) << 2)) & 15);
    }
    return least + (this.#isKnown(a, b) ? 1 : 0);
  }

  #increment(row: number, hash: number): void {
    const at = row * (this.#rowMask + 1) + (hash & this.#rowMask);
    const shift = (at & 7) << 2;
    if (((this.#counters[at >> 3] >>> shift) & 15) !== 15) this.#counters[at >> 3] += 1 << shift;
  }

  #isKnown(a: number, b: number): boolean {
    const first = (a >>> 3) & this.#doorMask;
    const second = (b >>> 3) & this.#doorMask;
    return ((this.#doorkeeper[first >> 5] >>> (first & 31)) & (this.#doorkeeper[second >> 5] >>> (second & 31)) & 1) === 1;
  }

  #admit(a: number, b: number): void {
    const first = (a >>> 3) & this.#doorMask;
    const second = (b >>> 3) & this.#doorMask;
    this.#doorkeeper[first >> 5] |= 1 << (first & 31);
    this.#doorkeeper[second >> 5] |= 1 << (second & 31);
  }

  #halve(): void {
    for (let i = 0; i < this.#counters.length; i++) this.#counters[i] = (this.#counters[i] >>> 1) & 0x77777777;
    this.#doorkeeper.fill(0);
    this.#recorded >>>= 1;
  }
}

/** murmur3's finisher over both words: sequence hashes are spread already, tests' small numbers are not. */
function mix(a: number, b: number): number {
  let h = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
