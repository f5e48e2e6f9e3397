import { idleCandidates, routingRequest, workerRecord } from '@armature/contracts/testing/routing-fixtures';
import { expect, test } from 'vitest';
import { PreferredTaintsScorer } from './taints.ts';

const candidates = { ...idleCandidates(3), workers: [workerRecord(0, { taints: ['fast'] }), workerRecord(1, { taints: ['spot'] }), workerRecord(2)] };
const request = routingRequest({ preferredTaints: [{ taint: 'fast', weight: 1 }, { taint: 'spot', weight: -1 }] });

test("costs from zero are scaled by Dynamo's factor", () => {
  const costs = Float64Array.of(10, 10, 10);
  new PreferredTaintsScorer().score(request, candidates, costs);
  expect(costs[0]).toBeCloseTo(10 * Math.exp(-Math.tanh(1)), 12);
  expect(costs[1]).toBeCloseTo(10 * Math.exp(Math.tanh(1)), 12);
  expect(costs[2]).toBe(10);
});

test('below zero, too, the wanted worker is not the worse for it', () => {
  const costs = Float64Array.of(-2, -2, -5);
  new PreferredTaintsScorer().score(request, candidates, costs);
  expect(costs[0]).toBeLessThan(-2);
  expect(costs[1]).toBeGreaterThan(-2);
  expect(costs[2]).toBe(-5);
});
