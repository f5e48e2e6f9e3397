import type { Forecast, Interval, JsonSchema, PlannerObservation } from '@armature/contracts';
import { ArimaPredictor } from './arima.ts';
import { PredictionErrors } from './errors.ts';
import { Kalman } from './kalman.ts';
import { Constant, HoltWinters, MovingAverage, Smooth } from './predictor.ts';
import type { Predictor } from './predictor.ts';

export interface PredictorConfig {
  readonly use: 'constant' | 'moving-average' | 'smooth' | 'holt-winters' | 'kalman' | 'arima';
  /** Predict the logarithm: for series that grow by factors. */
  readonly log: boolean;
  readonly window: number;
  readonly gain: number;
  readonly jump: number;
  readonly trend: number;
  readonly damping: number;
  readonly seasonal: number;
  readonly season: number;
  readonly levelNoise: number;
  readonly slopeNoise: number;
  readonly observationNoise: number;
  readonly p: number;
  readonly d: number;
  readonly q: number;
}

const share = (initial: number, description: string): JsonSchema => ({ type: 'number', minimum: 0, maximum: 1, default: initial, description });

export const predictorSchema = {
  type: 'object',
  additionalProperties: false,
  default: {},
  description: 'How the traffic of the next ticks is expected from that of the last ones.',
  properties: {
    use: { enum: ['constant', 'moving-average', 'smooth', 'holt-winters', 'kalman', 'arima'], default: 'smooth', description: 'Request rate: the last value, a mean of the last ones, a mean that starts anew at jumps, level with trend and season, a Kalman filter (level, slope), ARIMA.' },
    log: { type: 'boolean', default: false, description: 'Predict the logarithm of 1 + value.' },
    window: { type: 'integer', minimum: 1, maximum: 4_096, default: 96, description: 'moving-average, arima: ticks looked at.' },
    gain: share(0.3, 'smooth, holt-winters: weight of a new value in the level.'),
    jump: { type: 'number', minimum: 0, default: 0.4, description: 'smooth: share of the mean beyond which a value is a shift, not noise.' },
    trend: share(0.2, 'holt-winters: weight of a new difference in the trend.'),
    damping: share(0.9, 'holt-winters: what of the trend is left after a tick.'),
    seasonal: share(0.3, 'holt-winters: weight of a new value in its season.'),
    season: { type: 'integer', minimum: 0, maximum: 100_000, default: 0, description: 'holt-winters: ticks of a season, such as a day; 0 = none.' },
    levelNoise: { type: 'number', minimum: 0, default: 1, description: 'kalman: variance by which the level wanders per tick.' },
    slopeNoise: { type: 'number', minimum: 0, default: 0.1, description: 'kalman: variance by which the slope wanders per tick.' },
    observationNoise: { type: 'number', exclusiveMinimum: 0, default: 10, description: 'kalman: variance of what is seen.' },
    p: { type: 'integer', minimum: 0, maximum: 5, default: 2, description: 'arima: autoregressive terms.' },
    d: { type: 'integer', minimum: 0, maximum: 2, default: 1, description: 'arima: differences.' },
    q: { type: 'integer', minimum: 0, maximum: 5, default: 1, description: 'arima: moving-average terms.' },
  },
} as const satisfies JsonSchema;

/** What an empty `predictor:` gives. */
export const predictorDefaults = Object.fromEntries(Object.entries(predictorSchema.properties).map(([name, { default: value }]) => [name, value])) as unknown as PredictorConfig;

export function newPredictor(config: PredictorConfig): Predictor {
  switch (config.use) {
    case 'constant':
      return new Constant();
    case 'moving-average':
      return new MovingAverage(config.window);
    case 'smooth':
      return new Smooth(config.gain, config.jump);
    case 'holt-winters':
      return new HoltWinters({ ...config, level: config.gain });
    case 'kalman':
      return new Kalman(config);
    case 'arima':
      return new ArimaPredictor(config);
  }
}

/** Means of few requests wander by factors: lengths are smoothed as logarithms. */
const LENGTH_GAIN = 0.4;
const MOST_TOKENS = 1_000_000;
/** Share by which a value misses its prediction when the traffic is another one. */
const SHIFT = 0.5;

/** One series with its predictor, its past predictions and their errors. */
class Series {
  readonly #predictor: Predictor;
  readonly #isLog: boolean;
  readonly #steps: number;
  readonly #limit: number;
  readonly #errors: PredictionErrors;
  /** Predictions of the last ticks, oldest first: each is compared with what came when its time has come. */
  readonly #open: number[];
  #hasValue: boolean;

  constructor(predictor: Predictor, options: { readonly isLog: boolean; readonly steps: number; readonly limit: number }) {
    this.#predictor = predictor;
    this.#isLog = options.isLog;
    this.#steps = options.steps;
    this.#limit = options.limit;
    this.#errors = new PredictionErrors();
    this.#open = [];
    this.#hasValue = false;
  }

  /** A tick without a value is none: the series stands still. */
  next(value: number): Interval {
    if (Number.isFinite(value)) {
      if (this.#open.length === this.#steps) this.#compare(this.#open.shift() as number, value);
      this.#predictor.observe(this.#isLog ? Math.log1p(Math.max(0, value)) : value);
      this.#hasValue = true;
    }
    if (!this.#hasValue) return { mean: NaN, low: NaN, high: NaN };
    const expected = this.#predictor.predict(this.#steps);
    const mean = this.#bounded(this.#isLog ? Math.expm1(expected) : expected);
    if (Number.isFinite(value)) this.#open.push(mean);
    const { low, high } = this.#errors.around(mean);
    return { mean, low: this.#bounded(low), high: this.#bounded(high) };
  }

  /** A shift is one error, not one for each prediction that was open when it came. */
  #compare(predicted: number, value: number): void {
    this.#errors.add(predicted, value);
    if (Math.abs(value - predicted) > SHIFT * Math.abs(predicted)) this.#open.length = 0;
  }

  #bounded(value: number): number {
    return Math.min(this.#limit, Math.max(0, value));
  }
}

/** Predicts the traffic that the next configuration will meet. */
export class Forecaster {
  readonly #horizonMs: number;
  readonly #rate: Series;
  readonly #prompt: Series;
  readonly #output: Series;
  readonly #hits: Series;

  /** `intervalMs`: of a tick. Throws `PLANNER_PREDICTOR_UNAVAILABLE`. */
  constructor(config: PredictorConfig, options: { readonly intervalMs: number; readonly horizonMs: number }) {
    this.#horizonMs = options.horizonMs;
    const steps = Math.max(1, Math.round(options.horizonMs / options.intervalMs));
    const length = (): Series => new Series(new Smooth(LENGTH_GAIN, Infinity), { isLog: true, steps, limit: MOST_TOKENS });
    this.#rate = new Series(newPredictor(config), { isLog: config.log, steps, limit: Infinity });
    this.#prompt = length();
    this.#output = length();
    this.#hits = new Series(new Smooth(LENGTH_GAIN, Infinity), { isLog: false, steps, limit: 1 });
  }

  /** Once per tick. NaN until something was seen. */
  forecast({ traffic }: PlannerObservation): Forecast {
    return {
      horizonMs: this.#horizonMs,
      requestsPerSecond: this.#rate.next(traffic.requestsPerSecond),
      promptTokens: this.#prompt.next(traffic.promptTokens),
      outputTokens: this.#output.next(traffic.outputTokens),
      hitRate: this.#hits.next(traffic.hitRate),
    };
  }
}
