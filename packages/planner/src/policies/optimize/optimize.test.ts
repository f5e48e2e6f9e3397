import type { PlannedOutcome, PlannedState } from '@armature/contracts';
import { linearTiming } from '@armature/fleet-model';
import { describe, expect, it } from 'vitest';
import { inputSeen, objective, poolSeen } from '../../observations.test.support.ts';
import { testRandom } from '../../random.test.support.ts';
import { defaultTimingPrior, TimingBook } from '../timing-book.ts';
import { OptimizePolicy } from './optimize-policy.ts';
import { isAllowed, scoreOf, search } from './search.ts';
import { WhatIf } from './what-if.ts';

const config = { horizonMs: 60_000, caution: 0, evaluations: 48, maxRequests: 2_000, margin: 0.02, transferMs: 2, transferMsPerToken: 0.005, drainMs: 60_000, hardware: {} };
const policyOf = (changes: Partial<typeof config> = {}): OptimizePolicy => new OptimizePolicy({ ...config, ...changes }, testRandom(4));

describe('search', () => {
  it('finds the best of all states where one change at a time leads there, and looks at no state twice', () => {
    const pools = [poolSeen('prefill', { maxReplicas: 9 }), poolSeen('decode', { maxReplicas: 9 })];
    const seen = new Map<string, number>();
    const outcome = (state: PlannedState): PlannedOutcome => {
      const { replicas } = state;
      const key = JSON.stringify(state);
      seen.set(key, (seen.get(key) ?? 0) + 1);
      const [p, d] = [replicas['prefill'], replicas['decode']];
      return { ttftMs: 4_000 / p, itlMs: 210 / d, attainment: Math.min(1, p / 4) * Math.min(1, d / 7), goodputPerSecond: 1, gpus: p + d, costPerHour: p + d };
    };
    const found = search([{ replicas: { prefill: 1, decode: 1 }, lent: [] }], { pools, objective, outcome, budget: 500, thresholdTokens: undefined, referenceCost: 11 });
    expect(found[0].state.replicas).toEqual({ prefill: 4, decode: 7 });
    expect(Math.max(...seen.values())).toBe(1);
    let best = -Infinity;
    for (let p = 1; p <= 9; p++) for (let d = 1; d <= 9; d++) best = Math.max(best, scoreOf(outcome({ replicas: { prefill: p, decode: d }, lent: [] }), objective, 11));
    expect(found[0].score).toBe(best);
  });

  it('keeps minimum, maximum and budgets, and leaves a pool that lends its minimum', () => {
    const pools = [poolSeen('prefill', { minReplicas: 2, maxReplicas: 4 }), poolSeen('decode', { costPerHour: 3 })];
    const allowed = (prefill: number, decode: number, limits = {}, lent: PlannedState['lent'] = []): boolean => isAllowed({ replicas: { prefill, decode }, lent }, pools, { ...objective, ...limits });
    expect(allowed(2, 1)).toBe(true);
    expect(allowed(1, 1)).toBe(false);
    expect(allowed(5, 1)).toBe(false);
    expect(allowed(4, 4, { maxGpus: 8 })).toBe(true);
    expect(allowed(4, 4, { maxGpus: 7 })).toBe(false);
    expect(allowed(4, 4, { maxCostPerHour: 15 })).toBe(false);
    expect(allowed(4, 1, {}, [{ from: 'prefill', to: 'decode', workers: 2 }])).toBe(true);
    expect(allowed(4, 1, {}, [{ from: 'prefill', to: 'decode', workers: 3 }])).toBe(false);
  });
});

describe('WhatIf', () => {
  it('answers the same for the same question, and better for more workers', () => {
    const input = inputSeen([poolSeen('prefill', { startupMs: 1_000 }), poolSeen('decode', { startupMs: 1_000 })], { traffic: { requestsPerSecond: 30, promptTokens: 3_000 } });
    const workers = new Map(input.observation.pools.map((pool) => [pool.pool, new TimingBook({}).worker(pool)]));
    const ask = (prefill: number): PlannedOutcome =>
      new WhatIf({ ...config, observation: input.observation, objective, traffic: { requestsPerSecond: 30, promptTokens: 3_000, outputTokens: 100, hitRate: 0 }, workers, starting: [], random: testRandom(8) }).outcome({ replicas: { prefill, decode: 4 }, lent: [] });
    expect(ask(4)).toEqual(ask(4));
    expect(ask(6).attainment).toBeGreaterThan(ask(2).attainment);
    expect(ask(6).ttftMs).toBeLessThan(ask(2).ttftMs);
    expect(ask(6).costPerHour).toBeGreaterThan(ask(2).costPerHour);
  });
});

