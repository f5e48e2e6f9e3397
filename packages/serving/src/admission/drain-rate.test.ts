import { expect, it } from 'vitest';
import { DrainRate } from './drain-rate.ts';

/** Drains `tokens` every 100 ms for `forMs` with a backlog; the time at its end. */
function drain(rate: DrainRate, fromMs: number, forMs: number, tokens: number): number {
  for (let atMs = fromMs + 100; atMs <= fromMs + forMs; atMs += 100) {
    rate.advance(atMs, true);
    rate.drained(tokens);
  }
  return fromMs + forMs;
}

it('is right from the first moment, follows a change, and is not fooled by an empty queue', () => {
  const rate = new DrainRate(1e9);
  rate.advance(0, false);
  let nowMs = drain(rate, 0, 1_000, 10);
  expect(rate.tokensPerSecond).toBeCloseTo(100, -1);
  nowMs = drain(rate, nowMs, 120_000, 10);
  expect(rate.tokensPerSecond).toBeCloseTo(100, 0);
  expect(rate.retryAfterMs(1_000)).toBeCloseTo(10_000, -2);
  nowMs = drain(rate, nowMs, 120_000, 1); // ten times slower, four times the memory long
  expect(rate.tokensPerSecond).toBeGreaterThan(10);
  expect(rate.tokensPerSecond).toBeLessThan(12);
  const before = rate.retryAfterMs(1_000);
  rate.advance(nowMs + 3_600_000, false); // an hour without a backlog
  expect(rate.retryAfterMs(1_000)).toBe(before);
});

it('keeps to its limits, and without any drain waits as long as it has watched', () => {
  const rate = new DrainRate(20_000);
  expect(rate.retryAfterMs(1e6)).toBe(1_000);
  rate.advance(0, false);
  rate.advance(5_000, true);
  const watched = rate.retryAfterMs(1);
  expect(watched).toBeGreaterThan(4_000);
  expect(watched).toBeLessThanOrEqual(5_000);
  rate.drained(1);
  expect(rate.retryAfterMs(1e6)).toBe(20_000);
  expect(rate.retryAfterMs(0)).toBe(1_000);
});
