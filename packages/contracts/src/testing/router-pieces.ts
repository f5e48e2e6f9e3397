import assert from 'node:assert/strict';
import type { Candidates, RoutingRequest } from '../router-policy.ts';
import type { RouterFilter, RouterPicker, RouterScorer } from '../router-pieces.ts';
import { idleCandidates, routingRequest, workerRecord } from './routing-fixtures.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface RouterPieceContractOptions<P> {
  readonly runner: SuiteRunner;
  /** A new piece, independent of all others, with any seed and default config. */
  create(): P | Promise<P>;
  readonly skip?: readonly SkippedRule[];
}

const hops = ['aggregated', 'prefill', 'decode'] as const;

function random(seed: number): (bound: number) => number {
  let x = seed >>> 0;
  return (bound) => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
}

/** Any requests and candidates, with the facts filled in. */
function* situations(seed: number): Generator<{ request: RoutingRequest; candidates: Candidates; where: string }> {
  const below = random(seed);
  for (const count of [0, 1, 2, 5, 64, 65]) {
    for (const blocks of [0, 1, 37]) {
      for (const hop of hops) {
        const base = idleCandidates(count, count + 3);
        const workers = Array.from({ length: count + 3 }, (_, i) => workerRecord(i, { taints: below(2) === 0 ? ['zone=a'] : ['zone=b', 'gpu=h200'] }));
        const candidates: Candidates = { ...base, workers };
        for (let i = 0; i < count + 3; i++) {
          candidates.activeRequests[i] = below(5) === 0 ? 0 : below(300);
          candidates.activePrefillTokens[i] = below(3) === 0 ? 0 : below(100_000);
          candidates.activeBlocks[i] = below(4096);
          candidates.decodeBlocks[i] = below(4096);
          candidates.costPerHour[i] = below(3) === 0 ? 0 : below(50) / 7;
          candidates.degraded[i] = below(9) === 0 ? 1 : 0;
          candidates.overlapBlocks[i] = below(blocks + 1);
          candidates.hostBlocks[i] = below(candidates.overlapBlocks[i] + 1);
          if (below(4) === 0) candidates.totalBlocks[i] = 0;
        }
        const parts: Partial<RoutingRequest> = {
          requiredTaints: below(3) === 0 ? ['zone=a'] : [],
          preferredTaints: below(3) === 0 ? [{ taint: 'gpu=h200', weight: 0.5 }] : [],
          sessionSlot: below(2) === 0 ? below(count + 1) : -1,
          sessionBonusBlocks: 8,
          temperature: [Number.NaN, 0, 0.5][below(3)],
          overlapCredit: below(2) === 0 ? Number.NaN : 0.5,
        };
        const request = routingRequest({ blocks, hop, promptTokens: blocks * 16 + 1 + below(15), creditsOverlap: hop !== 'decode' || below(2) === 0, ...parts });
        yield { request, candidates, where: `seed ${seed}, ${count} candidates, ${blocks} blocks, ${hop}` };
      }
    }
  }
}

/** Runs `body` and asserts that it left request and candidates as they were. */
function leavesInputs(request: RoutingRequest, candidates: Candidates, where: string, body: () => void): void {
  const before = structuredClone({ request, candidates: { ...candidates } });
  body();
  assert.deepEqual({ request, candidates: { ...candidates } }, before, `inputs were changed (${where})`);
}

function common(create: () => { name: string; start?(): unknown; close?(): unknown } | Promise<{ name: string; start?(): unknown; close?(): unknown }>): ContractRule[] {
  return [
    {
      name: 'shape: has a name',
      async run() {
        const piece = await create();
        assert.equal(typeof piece.name, 'string');
        assert.notEqual(piece.name, '');
      },
    },
    {
      name: 'lifecycle: starts, closes twice, and closes without start',
      async run() {
        const piece = await create();
        await piece.start?.();
        await piece.close?.();
        await piece.close?.();
        const unstarted = await create();
        await unstarted.close?.();
      },
    },
  ];
}

