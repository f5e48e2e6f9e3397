import assert from 'node:assert/strict';
import type { Candidates, KvFollower, LoadFollower, RouterPolicy, RoutingRequest } from '../router-policy.ts';
import { chainHashes, idleCandidates, removedEvent, routingRequest, storedEvent, workerRecord } from './routing-fixtures.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface RouterPolicyContractOptions {
  readonly runner: SuiteRunner;
  /** A new policy, independent of all others, with any seed and default config, but without predicting caches from what was sent: that outlives requests. */
  create(): RouterPolicy | Promise<RouterPolicy>;
  readonly skip?: readonly SkippedRule[];
}

function random(seed: number): (bound: number) => number {
  let x = seed >>> 0;
  return (bound) => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
}

const hops = ['aggregated', 'prefill', 'decode'] as const;
/** Columns that a policy may write. */
const facts = ['overlapBlocks', 'hostBlocks', 'diskBlocks', 'objectBlocks', 'decodeBlocks', 'excessShare'] as const;

/** Any requests and candidates a host may bring. */
function* situations(seed: number): Generator<{ request: RoutingRequest; candidates: Candidates; where: string }> {
  const below = random(seed);
  for (const count of [0, 1, 2, 3, 17, 64, 65]) {
    for (const blocks of [0, 1, 37]) {
      for (const hop of hops) {
        const candidates = idleCandidates(count, count + 3);
        for (let i = 0; i < count + 3; i++) {
          candidates.activeRequests[i] = below(5) === 0 ? 0 : below(300);
          candidates.activePrefillTokens[i] = below(3) === 0 ? 0 : below(100_000);
          candidates.activeBlocks[i] = below(4096);
          candidates.costPerHour[i] = below(3) === 0 ? 0 : below(50) / 7;
        }
        const request = routingRequest({ blocks, hop, promptTokens: blocks * 16 + 1 + below(15), creditsOverlap: hop !== 'decode' || below(2) === 0 });
        yield { request, candidates, where: `seed ${seed}, ${count} candidates, ${blocks} blocks, ${hop}` };
      }
    }
  }
}

async function prepared(create: RouterPolicyContractOptions['create'], workers = 65): Promise<RouterPolicy> {
  const policy = await create();
  if (policy.kv !== undefined) for (let slot = 0; slot < workers; slot++) policy.kv.joined(slot, workerRecord(slot));
  return policy;
}

function scored(policy: RouterPolicy, request: RoutingRequest, candidates: Candidates): Float64Array {
  const costs = new Float64Array(candidates.slots.length);
  for (const fact of facts) candidates[fact].fill(0);
  policy.score(request, candidates, costs);
  return costs;
}

function overlaps(policy: RouterPolicy, request: RoutingRequest, count = 4): number[] {
  const candidates = idleCandidates(count);
  scored(policy, request, candidates);
  return [...candidates.overlapBlocks];
}

/** The rules of router-policy v1. Rules about a face or method pass at once when the policy has none. */
export function routerPolicyRules(create: RouterPolicyContractOptions['create']): ContractRule[] {
  return [...shapeRules(create), ...scoreRules(create), ...pickRules(create), ...kvRules(create), ...loadRules(create), ...lifecycleRules(create)];
}

function shapeRules(create: RouterPolicyContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'shape: has a name, abilities, and whole faces',
      async run() {
        const policy = await create();
        assert.equal(typeof policy.name, 'string');
        assert.notEqual(policy.name, '');
        assert.equal(typeof policy.supports.deterministic, 'boolean');
        assert.equal(typeof policy.score, 'function');
        for (const method of ['joined', 'left', 'apply', 'restore'] as const) if (policy.kv) assert.equal(typeof policy.kv[method], 'function');
        for (const method of ['dispatched', 'firstToken', 'grown', 'ended'] as const) if (policy.load) assert.equal(typeof policy.load[method], 'function');
      },
    },
  ];
}

