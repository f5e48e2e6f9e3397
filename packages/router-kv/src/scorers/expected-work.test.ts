import type { Candidates } from '@armature/contracts';
import { idleCandidates, routingRequest } from '@armature/contracts/testing/routing-fixtures';
import { describe, expect, it } from 'vitest';
import { ExpectedWorkScorer, expectedWorkDefaults } from './expected-work.ts';
import type { ExpectedWorkWeights } from './expected-work.ts';

/** A prompt of 100 blocks of 16 tokens. */
const request = routingRequest({ blocks: 100, blockSize: 16 });

function pool(count: number): Candidates {
  return { ...idleCandidates(count), excessShare: new Float64Array(count) };
}

function costsOf(candidates: Candidates, weights: Partial<ExpectedWorkWeights> = {}, of = request): number[] {
  const costs = new Float64Array(candidates.count);
  new ExpectedWorkScorer({ ...expectedWorkDefaults, ...weights }).score(of, candidates, costs);
  return [...costs];
}

describe('the terms of the cost, in blocks', () => {
  it('counts a miss twice, once for its prefill and once for what it evicts', () => {
    const candidates = pool(2);
    candidates.overlapBlocks[0] = 40;
    expect(costsOf(candidates)).toEqual([120, 200]);
    expect(costsOf(candidates, { missWeight: 1 })).toEqual([60, 100]);
  });

  it('adds queued prefill, what KV utilisation slows down, and blocks that do not fit', () => {
    const candidates = pool(3);
    candidates.activePrefillTokens[0] = 160;
    candidates.decodeBlocks.set([0, 2048, 5096]);
    expect(costsOf(candidates)).toEqual([210, 250, 200 + 100 * (5096 / 4096) + 1000]);
    expect(costsOf(candidates, { utilisationWeight: 0 })).toEqual([210, 200, 1200]);
  });

  it('credits lower tiers in part', () => {
    const candidates = pool(3);
    candidates.overlapBlocks.set([20, 20, 20]);
    candidates.hostBlocks[0] = 20;
    candidates.diskBlocks[1] = 20;
    candidates.objectBlocks[2] = 20;
    expect(costsOf(candidates)).toEqual([170, 190, 200]);
  });

  it('lets a full cache elsewhere lose against a queue, but never a cold worker win for nothing', () => {
    const candidates = pool(2);
    candidates.overlapBlocks[0] = 90;
    candidates.activePrefillTokens[0] = 16 * 179;
    expect(costsOf(candidates)[0]).toBeLessThan(costsOf(candidates)[1]);
    candidates.activePrefillTokens[0] = 16 * 181;
    expect(costsOf(candidates)[0]).toBeGreaterThan(costsOf(candidates)[1]);
  });
});

describe('the share of a worker', () => {
  it('takes its credit away as it rises above the mean', () => {
    const candidates = pool(1);
    candidates.overlapBlocks[0] = 100;
    const credits = [-0.5, 0, 0.075, 0.15, 3].map((excess) => {
      candidates.excessShare[0] = excess;
      return new ExpectedWorkScorer(expectedWorkDefaults).explain(request, candidates, 0).creditShare;
    });
    expect(credits).toEqual([1, 1, 0.75, 0, 0]);
  });

  it('counts as held blocks where a worker is far below it: nobody starves', () => {
    const candidates = pool(2);
    candidates.overlapBlocks[0] = 100;
    candidates.excessShare.set([0.1, -1]);
    const [warm, idle] = costsOf(candidates);
    expect(idle).toBeLessThan(warm);
    candidates.excessShare.set([0.1, -0.2]);
    expect(costsOf(candidates)[0]).toBeLessThan(costsOf(candidates)[1]);
    candidates.excessShare.set([0.1, -1]);
    expect(costsOf(candidates, { shareTolerance: 0 })[0]).toBeLessThan(costsOf(candidates, { shareTolerance: 0 })[1]);
  });

  it('is of no concern with tolerance 0, except between equals', () => {
    const candidates = pool(2);
    candidates.overlapBlocks.set([100, 100]);
    candidates.excessShare.set([0.2, -0.2]);
    const [most, least] = costsOf(candidates, { shareTolerance: 0 });
    expect(most - least).toBeCloseTo(0.004, 10);
  });
});

it('leaves prefill out where the prompt is computed elsewhere', () => {
  const decode = { ...request, hop: 'decode' as const, creditsOverlap: false };
  const candidates = pool(2);
  candidates.activePrefillTokens[0] = 1600;
  candidates.decodeBlocks.set([100, 200]);
  const [first, second] = costsOf(candidates, {}, decode);
  expect(first).toBeLessThan(second);
  expect(second).toBeCloseTo((100 * 200) / 4096, 10);
});

it('takes overrides of the request', () => {
  const candidates = pool(1);
  candidates.overlapBlocks[0] = 50;
  candidates.activePrefillTokens[0] = 160;
  expect(costsOf(candidates, {}, { ...request, overlapCredit: 0 })).toEqual([210]);
  expect(costsOf(candidates, {}, { ...request, prefillLoadScale: 0.5 })).toEqual([55]);
});

it('explains exactly the cost it gives', () => {
  const candidates = pool(4);
  candidates.overlapBlocks.set([0, 10, 20, 100]);
  candidates.activePrefillTokens.set([1000, 20, 3000, 0]);
  candidates.decodeBlocks.set([100, 200, 4000, 5000]);
  candidates.excessShare.set([0.1, 0, -0.1, 0.3]);
  const scorer = new ExpectedWorkScorer(expectedWorkDefaults);
  costsOf(candidates).forEach((cost, i) => expect(scorer.explain(request, candidates, i).cost).toBe(cost));
});