/** The rules of router-scorer v1. */
export function routerScorerRules(create: RouterPieceContractOptions<RouterScorer>['create']): ContractRule[] {
  return [
    ...common(create),
    {
      name: 'score: costs are finite, or +Infinity to exclude, for any situation',
      async run() {
        const scorer = await create();
        for (const { request, candidates, where } of situations(41)) {
          const costs = new Float64Array(candidates.slots.length);
          scorer.score(request, candidates, costs);
          for (let i = 0; i < candidates.count; i++) assert.ok(Number.isFinite(costs[i]) || costs[i] === Number.POSITIVE_INFINITY, `cost ${costs[i]} of candidate ${i} (${where})`);
        }
      },
    },
    {
      name: 'score: keeps +Infinity and leaves rows past the count alone',
      async run() {
        const scorer = await create();
        for (const { request, candidates, where } of situations(43)) {
          const costs = Float64Array.from({ length: candidates.slots.length }, (_, i) => (i % 3 === 2 ? Number.POSITIVE_INFINITY : 100));
          scorer.score(request, candidates, costs);
          for (let i = 0; i < costs.length; i++) {
            if (i >= candidates.count) assert.equal(costs[i], i % 3 === 2 ? Number.POSITIVE_INFINITY : 100, `row ${i} past the count (${where})`);
            else if (i % 3 === 2) assert.equal(costs[i], Number.POSITIVE_INFINITY, `row ${i} was excluded (${where})`);
          }
        }
      },
    },
    {
      name: 'score: changes neither request nor candidates',
      async run() {
        const scorer = await create();
        for (const { request, candidates, where } of situations(47)) leavesInputs(request, candidates, where, () => scorer.score(request, candidates, new Float64Array(candidates.slots.length)));
      },
    },
    {
      name: 'applies: false only where score adds nothing',
      async run() {
        const scorer = await create();
        for (const { request, candidates, where } of situations(57)) {
          if (scorer.applies?.(request) !== false) continue;
          const costs = Float64Array.from({ length: candidates.slots.length }, (_, i) => (i % 3 === 2 ? Number.POSITIVE_INFINITY : i - 2));
          const before = costs.slice();
          scorer.score(request, candidates, costs);
          assert.deepEqual(costs, before, where);
        }
      },
    },
    {
      name: 'explain: terms are finite numbers and come from the columns alone',
      async run() {
        const scorer = await create();
        if (scorer.explain === undefined) return;
        for (const { request, candidates, where } of situations(53)) {
          for (let i = 0; i < candidates.count; i++) {
            const terms: Readonly<Record<string, number>> = scorer.explain(request, candidates, i);
            for (const [name, value] of Object.entries(terms)) assert.ok(Number.isFinite(value), `${name} is ${value} (${where})`);
            assert.deepEqual(scorer.explain(request, candidates, i), terms, where);
          }
        }
      },
    },
  ];
}

/** The rules of router-filter v1. */
export function routerFilterRules(create: RouterPieceContractOptions<RouterFilter>['create']): ContractRule[] {
  return [
    ...common(create),
    {
      name: 'filter: only sets 1, never resets, and leaves rows past the count alone',
      async run() {
        const filter = await create();
        for (const { request, candidates, where } of situations(59)) {
          const excluded = Uint8Array.from({ length: candidates.slots.length }, (_, i) => (i % 4 === 3 ? 1 : 0));
          const before = excluded.slice();
          filter.filter(request, candidates, excluded);
          for (let i = 0; i < excluded.length; i++) {
            if (i >= candidates.count || before[i] === 1) assert.equal(excluded[i], before[i], `row ${i} (${where})`);
            else assert.ok(excluded[i] <= 1, `row ${i} is ${excluded[i]} (${where})`);
          }
        }
      },
    },
    {
      name: 'applies: false only where filter excludes nobody',
      async run() {
        const filter = await create();
        for (const { request, candidates, where } of situations(63)) {
          if (filter.applies?.(request) !== false) continue;
          const excluded = new Uint8Array(candidates.slots.length);
          filter.filter(request, candidates, excluded);
          assert.ok(!excluded.includes(1), where);
        }
      },
    },
    {
      name: 'filter: changes neither request nor candidates, and gives the same answer again',
      async run() {
        const filter = await create();
        for (const { request, candidates, where } of situations(61)) {
          const ask = (): Uint8Array => {
            const excluded = new Uint8Array(candidates.slots.length);
            filter.filter(request, candidates, excluded);
            return excluded;
          };
          leavesInputs(request, candidates, where, ask);
          assert.deepEqual(ask(), ask(), where);
        }
      },
    },
  ];
}

/** The rules of router-picker v1. */
export function routerPickerRules(create: RouterPieceContractOptions<RouterPicker>['create']): ContractRule[] {
  return [
    ...common(create),
    {
      name: 'pick: an index of a candidate that is not excluded, -1 when all are',
      async run() {
        const picker = await create();
        const below = random(67);
        for (const { request, candidates, where } of situations(67)) {
          const costs = Float64Array.from({ length: candidates.slots.length }, () => (below(3) === 0 ? Number.POSITIVE_INFINITY : below(4) - 1));
          const open = costs.subarray(0, candidates.count).some((cost) => cost !== Number.POSITIVE_INFINITY);
          const before = costs.slice();
          leavesInputs(request, candidates, where, () => {
            const chosen = picker.pick(request, candidates, costs);
            if (!open) assert.equal(chosen, -1, where);
            else assert.ok(Number.isInteger(chosen) && chosen >= 0 && chosen < candidates.count && costs[chosen] !== Number.POSITIVE_INFINITY, `picked ${chosen} (${where})`);
          });
          assert.deepEqual(costs, before, `costs were changed (${where})`);
        }
      },
    },
  ];
}

export function routerScorerContract(options: RouterPieceContractOptions<RouterScorer>): void {
  registerRules(options.runner, 'router-scorer v1 contract', routerScorerRules(options.create), options.skip);
}

export function routerFilterContract(options: RouterPieceContractOptions<RouterFilter>): void {
  registerRules(options.runner, 'router-filter v1 contract', routerFilterRules(options.create), options.skip);
}

export function routerPickerContract(options: RouterPieceContractOptions<RouterPicker>): void {
  registerRules(options.runner, 'router-picker v1 contract', routerPickerRules(options.create), options.skip);
}