function scoreRules(create: RouterPolicyContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'score: costs are finite, or +Infinity to exclude, for any situation',
      async run() {
        const policy = await prepared(create);
        for (const { request, candidates, where } of situations(11)) {
          const costs = scored(policy, request, candidates);
          for (let i = 0; i < candidates.count; i++) {
            assert.ok(Number.isFinite(costs[i]) || costs[i] === Number.POSITIVE_INFINITY, `cost ${costs[i]} of candidate ${i} (${where})`);
          }
        }
      },
    },
    {
      name: 'score: does not throw for workers it was never told of',
      async run() {
        const policy = await create();
        for (const { request, candidates } of situations(13)) {
          for (const cost of scored(policy, request, candidates)) assert.ok(!Number.isNaN(cost));
        }
      },
    },
    {
      name: 'score: adds to costs, keeps +Infinity, and leaves rows past the count alone',
      async run() {
        const policy = await prepared(create);
        for (const { request, candidates, where } of situations(17)) {
          const before = Float64Array.from({ length: candidates.slots.length }, (_, i) => (i % 5 === 4 ? Number.POSITIVE_INFINITY : 2 ** 40 * (i + 1)));
          const costs = before.slice();
          policy.score(request, candidates, costs);
          for (let i = 0; i < costs.length; i++) {
            if (i >= candidates.count || before[i] === Number.POSITIVE_INFINITY) assert.equal(costs[i], before[i], `row ${i} (${where})`);
            else assert.ok(Math.abs(costs[i] - before[i]) < 2 ** 39 || costs[i] === Number.POSITIVE_INFINITY, `row ${i} was overwritten (${where})`);
          }
        }
      },
    },
    {
      name: 'score: changes no input but the facts',
      async run() {
        const policy = await prepared(create);
        for (const { request, candidates, where } of situations(19)) {
          const requestBefore = structuredClone(request);
          const candidatesBefore = structuredClone(candidates);
          scored(policy, request, candidates);
          assert.deepEqual(request, requestBefore, where);
          for (const fact of facts) candidatesBefore[fact].set(candidates[fact].subarray(0, candidates.count));
          assert.deepEqual({ ...candidates }, candidatesBefore, where);
        }
      },
    },
    {
      name: 'score: equal inputs give equal costs when deterministic is claimed',
      async run() {
        const policy = await prepared(create);
        if (!policy.supports.deterministic) return;
        for (const { request, candidates, where } of situations(23)) {
          const first = scored(policy, request, candidates);
          for (let again = 0; again < 3; again++) assert.deepEqual(scored(policy, request, candidates), first, where);
        }
      },
    },
    {
      name: 'explain: every term of every candidate is a finite number',
      async run() {
        const policy = await prepared(create);
        if (policy.explain === undefined) return;
        for (const { request, candidates, where } of situations(29)) {
          scored(policy, request, candidates);
          for (let i = 0; i < candidates.count; i++) {
            const terms = Object.entries(policy.explain(request, candidates, i));
            assert.ok(terms.length > 0, `no terms (${where})`);
            for (const [name, value] of terms) assert.ok(Number.isFinite(value), `${name} is ${value} (${where})`);
          }
        }
      },
    },
    {
      name: 'explain: terms come from the columns alone, whatever was scored since',
      async run() {
        const policy = await prepared(create);
        if (policy.explain === undefined) return;
        const [, , other] = [...situations(7)].filter(({ candidates }) => candidates.count === 3);
        for (const { request, candidates, where } of situations(29)) {
          scored(policy, request, candidates);
          const all = Array.from({ length: candidates.count }, (_, i) => policy.explain?.(request, candidates, i));
          scored(policy, other.request, other.candidates);
          assert.deepEqual(Array.from({ length: candidates.count }, (_, i) => policy.explain?.(request, candidates, i)), all, where);
        }
      },
    },
  ];
}

function pickRules(create: RouterPolicyContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'pick: an index of a candidate that is not excluded, -1 when all are',
      async run() {
        const policy = await prepared(create);
        if (policy.pick === undefined) return;
        const below = random(31);
        for (const { request, candidates, where } of situations(31)) {
          for (const temperature of [Number.NaN, 0, 0.5]) {
            const costs = scored(policy, { ...request, temperature }, candidates);
            for (let i = 0; i < candidates.count; i++) if (below(3) === 0) costs[i] = Number.POSITIVE_INFINITY;
            const open = costs.subarray(0, candidates.count).some((cost) => cost !== Number.POSITIVE_INFINITY);
            const chosen = policy.pick({ ...request, temperature }, candidates, costs);
            if (!open) assert.equal(chosen, -1, where);
            else assert.ok(chosen >= 0 && chosen < candidates.count && costs[chosen] !== Number.POSITIVE_INFINITY, `picked ${chosen} (${where})`);
          }
        }
      },
    },
  ];
}

