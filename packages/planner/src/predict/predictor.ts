/** One series, one value per tick. Not asked before the first value. Deterministic. */
export interface Predictor {
  /** The next value; finite. */
  observe(value: number): void;
  /** Expected `steps` ticks after the last value. May be beyond what the series can be (below 0): the forecaster bounds it. */
  predict(steps: number): number;
}

/** The last value goes on. */
export class Constant implements Predictor {
  #last = NaN;

  observe(value: number): void {
    this.#last = value;
  }

  predict(): number {
    return this.#last;
  }
}

/** The mean of the last `window` values goes on. */
export class MovingAverage implements Predictor {
  readonly #window: number;
  readonly #values: number[];

  constructor(window: number) {
    this.#window = window;
    this.#values = [];
  }

  observe(value: number): void {
    this.#values.push(value);
    if (this.#values.length > this.#window) this.#values.shift();
  }

  predict(): number {
    return this.#values.reduce((sum, value) => sum + value, 0) / this.#values.length;
  }
}

/** An exponentially weighted mean that starts anew at a jump, up or down: follows a shift at once and noise slowly. */
export class Smooth implements Predictor {
  readonly #gain: number;
  readonly #jump: number;
  #mean = NaN;

  /** `gain`: weight of a new value. `jump`: share of the mean beyond which a value is no noise. */
  constructor(gain: number, jump: number) {
    this.#gain = gain;
    this.#jump = jump;
  }

  observe(value: number): void {
    const isNear = Math.abs(value - this.#mean) <= this.#jump * Math.abs(this.#mean);
    this.#mean = isNear ? this.#mean + this.#gain * (value - this.#mean) : value;
  }

  predict(): number {
    return this.#mean;
  }
}

/** Level and trend, exponentially smoothed; additive seasons of `season` ticks from the second one on (0: none). The trend is damped, so that it ends. */
export class HoltWinters implements Predictor {
  readonly #weights: { readonly level: number; readonly trend: number; readonly seasonal: number; readonly damping: number };
  readonly #season: number;
  readonly #first: number[];
  #offsets: Float64Array | undefined;
  #level = NaN;
  #trend = 0;
  #at = 0;

  constructor(options: { readonly level: number; readonly trend: number; readonly seasonal: number; readonly damping: number; readonly season: number }) {
    this.#weights = options;
    this.#season = options.season;
    this.#first = [];
    this.#offsets = undefined;
  }

  observe(value: number): void {
    const { level, trend, damping, seasonal } = this.#weights;
    if (Number.isNaN(this.#level)) {
      this.#level = value;
      this.#collect(value);
      return;
    }
    const slot = this.#season > 0 ? this.#at % this.#season : 0;
    const offset = this.#offsets?.[slot] ?? 0;
    const before = this.#level;
    const expected = before + damping * this.#trend;
    this.#level = level * (value - offset) + (1 - level) * expected;
    this.#trend = trend * (this.#level - before) + (1 - trend) * damping * this.#trend;
    if (this.#offsets !== undefined) this.#offsets[slot] = seasonal * (value - this.#level) + (1 - seasonal) * offset;
    this.#collect(value);
  }

  predict(steps: number): number {
    const { damping } = this.#weights;
    let trend = 0;
    let share = 1;
    for (let i = 0; i < steps; i++) {
      share *= damping;
      trend += share * this.#trend;
    }
    const offset = this.#offsets === undefined ? 0 : this.#offsets[(this.#at + steps - 1) % this.#season];
    return this.#level + trend + offset;
  }

  /** The first whole season says how each of its ticks differs from its mean. */
  #collect(value: number): void {
    this.#at++;
    if (this.#season === 0 || this.#offsets !== undefined) return;
    this.#first.push(value);
    if (this.#first.length < this.#season) return;
    const mean = this.#first.reduce((sum, seen) => sum + seen, 0) / this.#season;
    this.#offsets = Float64Array.from(this.#first, (seen) => seen - mean);
    this.#level = mean;
    this.#trend = 0;
  }
}

