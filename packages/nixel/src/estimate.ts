/** Slow may be an accident (the core was taken away): a single time counts as four times the expected at most, and little. */
const SLOW_LIMIT = 4;
const SLOW_WEIGHT = 1 / 8;
/** In a row they are the truth: each further one may count four times more. */
const LONGEST_ROW = 4;
/** Nothing is fast by accident. */
const FAST_WEIGHT = 1 / 4;
const FAST_LIMIT = 1 / 16;

/**
 * Running estimate of what one path costs: latency, bytes, pieces. Every finished transfer scales each part by how much of the expected time it
 * was, so that few sizes are enough. No clock, no chance: the same transfers give the same estimate.
 */
export class PathEstimate {
  #latencyMicros: number;
  #microsPerByte: number;
  #pieceFactor: number;
  #slowRow: number;

  constructor(latencyMicros: number, bytesPerMicro: number) {
    this.#latencyMicros = latencyMicros;
    this.#microsPerByte = 1 / bytesPerMicro;
    this.#pieceFactor = 1;
    this.#slowRow = 0;
  }

  /** `pieceMicros`: expected cost of each scattered piece. A time of zero (a virtual clock) says nothing. */
  observe(bytes: number, count: number, pieceMicros: number, micros: number): void {
    const expected = this.micros(bytes, count, pieceMicros);
    if (!(micros > 0 && expected > 0)) return;
    const ratio = micros / expected;
    this.#slowRow = ratio > SLOW_LIMIT ? Math.min(this.#slowRow + 1, LONGEST_ROW) : 0;
    const limit = SLOW_LIMIT ** Math.max(1, this.#slowRow);
    const step = ratio < 1 ? FAST_WEIGHT * Math.log(Math.max(ratio, FAST_LIMIT)) : SLOW_WEIGHT * Math.log(Math.min(ratio, limit));
    this.#latencyMicros *= Math.exp((step * this.#latencyMicros) / expected);
    this.#microsPerByte *= Math.exp((step * bytes * this.#microsPerByte) / expected);
    this.#pieceFactor *= Math.exp((step * count * pieceMicros * this.#pieceFactor) / expected);
  }

  micros(bytes: number, count: number, pieceMicros: number): number {
    return this.#latencyMicros + bytes * this.#microsPerByte + count * pieceMicros * this.#pieceFactor;
  }
}

const FIRST_INTERVAL = 64;
const LONGEST_INTERVAL = 16_384;
const FIRST_REACH = 4;
const LONGEST_REACH = 64;
/** A try that lowers the estimate by less has told all it can. */
const GAIN = 0.99;

/**
 * When a path that looks dearer than another is tried all the same: an estimate of what is never used cannot change. First after 64 posts that
 * passed it over, then after twice as many, and so on, each time although it looks twice as dear as the time before (4 to 64 times). A try
 * that makes it look cheaper is followed by the next at once. Counts posts: no clock, no chance.
 */
export class Exploration {
  #passed: number;
  #interval: number;
  #reach: number;

  constructor() {
    this.#passed = 0;
    this.#interval = FIRST_INTERVAL;
    this.#reach = FIRST_REACH;
  }

  /** A post goes to another path, which costs `bestMicros`. True: try this one instead. */
  isDue(micros: number, bestMicros: number): boolean {
    if (++this.#passed < this.#interval) return false;
    this.#passed = 0;
    const isNear = micros <= bestMicros * this.#reach;
    this.#interval = Math.min(this.#interval * 2, LONGEST_INTERVAL);
    this.#reach = Math.min(this.#reach * 2, LONGEST_REACH);
    return isNear;
  }

  /** It is the cheapest. */
  chosen(): void {
    this.#passed = 0;
    this.#interval = FIRST_INTERVAL;
    this.#reach = FIRST_REACH;
  }

  /** What the tried transfer was expected to take before and is after. */
  tried(before: number, after: number): void {
    if (after < before * GAIN) this.#passed = this.#interval;
  }

  /** A try that fails costs its transfer the time until it falls back. */
  failed(): void {
    this.#passed = 0;
    this.#interval = LONGEST_INTERVAL;
  }
}
