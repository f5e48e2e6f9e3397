import { expect, test } from 'vitest';
import type { RoutingRequest } from '@armature/contracts';
import { chainHashes, idleCandidates, removedEvent, routingRequest, storedEvent, workerRecord } from '@armature/contracts/testing/routing-fixtures';
import { kvPolicyDefaults } from './config.ts';
import type { KvPolicyConfig } from './config.ts';
import { collections, fakeContext } from './fixtures.test.support.ts';
import { KvPolicy } from './kv-policy.ts';

function create(config: Partial<KvPolicyConfig> = {}, workers = 4, seed = 1) {
  const context = fakeContext(seed);
  const policy = new KvPolicy({ ...kvPolicyDefaults, cost: 'kv-cost', predictSeconds: 0, ...config }, context);
  for (let slot = 0; slot < workers; slot++) policy.kv.joined(slot, workerRecord(slot));
  return { policy, context };
}

interface Vector {
  readonly name: string;
  readonly config?: Partial<KvPolicyConfig>;
  readonly request?: Partial<RoutingRequest>;
  /** Device, host, disk, object blocks on worker 0, in that order along the chain. */
  readonly tiers?: readonly [number, number?, number?, number?];
  /** Prompt blocks of a running request on worker 0: the same chain, and another one. */
  readonly running?: number;
  readonly other?: number;
  /** Prefill tokens and requests of worker 0; worker 1 has none. */
  readonly prefill?: number;
  readonly requests?: number;
  /** Costs of worker 0 and of worker 1, idle and empty. */
  readonly costs: readonly [number, number];
}

// Prompts are 32 blocks of 16 tokens unless said otherwise. Costs by hand from the formula (reference: Dynamo 1.6.1).
const vectors: readonly Vector[] = [
  { name: 'cold and idle: prefill 32 + decode 32', costs: [64, 64] },
  { name: 'overlap 8: 32 - 8 + 32', tiers: [8], costs: [56, 64] },
  { name: 'whole prompt cached: 0 + 32', tiers: [32], costs: [32, 64] },
  { name: 'queued prefill 320 tokens = 20 blocks', prefill: 320, costs: [84, 64] },
  { name: 'credit cancels queued prefill: 52 - 32', prefill: 320, tiers: [32], costs: [52, 64] },
  { name: 'running request of another prompt: decode 10 + 32', other: 10, costs: [74, 64] },
  { name: 'running request of the same prompt is shared: decode 12 + 32 - 12', running: 12, costs: [64, 64] },
  { name: 'shared and not shared: decode 22 + 32 - 12', running: 12, other: 10, costs: [74, 64] },
  { name: 'credit 0 ignores the cache', config: { overlapCredit: 0 }, tiers: [32], costs: [64, 64] },
  { name: 'credit 1.5: 32 - 12 + 32', config: { overlapCredit: 1.5 }, tiers: [8], costs: [52, 64] },
  { name: 'credit above 1 never makes prefill negative', config: { overlapCredit: 4 }, tiers: [32], costs: [32, 64] },
  { name: 'a request overrides the credit: 32 - 4 + 32', request: { overlapCredit: 0.5 }, tiers: [8], costs: [60, 64] },
  { name: 'tiers: 4 + 0.75 * 4 + 0.25 * 8 = 9', tiers: [4, 4, 8], costs: [55, 64] },
  { name: 'object tier by its credit: 4 + 0.5 * 4', config: { objectCredit: 0.5 }, tiers: [4, 0, 0, 4], costs: [58, 64] },
  { name: 'prefillLoadScale 2: 2 * 24 + 32', config: { prefillLoadScale: 2 }, tiers: [8], costs: [80, 96] },
  { name: 'prefillLoadScale 0: decode only', config: { prefillLoadScale: 0 }, prefill: 320, other: 10, costs: [42, 32] },
  { name: 'activeRequestWeight 3, 5 requests', config: { activeRequestWeight: 3 }, requests: 5, costs: [79, 64] },
  { name: 'decay 1: 16 blocks more queued than the least, of 32: credit 8 / 1.5', config: { overlapDecay: 1 }, tiers: [8], prefill: 256, costs: [32 + 16 - 8 / 1.5 + 32, 64] },
  { name: 'decay leaves lower tiers alone', config: { overlapDecay: 1 }, tiers: [0, 8], prefill: 256, costs: [32 + 16 - 6 + 32, 64] },
  { name: 'prefill hop: no decode blocks', request: { hop: 'prefill' }, tiers: [8], other: 10, prefill: 32, costs: [26, 32] },
  { name: 'decode hop without credit: decode only, nothing shared', request: { hop: 'decode', creditsOverlap: false }, tiers: [8], running: 12, prefill: 320, costs: [44, 32] },
  { name: 'decode hop with credit: 32 + 10 - 8', request: { hop: 'decode' }, tiers: [8], other: 10, prefill: 320, costs: [34, 32] },
  { name: 'decode hop, credit overridden to 0', request: { hop: 'decode', overlapCredit: 0 }, tiers: [8], other: 10, costs: [42, 32] },
  { name: 'decode hop: never below zero', request: { hop: 'decode' }, config: { overlapCredit: 9 }, tiers: [8], costs: [0, 32] },
  { name: 'partial block: 513 tokens, prefill 513 / 16, decode 33', request: { promptTokens: 513 }, tiers: [8], costs: [513 / 16 - 8 + 33, 513 / 16 + 33] },
  { name: 'partial block as Dynamo counts: decode 32', config: { trackOutputBlocks: false }, request: { promptTokens: 513 }, tiers: [8], costs: [513 / 16 - 8 + 32, 513 / 16 + 32] },
  { name: 'prompt shorter than a block', request: { blocks: 0, promptTokens: 5 }, prefill: 32, costs: [37 / 16 + 1, 5 / 16 + 1] },
  { name: 'empty prompt', request: { blocks: 0, promptTokens: 0 }, costs: [0, 0] },
];