/** Runs a rule on a policy with a KV face, with slots 0 to 3 joined. */
function kvRule(create: RouterPolicyContractOptions['create'], name: string, body: (policy: RouterPolicy, kv: KvFollower) => void): ContractRule {
  return {
    name: `kv: ${name}`,
    async run() {
      const policy = await prepared(create, 4);
      if (policy.kv !== undefined) body(policy, policy.kv);
    },
  };
}

function kvRules(create: RouterPolicyContractOptions['create']): ContractRule[] {
  const request = routingRequest({ chain: 7, blocks: 8 });
  const chain = (from: number, to: number): Int32Array => chainHashes(7, to - from, from);
  const of = (policy: RouterPolicy): number[] => overlaps(policy, request);
  return [
    kvRule(create, 'overlap is the unbroken prefix of each worker', (policy, kv) => {
      kv.apply(0, storedEvent(1, chain(0, 8)));
      kv.apply(1, storedEvent(1, chain(0, 3)));
      kv.apply(2, storedEvent(1, chain(1, 8)));
      assert.deepEqual(of(policy), [8, 3, 0, 0]);
      kv.apply(0, removedEvent(2, chain(4, 5)));
      kv.apply(2, storedEvent(2, chain(0, 1)));
      assert.deepEqual(of(policy), [4, 3, 8, 0]);
    }),
    kvRule(create, 'a duplicate or late event is accepted and changes nothing', (policy, kv) => {
      assert.equal(kv.apply(0, storedEvent(1, chain(0, 4))), true);
      assert.equal(kv.apply(0, removedEvent(2, chain(3, 4))), true);
      assert.equal(kv.apply(0, storedEvent(1, chain(0, 4))), true);
      assert.equal(kv.apply(0, storedEvent(2, chain(0, 8))), true);
      assert.deepEqual(of(policy), [3, 0, 0, 0]);
    }),
    kvRule(create, 'an event after a gap is refused and changes nothing', (policy, kv) => {
      kv.apply(0, storedEvent(1, chain(0, 4)));
      assert.equal(kv.apply(0, storedEvent(3, chain(4, 8))), false);
      assert.deepEqual(of(policy), [4, 0, 0, 0]);
      assert.equal(kv.apply(0, storedEvent(2, chain(4, 6))), true, 'the missing event');
      assert.equal(kv.apply(1, storedEvent(2, chain(0, 4))), false, 'ids count from 1');
      assert.deepEqual(of(policy), [6, 0, 0, 0]);
    }),
    kvRule(create, 'cleared forgets one worker only', (policy, kv) => {
      for (const slot of [0, 1]) kv.apply(slot, storedEvent(1, chain(0, 4)));
      kv.apply(0, { type: 'cleared', eventId: 2 });
      assert.deepEqual(of(policy), [0, 4, 0, 0]);
      assert.equal(kv.apply(0, storedEvent(3, chain(0, 2))), true);
      assert.deepEqual(of(policy), [2, 4, 0, 0]);
    }),
    kvRule(create, 'restore takes over the whole state of one worker, and the next id follows it', (policy, kv) => {
      for (const slot of [0, 1]) kv.apply(slot, storedEvent(1, chain(0, 4)));
      kv.restore(0, [storedEvent(1, chain(0, 2)), storedEvent(1, chain(2, 5))], 57);
      assert.deepEqual(of(policy), [5, 4, 0, 0]);
      assert.equal(kv.apply(0, storedEvent(57, chain(5, 8))), true, 'an event that is part of the state');
      assert.deepEqual(of(policy), [5, 4, 0, 0]);
      assert.equal(kv.apply(0, storedEvent(59, chain(5, 8))), false);
      assert.equal(kv.apply(0, storedEvent(58, chain(5, 6))), true);
      assert.deepEqual(of(policy), [6, 4, 0, 0]);
      kv.restore(0, [], 0);
      assert.deepEqual(of(policy), [0, 4, 0, 0]);
      assert.equal(kv.apply(0, storedEvent(2, chain(0, 2))), false, 'after an empty state the first event has id 1');
    }),
    kvRule(create, 'a slot that left holds nothing when it is used again', (policy, kv) => {
      for (const slot of [0, 1]) kv.apply(slot, storedEvent(1, chain(0, 4)));
      kv.left(0);
      assert.deepEqual(of(policy), [0, 4, 0, 0]);
      assert.equal(kv.apply(0, storedEvent(2, chain(0, 8))), true, 'late event of a worker that left');
      kv.joined(0, workerRecord(0, { instanceId: 'pool/0@2' }));
      assert.deepEqual(of(policy), [0, 4, 0, 0]);
      assert.equal(kv.apply(0, storedEvent(1, chain(0, 1))), true);
      assert.deepEqual(of(policy), [1, 4, 0, 0]);
    }),
  ];
}

