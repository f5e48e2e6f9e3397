import { describe, expect, it } from 'vitest';
import { input, seen, TestRandom } from '../testing.test.support.ts';
import { PredictionErrors } from './errors.ts';
import { Forecaster, newPredictor, predictorDefaults } from './forecaster.ts';
import type { PredictorConfig } from './forecaster.ts';

const after = (config: Partial<PredictorConfig>, values: readonly number[], steps = 1): number => {
  const predictor = newPredictor({ ...predictorDefaults, ...config });
  for (const value of values) predictor.observe(value);
  return predictor.predict(steps);
};
const line = Array.from({ length: 60 }, (_, i) => 10 + 2 * i);

describe('predictors', () => {
  it('constant and moving average', () => {
    expect(after({ use: 'constant' }, [1, 2, 7])).toBe(7);
    expect(after({ use: 'moving-average', window: 2 }, [1, 2, 7])).toBe(4.5);
  });

  it('smooth follows noise slowly and a shift at once', () => {
    expect(after({ use: 'smooth' }, [10, 11])).toBeCloseTo(10.3, 9);
    expect(after({ use: 'smooth' }, [10, 11, 30])).toBe(30);
    expect(after({ use: 'smooth' }, [30, 4])).toBe(4);
    expect(after({ use: 'smooth' }, [0, 5])).toBe(5);
  });

  it('the Kalman filter gives what the matrices of the reference give', () => {
    // By hand: F = [[1,1],[0,1]], Q = diag(1, 0.1), R = 10, P0 = 1000 I, x0 = [first, 0]; five updates written out with numpy.
    const values = [10, 12, 15, 14, 18, 21];
    let x = [10, 0];
    let p = [[1000, 0], [0, 1000]];
    for (const z of values.slice(1)) {
      x = [x[0] + x[1], x[1]];
      p = [[p[0][0] + p[0][1] + p[1][0] + p[1][1] + 1, p[0][1] + p[1][1]], [p[1][0] + p[1][1], p[1][1] + 0.1]];
      const s = p[0][0] + 10;
      const k = [p[0][0] / s, p[1][0] / s];
      const y = z - x[0];
      x = [x[0] + k[0] * y, x[1] + k[1] * y];
      p = [[(1 - k[0]) * p[0][0], (1 - k[0]) * p[0][1]], [p[1][0] - k[1] * p[0][0], p[1][1] - k[1] * p[0][1]]];
    }
    expect(after({ use: 'kalman' }, values, 3)).toBeCloseTo(x[0] + 3 * x[1], 9);
    expect(after({ use: 'kalman' }, values.slice(0, 4), 3)).toBe(14); // fewer than five: the last one
    expect(after({ use: 'kalman' }, line, 4)).toBeCloseTo(10 + 2 * 63, 0);
  });

  it('Holt-Winters follows a trend, damps it, and learns a season', () => {
    expect(after({ use: 'holt-winters', damping: 1, gain: 0.5, trend: 0.5 }, line, 4)).toBeCloseTo(10 + 2 * 63, 1);
    expect(after({ use: 'holt-winters', damping: 0.5 }, line, 50)).toBeLessThan(10 + 2 * 70);
    const season = Array.from({ length: 48 }, (_, i) => (i % 8 === 3 ? 90 : 10));
    const predictor = newPredictor({ ...predictorDefaults, use: 'holt-winters', season: 8 });
    for (const value of season) predictor.observe(value);
    const ahead = Array.from({ length: 8 }, (_, i) => predictor.predict(i + 1));
    expect(ahead.indexOf(Math.max(...ahead))).toBe(3);
    expect(Math.max(...ahead)).toBeGreaterThan(60);
  });

  it('ARIMA of the library: a ramp goes on, a constant stays, few values are the last one', () => {
    expect(after({ use: 'arima' }, line, 3)).toBeCloseTo(line[59] + 6, 0);
    expect(after({ use: 'arima' }, Array<number>(30).fill(4), 3)).toBe(4);
    expect(after({ use: 'arima' }, [1, 9, 2], 3)).toBe(2);
  });
});

describe('the forecast', () => {
  const observed = (rate: number): ReturnType<typeof input>['observation'] => input([seen()], { rate, promptTokens: 500, outputTokens: 50, hitRate: 0.4 }).observation;

  it('is NaN until something was seen, stands still where nothing is, never below nothing', () => {
    const forecaster = new Forecaster({ ...predictorDefaults, use: 'kalman' }, { intervalMs: 1_000, horizonMs: 4_000 });
    const unseen = { ...observed(1), traffic: { ...observed(1).traffic, requestsPerSecond: NaN, promptTokens: NaN, outputTokens: NaN, hitRate: NaN } };
    expect(forecaster.forecast(unseen).requestsPerSecond).toEqual({ mean: NaN, low: NaN, high: NaN });
    for (const rate of [20, 15, 10, 5, 1]) forecaster.forecast(observed(rate));
    const { requestsPerSecond, promptTokens, hitRate } = forecaster.forecast(observed(0));
    expect(requestsPerSecond.mean).toBe(0);
    expect(promptTokens.mean).toBeCloseTo(500, 6);
    expect(hitRate.high).toBeLessThanOrEqual(1);
    expect(forecaster.forecast(unseen).promptTokens.mean).toBeCloseTo(500, 6);
  });

  it('holds the true value nine times of ten, for every predictor and several seeds', () => {
    for (const use of ['constant', 'moving-average', 'smooth', 'holt-winters', 'kalman'] as const) {
      for (const seed of [1, 2, 3]) {
        const random = new TestRandom(seed);
        const forecaster = new Forecaster({ ...predictorDefaults, use, window: 8 }, { intervalMs: 1_000, horizonMs: 2_000 });
        const open: { low: number; high: number }[] = [];
        let [inside, all, rate] = [0, 0, 50];
        for (let tick = 0; tick < 600; tick++) {
          rate = Math.max(5, rate * (1 + 0.1 * (random.next() - 0.5)));
          const value = rate * (1 + 0.2 * (random.next() - 0.5));
          const expected = open.length === 2 ? open.shift() : undefined;
          if (expected !== undefined && tick > 100) {
            all++;
            if (value >= expected.low && value <= expected.high) inside++;
          }
          open.push(forecaster.forecast(observed(value)).requestsPerSecond);
        }
        const share = inside / all;
        expect(share, `${use}, seed ${seed}: ${share}`).toBeGreaterThan(0.82);
        expect(share, `${use}, seed ${seed}: ${share}`).toBeLessThan(0.97);
      }
    }
  });

  it('one shift does not widen what follows', () => {
    const forecaster = new Forecaster(predictorDefaults, { intervalMs: 1_000, horizonMs: 4_000 });
    let last = forecaster.forecast(observed(4));
    for (let tick = 0; tick < 60; tick++) last = forecaster.forecast(observed((tick < 30 ? 4 : 16) * (tick % 2 === 0 ? 0.95 : 1.05)));
    expect(last.requestsPerSecond.high).toBeLessThan(18);
    expect(last.requestsPerSecond.low).toBeGreaterThan(14);
  });

  it('an interval is as wide as errors were, on their side', () => {
    const errors = new PredictionErrors();
    for (let i = 0; i < 40; i++) errors.add(100, 110 + i / 2);
    const { mean, low, high } = errors.around(200);
    expect([mean, low]).toEqual([200, 200]);
    expect(high).toBeGreaterThan(250);
  });
});