for (const { name, config = {}, request: parts = {}, tiers = [0], running = 0, other = 0, prefill = 0, requests = 0, costs: expected } of vectors) {
  test(`golden cost: ${name}`, () => {
    const { policy } = create(config, 2);
    let at = 0;
    let eventId = 0;
    tiers.forEach((blocks = 0, t) => {
      if (blocks > 0) policy.kv.apply(0, storedEvent(++eventId, chainHashes(1, blocks, at), (['device', 'host', 'disk', 'object'] as const)[t]));
      at += blocks;
    });
    if (running > 0) policy.load.dispatched(0, routingRequest({ id: 'same', blocks: running }));
    if (other > 0) policy.load.dispatched(0, routingRequest({ id: 'other', blocks: other, chain: 2 }));
    const candidates = idleCandidates(2);
    candidates.activePrefillTokens[0] = prefill;
    candidates.activeRequests[0] = requests;
    const request = routingRequest({ blocks: 32, ...parts });
    const costs = new Float64Array(2);
    policy.score(request, candidates, costs);
    expect(costs[0]).toBeCloseTo(expected[0], 9);
    expect(costs[1]).toBeCloseTo(expected[1], 9);
    expect(candidates.overlapBlocks[0]).toBe(Math.min(at, request.blocks));
    expect(policy.explain(request, candidates, 0)).toMatchObject({ cost: costs[0], overlapBlocks: Math.min(at, request.blocks) });
  });
}

test('explain names every term of the last score', () => {
  const { policy } = create();
  policy.kv.apply(1, storedEvent(1, chainHashes(1, 6)));
  policy.kv.apply(1, storedEvent(2, chainHashes(1, 2, 6), 'host'));
  policy.load.dispatched(1, routingRequest({ id: 'x', blocks: 3 }));
  const candidates = idleCandidates(4);
  candidates.activePrefillTokens[1] = 48;
  candidates.activeRequests[1] = 1;
  const request = routingRequest({ blocks: 16 });
  policy.score(request, candidates, new Float64Array(4));
  expect(policy.explain(request, candidates, 1)).toEqual({
    requestBlocks: 16,
    rawPrefillBlocks: 19,
    overlapBlocks: 8,
    deviceBlocks: 6,
    hostBlocks: 2,
    diskBlocks: 0,
    objectBlocks: 0,
    overlapDecay: 1,
    creditBlocks: 7.5,
    adjustedPrefillBlocks: 11.5,
    decodeBlocks: 16,
    activeRequests: 1,
    cost: 27.5,
    'session.bonusBlocks': 0,
    'preferred-taints.factor': 1,
  });
});