describe('OptimizePolicy', () => {
  it('orders more of the side that is short, with the numbers that decided', () => {
    const proposal = policyOf().propose(inputSeen([poolSeen('prefill', { roleChange: 'none', startupMs: 500 }), poolSeen('decode', { roleChange: 'none', startupMs: 500 })], { traffic: { requestsPerSecond: 60, promptTokens: 3_000, outputTokens: 50 } }));
    expect(proposal.action).toBe('scale_up');
    expect(proposal.state.replicas['prefill']).toBeGreaterThan(2);
    expect(proposal.outcome.attainment).toBeGreaterThanOrEqual(objective.quantile);
    expect(proposal.reason).toMatch(/% within the objective.*holding would give/);
    expect(proposal.candidates.length).toBeGreaterThan(3);
    const scores = proposal.candidates.map(({ score }) => score);
    expect(scores).toEqual([...scores].sort((a, b) => b - a));
  });

  it('gives back what is not needed, and holds what is right', () => {
    const pools = (prefill: number, decode: number): ReturnType<typeof poolSeen>[] => [poolSeen('prefill', { desired: prefill, ready: prefill }), poolSeen('decode', { desired: decode, ready: decode })];
    const first = policyOf().propose(inputSeen(pools(9, 9)));
    expect(first.action).toBe('scale_down');
    const { prefill, decode } = first.state.replicas;
    expect(policyOf().propose(inputSeen(pools(prefill, decode))).action).toBe('hold');
  });

  it('never lends workers of an engine that cannot change its role live', () => {
    for (const roleChange of ['none', 'restart'] as const) {
      const { candidates, state } = policyOf().propose(inputSeen([poolSeen('prefill', { roleChange, desired: 8, ready: 8 }), poolSeen('decode', { roleChange, desired: 1, ready: 1 })], { traffic: { outputTokens: 2_000, requestsPerSecond: 10 } }));
      expect([state, ...candidates.map((candidate) => candidate.state)].flatMap(({ lent }) => lent)).toEqual([]);
    }
    const live = policyOf().propose(inputSeen([poolSeen('prefill', { desired: 8, ready: 8 }), poolSeen('decode', { desired: 1, ready: 1 })], { traffic: { outputTokens: 2_000, requestsPerSecond: 10 } }));
    expect(live.candidates.some(({ state }) => state.lent.length > 0)).toBe(true);
  });

  it('says that an objective cannot be reached, and the best there is', () => {
    const proposal = policyOf().propose(inputSeen([poolSeen('prefill'), poolSeen('decode')], { objective: { ttftMs: 1 } }));
    expect(proposal.action).toMatch(/unreachable|scale|rebalance/);
    expect(proposal.reason).toContain('cannot be reached');
  });

  it('spends a GPU budget on goodput', () => {
    const proposal = policyOf().propose(inputSeen([poolSeen('prefill'), poolSeen('decode')], { objective: { goal: 'goodput', maxGpus: 6 }, traffic: { requestsPerSecond: 200, promptTokens: 3_000 } }));
    expect(proposal.outcome.gpus).toBeLessThanOrEqual(6);
    expect(proposal.outcome.gpus).toBeGreaterThan(4);
  });
});

describe('TimingBook', () => {
  it('keeps the prior until passes have told, then follows them', () => {
    const book = new TimingBook({});
    const truth = linearTiming({ ...defaultTimingPrior, prefillMsPerToken: 0.1, prefillMs: 5 });
    const silent = poolSeen('prefill');
    expect(book.worker(silent).passes).toBe(0);
    const random = testRandom(2);
    const tokens = Float64Array.from({ length: 64 }, () => 1 + random.below(4_000));
    const zero = new Float64Array(64);
    const pool = poolSeen('prefill', { passes: { prefillTokens: tokens, decodeSequences: zero, contextTokens: zero, ms: tokens.map((count) => truth.passMs(count, 0, 0)) } });
    book.learn(pool);
    expect(book.worker(pool).passes).toBe(64);
    expect(book.worker(pool).timing.passMs(2_000, 0, 0)).toBeCloseTo(truth.passMs(2_000, 0, 0), 6);
  });

  it('does not believe passes that no line explains', () => {
    const book = new TimingBook({});
    const random = testRandom(2);
    const tokens = Float64Array.from({ length: 64 }, () => 1 + random.below(4_000));
    const zero = new Float64Array(64);
    const pool = poolSeen('prefill', { passes: { prefillTokens: tokens, decodeSequences: zero, contextTokens: zero, ms: tokens.map((_, i) => (i % 9 === 0 ? 900 : 1)) } });
    book.learn(pool);
    expect(book.worker(pool).passes).toBe(0);
  });
});
