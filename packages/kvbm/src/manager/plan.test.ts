import { expect, test } from 'vitest';
import { seeded } from '../random.test.support.ts';
import { planFetch, waitLimitMs } from './plan.ts';
import type { FetchCandidate, PlanInput } from './plan.ts';
import { SourceCost } from './source-cost.ts';
import { TimeEstimate } from './time-estimate.ts';

const BLOCK_BYTES = 1_000;

function source(name: FetchCandidate['source'], latencyMs: number, msPerBlock: number, from: number, to: number): FetchCandidate {
  return { source: name, cost: new SourceCost({ latencyMs, bytesPerMs: BLOCK_BYTES / msPerBlock }), held: (row) => (row >= from && row < to ? to - row : 0) };
}

function input(more: Partial<PlanInput>): PlanInput {
  const rows = more.rows ?? 20;
  return { firstRow: 0, rows, blockBytes: BLOCK_BYTES, batchBlocks: 4, candidates: [], copy: new SourceCost({ latencyMs: 0, bytesPerMs: 1e6 }), queueMs: 0, computeMs: (row) => 10 * (rows - row) + 10, maxSlowdown: 0.05, longestMs: 1e9, ...more };
}

const taken = (plan: ReturnType<typeof planFetch>): unknown[] => plan.batches.map(({ candidate, from, to }) => [candidate.source, from, to]);

test('host first, then what only the disk has; nothing after a gap', () => {
  const plan = planFetch(input({ candidates: [source('host', 0, 0.1, 0, 6), source('disk', 1, 1, 0, 14)] }));
  expect(taken(plan)).toEqual([['host', 0, 4], ['host', 4, 6], ['disk', 6, 10], ['disk', 10, 14]]);
});

test('a source slower than computing is left, and named', () => {
  const plan = planFetch(input({ candidates: [source('host', 0, 0.1, 0, 8), source('disk', 1, 11, 0, 20)] }));
  expect(taken(plan)).toEqual([['host', 0, 4], ['host', 4, 8]]);
  expect(plan.declined).toMatchObject({ candidate: { source: 'disk' }, from: 8 });
});

test('the first batch must land within the limit; a queue in the engine makes room for it', () => {
  const candidates = [source('object', 30, 1, 0, 20)];
  expect(taken(planFetch(input({ candidates })))).toEqual([]);
  expect(taken(planFetch(input({ candidates, queueMs: 100 }))).length).toBe(5);
});

test('a batch too large for the limit is begun smaller: what lands of it buys the time for the rest', () => {
  const plan = planFetch(input({ batchBlocks: 32, candidates: [source('disk', 1, 1, 0, 20)] }));
  expect(taken(plan)).toEqual([['disk', 0, 5], ['disk', 5, 20]]);
});

test('what is under way at a source counts', () => {
  const disk = source('disk', 1, 1, 0, 20);
  disk.cost.begin(200 * BLOCK_BYTES);
  expect(planFetch(input({ candidates: [disk] })).batches).toEqual([]);
});

test('random plans: runs without a gap from the first row, by holders, each batch within its limit, never dearer than recomputing or any shorter cut', () => {
  for (let seed = 1; seed <= 500; seed++) {
    const below = seeded(seed);
    const candidates = (['host', 'disk', 'object', 'peer'] as const).map((name) => source(name, name === 'host' ? 0 : below(40), 0.05 + below(300) / 20, below(6), 4 + below(20)));
    const facts = input({ rows: 20, firstRow: below(5), batchBlocks: 1 + below(6), queueMs: below(60), maxSlowdown: below(20) / 100, candidates });
    const plan = planFetch(facts);
    let row = facts.firstRow;
    const total = (waitMs: number, at: number): number => Math.max(facts.queueMs, waitMs) + facts.computeMs(at);
    const totals = [total(0, row)];
    for (const { candidate, from, to, landsMs } of plan.batches) {
      expect(from, `seed ${seed}`).toBe(row);
      expect(candidate.held(from)).toBeGreaterThanOrEqual(to - from);
      expect(landsMs).toBeLessThanOrEqual(waitLimitMs(facts, row) + 1e-9);
      row = to;
      totals.push(total(landsMs, row));
    }
    expect(Math.min(...totals), `seed ${seed}`).toBe(totals[totals.length - 1]);
  }
});

test('an estimate finds latency and speed, and errs on the long side while it cannot', () => {
  const line = new TimeEstimate();
  for (const amount of [10, 40, 20, 80, 30]) line.sample(amount, 5 + 2 * amount, 0);
  expect(line.expectedMs(100)).toBeCloseTo(205, 6);
  expect(line.deviation).toBeLessThan(0.7);
  const point = new TimeEstimate();
  for (let i = 0; i < 5; i++) point.sample(10, 25, 0);
  expect(point.expectedMs(1)).toBeCloseTo(25, 9);
  expect(point.expectedMs(20)).toBeCloseTo(50, 9);
  expect(point.proportionalMs(1)).toBeCloseTo(2.5, 9);
  for (let i = 0; i < 6; i++) point.sample(10, 250, 0);
  expect(point.expectedMs(10)).toBeGreaterThan(150);
});