test('lost requests are given up on the injected clock; an idle router has no timer', () => {
  const { policy, context } = create();
  expect(context.clock.timers).toBe(0);
  policy.load.dispatched(0, routingRequest({ id: 'lost' }));
  expect(context.clock.timers).toBe(1);
  context.clock.advance(299_000);
  context.collect();
  expect(context.values.get('armature_router_tracked_requests')).toBe(1);
  context.clock.advance(31_000);
  context.collect();
  expect(context.values.get('armature_router_tracked_requests')).toBe(0);
  expect(context.values.get('armature_router_expired_requests_total')).toBe(1);
  expect(context.warnings).toHaveLength(1);
  expect(context.clock.timers).toBe(0);
  policy.load.dispatched(0, routingRequest({ id: 'again' }));
  policy.close();
  expect(context.clock.timers).toBe(0);
});

/** What the host does: score, pick, dispatch; counts the workers chosen. */
function route(policy: KvPolicy, requests: number, workers: number, make: (i: number) => RoutingRequest, keep = 0): number[] {
  const candidates = idleCandidates(workers);
  const costs = new Float64Array(workers);
  const chosen = Array.from({ length: workers }, () => 0);
  const running: { slot: number; id: string }[] = [];
  for (let i = 0; i < requests; i++) {
    costs.fill(0);
    candidates.overlapBlocks.fill(0);
    const request = make(i);
    policy.score(request, candidates, costs);
    const slot = policy.pick(request, candidates, costs);
    chosen[slot]++;
    if (keep === 0) continue;
    policy.load.dispatched(slot, request);
    candidates.activeRequests[slot]++;
    running.push({ slot, id: request.id });
    if (running.length > keep) {
      const done = running.shift()!;
      policy.load.ended(done.slot, done.id);
      candidates.activeRequests[done.slot]--;
    }
  }
  return chosen;
}

test('equal costs spread evenly (Dynamo #3581): all-equal cold prompts do not land on one worker', () => {
  for (const seed of [1, 2, 3]) {
    const { policy } = create({}, 8, seed);
    const chosen = route(policy, 8000, 8, (i) => routingRequest({ id: `r${i}`, chain: i }));
    // Binomial(8000, 1/8): standard deviation 30.
    for (const count of chosen) expect(Math.abs(count - 1000), `seed ${seed}: ${chosen}`).toBeLessThan(150);
  }
});

test('nobody starves over 10,000 requests that share prefixes and run together (Dynamo #7836)', () => {
  for (const hop of ['aggregated', 'decode'] as const) {
    for (const creditsOverlap of [true, false]) {
      const { policy } = create({}, 5, 7);
      policy.kv.apply(0, storedEvent(1, chainHashes(0, 4)));
      const chosen = route(policy, 10_000, 5, (i) => routingRequest({ id: `r${i}`, chain: i % 3, blocks: 8, hop, creditsOverlap }), 40);
      for (const count of chosen) expect(count, `${hop} ${creditsOverlap}: ${chosen}`).toBeGreaterThan(10_000 / 5 / 10);
    }
  }
});

test('a burst of short prompts spreads: output and partial blocks are load even below one block', () => {
  const { policy } = create({}, 4, 3);
  const chosen = route(policy, 400, 4, (i) => routingRequest({ id: `r${i}`, blocks: 0, promptTokens: 7 }), 400);
  expect(chosen).toEqual([100, 100, 100, 100]);
});

