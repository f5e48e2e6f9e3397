import { describe, expect, it } from 'vitest';
import { fitTiming, linearTiming, tableTiming } from './index.ts';
import { testRandom } from './test-random.test.support.ts';

const truth = { prefillMsPerToken: 0.02, prefillMs: 5, decodeMsPerSequence: 0.1, decodeMsPerContextToken: 0.0005, decodeMs: 8 };

function passes(count: number, noise: number, seed: number, kind: 'mixed' | 'prefill' = 'mixed') {
  const random = testRandom(seed);
  const columns = { prefillTokens: new Float64Array(count), decodeSequences: new Float64Array(count), contextTokens: new Float64Array(count), ms: new Float64Array(count) };
  for (let i = 0; i < count; i++) {
    columns.prefillTokens[i] = random.next() < 0.5 || kind === 'prefill' ? 1 + random.below(2000) : 0;
    columns.decodeSequences[i] = kind === 'prefill' ? 0 : random.below(64);
    columns.contextTokens[i] = columns.decodeSequences[i] * random.below(1500);
    columns.ms[i] = linearTiming(truth).passMs(columns.prefillTokens[i], columns.decodeSequences[i], columns.contextTokens[i]) * (1 + noise * (random.next() - 0.5));
  }
  return columns;
}

describe('fitTiming', () => {
  it('finds what made the passes, exactly without noise', () => {
    const fitted = fitTiming(passes(64, 0, 1));
    for (const [name, value] of Object.entries(truth)) expect(fitted?.coefficients[name as keyof typeof truth], name).toBeCloseTo(value, 6);
    expect(fitted?.residualShare).toBeLessThan(1e-9);
  });

  it('with noise the truth lies within three standard errors (20 seeds, 95 % of the coefficients)', () => {
    let within = 0;
    for (let seed = 1; seed <= 20; seed++) {
      const fitted = fitTiming(passes(400, 0.2, seed));
      for (const [name, value] of Object.entries(truth)) {
        const key = name as keyof typeof truth;
        if (Math.abs((fitted?.coefficients[key] ?? NaN) - value) <= 3 * (fitted?.errors[key] ?? NaN)) within++;
      }
    }
    expect(within).toBeGreaterThanOrEqual(95);
  });

  it('what the passes do not show stays as the prior says; too few passes say nothing', () => {
    const fitted = fitTiming(passes(64, 0, 2, 'prefill'), { ...truth, decodeMs: 77 });
    expect(fitted?.coefficients.decodeMs).toBe(77);
    expect(fitted?.errors.decodeMs).toBeNaN();
    expect(fitted?.coefficients.prefillMsPerToken).toBeCloseTo(0.02, 6);
    expect(fitTiming(passes(7, 0, 3))).toBeUndefined();
  });
});

describe('tableTiming', () => {
  const table = { prefill: { tokens: [100, 1000], ms: [5, 23] }, decode: { sequences: [1, 10], contextTokens: [0, 1000], ms: [[8, 10], [9, 13]] } };

  it('interpolates in both directions and goes on beyond its ends', () => {
    const timing = tableTiming(table);
    expect(timing.passMs(550, 0, 0)).toBeCloseTo(14, 9);
    expect(timing.passMs(2000, 0, 0)).toBeCloseTo(43, 9);
    expect(timing.passMs(0, 5.5, 500)).toBeCloseTo(10, 9);
    expect(timing.passMs(100, 1, 0)).toBeCloseTo(13, 9);
  });

  it('refuses axes that do not ascend, and times that are none', () => {
    expect(() => tableTiming({ ...table, prefill: { tokens: [100, 100], ms: [5, 6] } })).toThrow(/ascend/);
    expect(() => tableTiming({ ...table, prefill: { tokens: [100], ms: [NaN] } })).toThrow(/negative or no number/);
  });
});
