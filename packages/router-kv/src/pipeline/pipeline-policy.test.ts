import { idleCandidates, routingRequest, workerRecord } from '@armature/contracts/testing/routing-fixtures';
import type { Candidates, RouterFilter, RouterScorer, RoutingRequest } from '@armature/contracts';
import { expect, test } from 'vitest';
import { kvPolicyDefaults } from '../config.ts';
import { KvFacts } from '../facts/kv-facts.ts';
import { RequiredTaintsFilter } from '../filters/required-taints.ts';
import { fakeContext } from '../fixtures.test.support.ts';
import { ExpectedWorkScorer, expectedWorkDefaults } from '../scorers/expected-work.ts';
import { SessionScorer } from '../scorers/session.ts';
import { PreferredTaintsScorer } from '../scorers/taints.ts';
import { PipelinePolicy } from './pipeline-policy.ts';

const SEED = 71;
const TAINTS = ['fast', 'spot', 'zone=a'];

function source(seed: number): (bound: number) => number {
  let x = seed >>> 0;
  return (bound) => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
}

/** A piece that is asked every time. */
function always<P extends RouterScorer | RouterFilter>(piece: P): P {
  return new Proxy(piece, { get: (of, key) => (key === 'applies' ? undefined : typeof of[key as keyof P] === 'function' ? (of[key as keyof P] as () => unknown).bind(of) : of[key as keyof P]) });
}

const explodes = { name: 'explodes', score: (request: RoutingRequest) => { if (request.blocks % 5 === 0) throw new Error('five'); } };

function pipeline(asked: <P extends RouterScorer | RouterFilter>(piece: P) => P): PipelinePolicy {
  const scorers: RouterScorer[] = [new ExpectedWorkScorer(expectedWorkDefaults), explodes, new SessionScorer(), new PreferredTaintsScorer()];
  return new PipelinePolicy({
    name: 'test',
    facts: new KvFacts(kvPolicyDefaults, fakeContext()),
    filters: [asked(new RequiredTaintsFilter())],
    scorers: scorers.map((scorer) => ({ scorer: asked(scorer), weight: 1 })),
    picker: { name: 'first', pick: () => 0 },
    failed: () => undefined,
  });
}

function situation(below: (bound: number) => number): { request: RoutingRequest; candidates: Candidates } {
  const count = below(140);
  const candidates = { ...idleCandidates(count), workers: Array.from({ length: count }, (_, slot) => workerRecord(slot, { taints: TAINTS.filter(() => below(2) === 0) })) };
  for (let i = 0; i < count; i++) {
    candidates.overlapBlocks[i] = below(9);
    candidates.decodeBlocks[i] = below(6_000);
    candidates.activePrefillTokens[i] = below(9_000);
    candidates.excessShare[i] = (below(400) - 200) / 100;
  }
  const request = routingRequest({
    blocks: 1 + below(20),
    requiredTaints: below(2) === 0 ? [] : [TAINTS[below(3)]!],
    preferredTaints: below(2) === 0 ? [] : [{ taint: TAINTS[below(3)]!, weight: below(5) - 2 }],
    sessionSlot: below(2) === 0 ? -1 : below(140),
    sessionBonusBlocks: 4,
  });
  return { request, candidates };
}

function sameAsAskingAll(policy: PipelinePolicy, rounds: number): { skipped: number } {
  const below = source(SEED);
  const all = pipeline(always);
  let skipped = 0;
  for (let round = 0; round < rounds; round++) {
    const { request, candidates } = situation(below);
    const [costs, expected] = [new Float64Array(candidates.count), new Float64Array(candidates.count)];
    policy.rescore(request, candidates, costs);
    all.rescore(request, candidates, expected);
    const where = `seed ${SEED}, round ${round}`;
    expect(costs, where).toEqual(expected);
    const cells = candidates.count * policy.parts.names.length;
    expect(policy.parts.costs.subarray(0, cells), where).toEqual(all.parts.costs.subarray(0, cells));
    expect(policy.problem(), where).toBe(all.problem());
    if (request.sessionSlot < 0 || request.preferredTaints.length === 0) skipped++;
  }
  return { skipped };
}

test('pieces that do not apply are left out without a difference to asking all of them: costs, parts, problems', () => {
  expect(sameAsAskingAll(pipeline((piece) => piece), 400).skipped).toBeGreaterThan(100);
});

test('sabotage: a piece that says it does not apply when it does is seen', () => {
  const lies = pipeline((piece) => (piece.name === 'preferred-taints' ? Object.assign(piece, { applies: () => false }) : piece));
  expect(() => sameAsAskingAll(lies, 400)).toThrow(/round/);
});

test('a piece whose `applies` throws is left out of the decision and named', () => {
  const policy = pipeline((piece) => (piece.name === 'session' ? Object.assign(piece, { applies: () => { throw new Error('no'); } }) : piece));
  const candidates = idleCandidates(2);
  const costs = new Float64Array(2);
  policy.rescore(routingRequest({ blocks: 3 }), candidates, costs);
  expect(policy.problem()).toBe('session threw: Error: no');
  expect([...costs].every(Number.isFinite)).toBe(true);
});