/**
 * The load that a policy sees on idle candidates, over several requests: equal before and after means nothing was left behind. A policy that writes
 * `decodeBlocks` is held to that (its costs may also tell of the past: who was chosen lately); another one to its costs.
 */
function fingerprint(policy: RouterPolicy): number[] {
  const all: number[] = [];
  for (const hop of hops) {
    for (const chain of [1, 2, 3]) {
      const candidates = idleCandidates(4);
      const costs = scored(policy, routingRequest({ chain, blocks: 12, hop }), candidates);
      all.push(...(candidates.decodeBlocks.some((blocks) => blocks !== 0) || hop === 'prefill' ? candidates.decodeBlocks : costs));
    }
  }
  return all;
}

function loadRule(create: RouterPolicyContractOptions['create'], name: string, body: (policy: RouterPolicy, load: LoadFollower) => void): ContractRule {
  return {
    name: `load: ${name}`,
    async run() {
      const policy = await prepared(create, 4);
      if (policy.load !== undefined) body(policy, policy.load);
    },
  };
}

function loadRules(create: RouterPolicyContractOptions['create']): ContractRule[] {
  return [
    loadRule(create, 'after the last end nothing is left', (policy, load) => {
      if (!policy.supports.deterministic) return;
      const idle = fingerprint(policy);
      const below = random(37);
      const running: { slot: number; id: string; tokens: number }[] = [];
      for (let step = 0; step < 600; step++) {
        const action = below(4);
        if (action < 2) {
          const request = routingRequest({ id: `r${step}`, chain: 1 + below(3), blocks: below(13), hop: hops[below(3)], creditsOverlap: below(2) === 0 });
          const slot = below(4);
          load.dispatched(slot, request);
          request.sequenceHashes.fill(-1); // the host reuses it
          running.push({ slot, id: request.id, tokens: 0 });
          request.id = 'reused';
        } else if (running.length > 0) {
          const at = below(running.length);
          const entry = running[at];
          if (action === 2) {
            if (entry.tokens === 0) load.firstToken(entry.slot, entry.id);
            load.grown(entry.slot, entry.id, (entry.tokens += 16));
          } else {
            running.splice(at, 1);
            load.ended(entry.slot, entry.id);
          }
        }
      }
      for (const { slot, id } of running) load.ended(slot, id);
      assert.deepEqual(fingerprint(policy), idle);
    }),
    loadRule(create, 'ends and growth of unknown requests change nothing', (policy, load) => {
      load.dispatched(0, routingRequest({ id: 'a' }));
      load.ended(0, 'a');
      const idle = fingerprint(policy);
      load.ended(0, 'a');
      load.ended(3, 'never');
      load.firstToken(2, 'never');
      load.grown(2, 'never', 64);
      if (policy.supports.deterministic) assert.deepEqual(fingerprint(policy), idle);
    }),
    loadRule(create, 'the two legs of one request id are accounted for apart', (policy, load) => {
      const idle = fingerprint(policy);
      load.dispatched(0, routingRequest({ id: 'a', hop: 'prefill' }));
      load.dispatched(1, routingRequest({ id: 'a', hop: 'decode' }));
      load.ended(0, 'a');
      load.grown(1, 'a', 32);
      load.ended(1, 'a');
      if (policy.supports.deterministic) assert.deepEqual(fingerprint(policy), idle);
    }),
  ];
}

function lifecycleRules(create: RouterPolicyContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'lifecycle: starts, closes twice, and closes without start',
      async run() {
        const policy = await create();
        await policy.start?.();
        await policy.drain?.(0);
        await policy.close?.();
        await policy.close?.();
        const unstarted = await create();
        await unstarted.close?.();
      },
    },
  ];
}

/** Registers the rules of router-policy v1 with a test runner. */
export function routerPolicyContract(options: RouterPolicyContractOptions): void {
  registerRules(options.runner, 'router-policy v1 contract', routerPolicyRules(options.create), options.skip);
}
