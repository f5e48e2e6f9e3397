import { expect, test } from 'vitest';
import type { RouterPolicy } from '@armature/contracts';
import { idleCandidates, routingRequest } from '@armature/contracts/testing/routing-fixtures';
import { seeded } from './fixtures.test.support.ts';
import { pickLowest } from './pick.ts';
import { LeastLoadedPolicy, PowerOfTwoPolicy, RandomPolicy, RoundRobinPolicy } from './simple-policies.ts';

const request = routingRequest();
const ties = seeded(99);

/** What the host does with a policy, given the slots that may take the request. */
function choose(policy: RouterPolicy, slots: readonly number[], parts: { loads?: readonly number[]; excluded?: readonly number[] } = {}): number {
  const candidates = idleCandidates(slots.length);
  candidates.slots.set(slots);
  if (parts.loads) candidates.activeRequests.set(parts.loads);
  const costs = new Float64Array(slots.length);
  for (const index of parts.excluded ?? []) costs[index] = Infinity;
  policy.score(request, candidates, costs);
  const index = policy.pick ? policy.pick(request, candidates, costs) : pickLowest(costs, slots.length, ties);
  return index === -1 ? -1 : slots[index];
}

function tally(policy: RouterPolicy, draws: number, slots: readonly number[], parts: { loads?: readonly number[]; excluded?: readonly number[] } = {}): number[] {
  const counts = slots.map(() => 0);
  for (let i = 0; i < draws; i++) counts[slots.indexOf(choose(policy, slots, parts))]++;
  return counts;
}

test('round-robin takes strict turns and keeps them when candidates come, go and change order', () => {
  const policy = new RoundRobinPolicy();
  const all = [3, 0, 70];
  expect([1, 2, 3, 4, 5, 6, 7].map(() => choose(policy, all))).toEqual([3, 0, 70, 3, 0, 70, 3]);
  expect([1, 2, 3, 4].map(() => choose(policy, [70, 0]))).toEqual([0, 70, 0, 70]);
  expect(choose(policy, all)).toBe(3);
  expect(choose(policy, [...all, 500])).toBe(500);
  expect([1, 2, 3, 4].map(() => choose(policy, [500, 70, 0, 3]))).toEqual([0, 70, 3, 500]);
});

test('round-robin uses every worker equally although candidate sets vary (Dynamo #8551)', () => {
  const policy = new RoundRobinPolicy();
  const random = seeded(5);
  const counts = Array.from({ length: 10 }, () => 0);
  for (let i = 0; i < 10_000; i++) {
    const slots = Array.from({ length: 10 }, (_, slot) => slot).filter(() => random.below(4) > 0);
    if (slots.length > 0) counts[choose(policy, slots)]++;
  }
  for (const count of counts) expect(Math.abs(count - 1000), `${counts}`).toBeLessThan(100);
});

test('round-robin: an excluded worker keeps its turn', () => {
  const policy = new RoundRobinPolicy();
  expect(choose(policy, [0, 1, 2], { excluded: [0] })).toBe(1);
  expect(choose(policy, [0, 1, 2], { excluded: [0] })).toBe(2);
  expect(choose(policy, [0, 1, 2])).toBe(0);
  expect(choose(policy, [0, 1, 2], { excluded: [0, 1, 2] })).toBe(-1);
});

test('random is uniform over the candidates nobody excluded', () => {
  expect(tally(new RandomPolicy(seeded(3)), 9000, [0, 1, 2, 3], { excluded: [2] }).map((count) => Math.abs(count - 3000) < 250)).toEqual([true, true, false, true]);
});

test('least-loaded takes the fewest requests, equal ones in equal parts', () => {
  const policy = new LeastLoadedPolicy();
  const counts = tally(policy, 4000, [0, 1, 2, 3], { loads: [5, 2, 9, 2] });
  expect([counts[0], counts[2]]).toEqual([0, 0]);
  expect(Math.abs(counts[1] - 2000)).toBeLessThan(250);
  expect(choose(policy, [0, 1], { loads: [1, 2], excluded: [0] })).toBe(1);
});

test('power-of-two: every pair equally likely, the less loaded of the two wins', () => {
  const policy = new PowerOfTwoPolicy(seeded(8));
  // With loads 0 < 1 < 2 < 3 worker k wins the pairs with heavier ones: (3 - k) of 6.
  const counts = tally(policy, 12_000, [0, 1, 2, 3], { loads: [0, 1, 2, 3] });
  [6000, 4000, 2000, 0].forEach((expected, i) => expect(Math.abs(counts[i] - expected), `${counts}`).toBeLessThan(300));
  // Excluded workers are not drawn: worker 1 wins 2 of 3 pairs.
  const without = tally(policy, 9000, [0, 1, 2, 3], { loads: [0, 1, 2, 3], excluded: [0] });
  [0, 6000, 3000, 0].forEach((expected, i) => expect(Math.abs(without[i] - expected), `${without}`).toBeLessThan(300));
  expect(choose(policy, [4, 7], { loads: [9, 1] })).toBe(7);
  expect(choose(policy, [4], { loads: [9] })).toBe(4);
  expect(choose(policy, [4, 5], { excluded: [0] })).toBe(5);
});
