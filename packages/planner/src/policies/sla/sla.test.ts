import { linearTiming } from '@armature/fleet-model';
import { describe, expect, it } from 'vitest';
import { defaultTimingPrior } from '../timing-book.ts';
import { input, seen } from '../../testing.test.support.ts';
import { decodeEngine, itlEstimate, mixedEngine, prefillEngine, ttftEstimate } from './engine-rates.ts';
import { SlaPolicy } from './sla-policy.ts';

/** prefill(t) = 0.02 t + 16; decode(n, kv) = 0.02 n + 0.0001 kv + 6: numbers that can be followed by hand. */
const worker = { timing: linearTiming(defaultTimingPrior), maxSequences: 256, maxBatchedTokens: 8_192, kvTokens: 262_144 };
const limits = { ttftMs: 1_000, itlMs: 20 };
const traffic = { requestsPerSecond: 10, promptTokens: 2_000, outputTokens: 200, hitRate: 0.5 };
const policy = (): SlaPolicy => new SlaPolicy({ caution: 0, downShare: 0.8, hardware: {}, tables: {} });
const capacity = { kvTokens: 262_144, maxSequences: 256, maxBatchedTokens: 8_192 };

describe('what one engine takes', () => {
  it('prefill: 1 / wall of what is not cached, in chunks', () => {
    expect(prefillEngine(worker, traffic, limits)).toMatchObject({ requestsPerSecond: 1_000 / 36, ttftMs: 36, isWithin: true }); // 1000 tokens
    const long = prefillEngine(worker, { ...traffic, promptTokens: 20_000, hitRate: 0 }, limits);
    expect(long.ttftMs).toBeCloseTo(3 * 16 + 0.02 * 20_000, 9); // three chunks
    expect(prefillEngine(worker, { ...traffic, hitRate: 1 }, limits).ttftMs).toBeCloseTo(16 + 0.02 * 100, 9); // no more than 95 % is believed
  });

  it('decode: the largest batch within the ITL, by Little’s law', () => {
    // A sequence holds 2000 + 100 tokens: 0.02 + 0.21 ms each. (20 - 6) / 0.23 = 60.9 → 60; wall = 6 + 60 · 0.23 = 19.8.
    const rate = decodeEngine(worker, traffic, limits);
    expect(rate.itlMs).toBeCloseTo(19.8, 9);
    expect(rate.requestsPerSecond).toBeCloseTo((1_000 * 60) / (200 * 19.8), 9);
    expect(decodeEngine({ ...worker, maxSequences: 8 }, traffic, limits).requestsPerSecond).toBeCloseTo(8_000 / (200 * (6 + 8 * 0.23)), 9);
    expect(decodeEngine(worker, traffic, { ...limits, itlMs: 5 })).toMatchObject({ isWithin: false, itlMs: 6.23 }); // one request at a time at best
  });

  it('both: each pass also computes the prompts of those that begin', () => {
    // With b sequences: 0.02 · 5 b + 16 + 0.23 b + 6 ≤ 30 → b ≤ 24.2; wall(24) = 22 + 0.33 · 24.
    const rate = mixedEngine(worker, traffic, { ...limits, itlMs: 30 });
    expect(rate.itlMs).toBeCloseTo(22 + 0.33 * 24, 9);
    expect(rate.requestsPerSecond).toBeCloseTo((1_000 * 24) / (200 * rate.itlMs), 9);
    expect(mixedEngine(worker, traffic, limits).isWithin).toBe(false); // a pass with a prompt is never below 22 ms
  });

  it('estimates of now: queue and one prompt more; one sequence more', () => {
    expect(ttftEstimate(worker, 3_000, traffic)).toBeCloseTo(16 + 0.02 * 4_000, 9);
    expect(itlEstimate(worker, 10, 21_000, traffic)).toBeCloseTo(6 + 0.02 * 11 + 0.0001 * 23_100, 9);
  });
});

describe('the sla policy', () => {
  const pools = (more: { readonly p?: object; readonly d?: object } = {}): ReturnType<typeof seen>[] => [seen({ pool: 'p', role: 'prefill', capacity, ...more.p }), seen({ pool: 'd', role: 'decode', capacity, ...more.d })];
  const asked = (rate: number, fleet = pools(), objective: object = { itlMs: 20 }): ReturnType<SlaPolicy['propose']> => policy().propose(input(fleet, { rate, promptTokens: 2_000, outputTokens: 200, hitRate: 0.5, objective }));

  it('replicas = ⌈demand / engine⌉ per pool', () => {
    // 60 requests/s: 60 / 27.78 = 2.16 → 3; 60 / 15.15 = 3.96 → 4.
    const { state, action, outcome } = asked(60);
    expect([state.replicas, action]).toEqual([{ p: 3, d: 4 }, 'scale_up']);
    expect(outcome).toMatchObject({ gpus: 7, costPerHour: 14 });
    expect(outcome.attainment).toBeGreaterThanOrEqual(1);
  });

  it('a queue that breaks the TTFT asks for one more than the rate does', () => {
    expect(asked(5, pools({ p: { prefillTokens: 200_000 } })).state.replicas).toEqual({ p: 3, d: 1 });
  });

  it('nobody goes while one less would be near the objective', () => {
    // 65 sequences and 136 k tokens each, and one more of 2100: 6 + 66 · 0.02 + 13.8 = 21.2 ms.
    const busy = pools({ d: { running: 130, usedBlocks: 520, totalBlocks: 1_000 } });
    expect(asked(5, busy).state.replicas['d']).toBe(3); // above the objective even with two
    // On one worker: 6 + 51 · 0.02 + 10.7 = 17.7 ms, above 0.8 · 20.
    const near = asked(5, pools({ d: { running: 50, usedBlocks: 200, totalBlocks: 1_000 } }));
    expect([near.state.replicas['d'], near.reason]).toEqual([2, expect.stringContaining('none goes')]);
  });

  it('an objective that no load keeps is said, with the best there is, one request at a time', () => {
    const { state, outcome, reason } = asked(5, pools(), { itlMs: 4 });
    expect(outcome.attainment).toBe(0);
    expect(reason).toContain('cannot be kept even without load: d has TTFT 0 ms and ITL 6.2 ms at best');
    expect(state.replicas['d']).toBe(7); // one request at a time: 5 / (1000 / (200 · 6.23)) = 6.2
  });

  it('measured tables go before fits', () => {
    const tables = { default: { prefill: { tokens: [0, 1_000], ms: [0, 100] }, decode: { sequences: [1, 256], contextTokens: [0, 1_000_000], ms: [[5, 5], [5, 5]] } } };
    const proposal = new SlaPolicy({ caution: 0, downShare: 0.8, hardware: {}, tables }).propose(input(pools(), { rate: 60, promptTokens: 2_000, outputTokens: 200, hitRate: 0.5, objective: { itlMs: 20 } }));
    expect(proposal.state.replicas['p']).toBe(6); // 10 per second each
  });
});