test('temperature draws by softmax over normalised costs; the request overrides the config', () => {
  const { policy } = create({ temperature: 0.5 }, 3, 11);
  policy.kv.apply(0, storedEvent(1, chainHashes(1, 8)));
  policy.kv.apply(1, storedEvent(1, chainHashes(1, 4)));
  const draws = 30_000;
  const chosen = route(policy, draws, 3, () => routingRequest({ blocks: 8 }));
  const weights = [0, 0.5, 1].map((normalised) => Math.exp(-normalised / 0.5));
  const sum = weights[0] + weights[1] + weights[2];
  chosen.forEach((count, i) => expect(count / draws).toBeCloseTo(weights[i] / sum, 1.7));
  expect(route(policy, 100, 3, () => routingRequest({ blocks: 8, temperature: 0 }))).toEqual([100, 0, 0]);
  // All equal: uniform, not a division by zero.
  const even = route(policy, 9000, 3, () => routingRequest({ blocks: 8, chain: 5 }));
  for (const count of even) expect(Math.abs(count - 3000)).toBeLessThan(250);
});

test('excluded workers are never drawn, whatever the temperature', () => {
  const { policy } = create();
  const candidates = idleCandidates(4);
  for (const temperature of [0, 0.2, 5]) {
    for (let i = 0; i < 200; i++) {
      const costs = Float64Array.of(Infinity, 0, Infinity, 0);
      const request = routingRequest({ temperature, chain: i });
      policy.score(request, candidates, costs);
      expect([1, 3]).toContain(policy.pick(request, candidates, costs));
    }
  }
});

test('scoring 64 workers does not allocate per candidate', async () => {
  const { policy } = create({ overlapDecay: 0.5, temperature: 0.3 }, 64);
  for (let slot = 0; slot < 64; slot++) policy.kv.apply(slot, storedEvent(1, chainHashes(1, slot)));
  policy.kv.apply(0, removedEvent(2, chainHashes(2, 1)));
  const candidates = idleCandidates(64);
  const costs = new Float64Array(64);
  const request = routingRequest({ blocks: 64 });
  const decide = (): void => {
    costs.fill(0);
    policy.score(request, candidates, costs);
    policy.pick(request, candidates, costs);
  };
  const decisions = 60_000;
  const quiet = await collections(() => {
    for (let i = 0; i < decisions; i++) decide();
  });
  // The measure sees it: one object per candidate is 60,000 x 64 x 16 bytes = 61 MB at least.
  const kept: object[] = [];
  const allocating = await collections(() => {
    for (let i = 0; i < decisions * 64; i++) kept[i & 63] = { i };
  });
  console.log(`collections: ${quiet} scoring, ${allocating} with one object per candidate`);
  expect(allocating).toBeGreaterThanOrEqual(3);
  expect(quiet).toBeLessThan(3);
});

// The pains of users of other routers, on the default cost, with what production knows.
const cost = 'expected-work';

test('one hot prefix, requests one after the other: everybody gets a share (Dynamo #7836)', () => {
  for (const chains of [1, 2]) {
    const { policy } = create({ cost, predictSeconds: 5 }, 5, 3);
    policy.kv.apply(0, storedEvent(1, chainHashes(0, 8)));
    const chosen = route(policy, 2_000, 5, (i) => routingRequest({ id: `r${i}`, chain: i % chains, blocks: 8 }), 1);
    for (const count of chosen) expect(count, `${chains} hot prefixes: ${chosen}`).toBeGreaterThan(2_000 / 5 / 2);
  }
});

test('cold prompts one after the other do not all land on one worker', () => {
  const { policy } = create({ cost, predictSeconds: 5 }, 5, 4);
  const chosen = route(policy, 100, 5, (i) => routingRequest({ id: `r${i}`, chain: 100 + i, blocks: 8 }), 1);
  for (const count of chosen) expect(count, String(chosen)).toBe(20);
});

test('a burst of siblings stays together instead of being computed by everybody', () => {
  const apart = create({ cost, predictSeconds: 0, shareTolerance: 0 }, 8, 5);
  const together = create({ cost, predictSeconds: 5, shareTolerance: 0 }, 8, 5);
  const burst = (policy: KvPolicy): number => route(policy, 8, 8, (i) => routingRequest({ id: `r${i}`, chain: 7, blocks: 64 }), 8).filter((count) => count > 0).length;
  expect(burst(together.policy)).toBeLessThan(burst(apart.policy));
});
