import assert from 'node:assert/strict';
import type { Forecast, Interval, Objective, PassColumns, PlannerInput, PlannerPolicy, PlannerProposal, PoolObservation } from '../planner.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface PlannerPolicyContractOptions {
  readonly runner: SuiteRunner;
  /** A new policy, independent of all others; equal ones each time. */
  create(): PlannerPolicy | Promise<PlannerPolicy>;
  readonly skip?: readonly SkippedRule[];
}

const objective: Objective = { goal: 'cost', ttftMs: 2_000, itlMs: 60, quantile: 0.95, maxGpus: undefined, maxCostPerHour: undefined };
const empty: PassColumns = { prefillTokens: new Float64Array(0), decodeSequences: new Float64Array(0), contextTokens: new Float64Array(0), ms: new Float64Array(0) };
const MAX_CANDIDATES = 32;

function pool(name: string, role: PoolObservation['role'], more: Partial<PoolObservation> = {}): PoolObservation {
  const facts = { hardware: 'default', gpusPerWorker: 1, costPerHour: 2, roleChange: 'none', minReplicas: 1, maxReplicas: 12, startupMs: 20_000, capacity: { kvTokens: 200_000, maxSequences: 64, maxBatchedTokens: 8_192 } } as const;
  const counts = { desired: 2, ready: 2, starting: 0, draining: 0, lent: 0, running: 4, waiting: 0, prefillTokens: 500, usedBlocks: 400, totalBlocks: 12_500 };
  return { pool: name, role, ...facts, ...counts, passes: empty, ...more };
}

interface Traffic {
  readonly rate: number;
  readonly promptTokens?: number;
  readonly outputTokens?: number;
}

const around = (mean: number): Interval => ({ mean, low: mean * 0.85, high: mean * 1.15 });

/** An input as a planner makes it; NaN traffic is traffic that was not seen. */
export function plannerInput(tick: number, pools: readonly PoolObservation[], { rate, promptTokens = 800, outputTokens = 120 }: Traffic): PlannerInput {
  const hitRate = Number.isNaN(rate) ? NaN : 0.2;
  const traffic = { requestsPerSecond: rate, promptTokens, hitRate, outputTokens, queued: 0, finishedPerSecond: rate, failedPerSecond: 0, ttftMs: 200, itlMs: 15, attainment: 0.99 };
  const forecast: Forecast = { horizonMs: 40_000, requestsPerSecond: around(rate), promptTokens: around(promptTokens), outputTokens: around(outputTokens), hitRate: around(hitRate) };
  return { observation: { model: 'm', tick, atMs: tick * 10_000, intervalMs: 10_000, traffic, pools, thresholdTokens: undefined, problems: [] }, forecast, objective };
}

const unseen: Traffic = { rate: NaN, promptTokens: NaN, outputTokens: NaN };

/** Fleets as they occur: together, divided, two kinds of hardware; at rest, at work, full, with gaps in what is known. */
function* inputs(): Generator<PlannerInput> {
  const unknown = { running: NaN, waiting: NaN, prefillTokens: NaN, usedBlocks: NaN, totalBlocks: NaN };
  const full = { running: 128, waiting: 200, prefillTokens: 160_000, usedBlocks: 12_400 };
  const fleets = [
    [pool('all', 'both')],
    [pool('all', 'both', full)],
    [pool('p', 'prefill'), pool('d', 'decode')],
    [pool('p', 'prefill', full), pool('d', 'decode', { roleChange: 'live', desired: 4, ready: 3, starting: 1 })],
    [pool('fast', 'both', { costPerHour: 6, hardware: 'fast', desired: 0, ready: 0, minReplicas: 0, running: 0, prefillTokens: 0, usedBlocks: 0, totalBlocks: 0 }), pool('slow', 'both', { desired: 12, ready: 12 })],
    [pool('p', 'prefill', unknown), pool('d', 'decode', unknown)],
    [pool('all', 'both', { ready: 0, starting: 2, running: 0, prefillTokens: 0, usedBlocks: 0, totalBlocks: 0 })],
  ];
  let tick = 0;
  for (const fleet of fleets) {
    for (const traffic of [unseen, { rate: 0, promptTokens: NaN, outputTokens: NaN }, { rate: 0.5 }, { rate: 8, promptTokens: 4_000, outputTokens: 20 }, { rate: 40, promptTokens: 100, outputTokens: 500 }]) yield plannerInput(tick++, fleet, traffic);
  }
}

const isCount = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0;

function checkProposal({ state, reason, action, candidates }: PlannerProposal, { observation }: PlannerInput): void {
  const pools = new Map(observation.pools.map((entry) => [entry.pool, entry]));
  for (const [name, count] of Object.entries(state.replicas)) {
    assert.ok(pools.has(name), `workers of ${name} are proposed, which is no pool`);
    assert.ok(isCount(count), `${count} workers of ${name} are proposed`);
  }
  for (const { from, to, workers } of state.lent) assert.ok(pools.has(from) && pools.has(to) && isCount(workers), `${workers} workers of ${from} are lent to ${to}`);
  assert.ok(typeof reason === 'string' && reason !== '', 'there is no reason');
  assert.match(action, /^[a-z][a-z_]*$/, 'the action is no word for programs');
  assert.ok(candidates.length <= MAX_CANDIDATES, `${candidates.length} candidates`);
  candidates.forEach(({ score }, i) => assert.ok(i === 0 || score <= (candidates[i - 1]?.score ?? Infinity), `candidate ${i} is better than the one before it`));
}

function frozen<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)) {
    Object.freeze(value);
    Object.values(value).forEach(frozen);
  }
  return value;
}

/** The rules of planner-policy v1. */
export function plannerPolicyRules(create: PlannerPolicyContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'proposes whole counts of known pools, with a reason and an action, for any input, without throwing',
      run: async () => {
        const policy = await create();
        for (const input of inputs()) checkProposal(policy.propose(input), input);
      },
    },
    {
      name: 'changes nothing while nothing was seen',
      run: async () => {
        const policy = await create();
        const input = plannerInput(0, [pool('p', 'prefill', { desired: 3, ready: 0, starting: 3, running: NaN, prefillTokens: NaN, usedBlocks: NaN, totalBlocks: NaN }), pool('d', 'decode', { desired: 5, ready: 0, starting: 5, running: NaN, prefillTokens: NaN, usedBlocks: NaN, totalBlocks: NaN })], unseen);
        const { state, action } = policy.propose(input);
        assert.deepEqual([state.replicas['p'] ?? 3, state.replicas['d'] ?? 5, state.lent.filter(({ workers }) => workers > 0)], [3, 5, []], 'it moves workers without having seen any traffic');
        assert.match(action, /^hold/);
      },
    },
    {
      name: 'never lends workers whose engine cannot change its role',
      run: async () => {
        const policy = await create();
        for (let tick = 0; tick < 8; tick++) {
          const fleet = [pool('p', 'prefill', { desired: 8, ready: 8, running: 0, prefillTokens: 0 }), pool('d', 'decode', { running: 128, waiting: 60, usedBlocks: 12_000, maxReplicas: 2 })];
          const { state } = policy.propose(plannerInput(tick, fleet, { rate: 30, promptTokens: 50, outputTokens: 800 }));
          assert.ok(state.lent.every(({ workers }) => workers === 0), 'it lends workers of a pool with roleChange none');
        }
      },
    },
    {
      name: 'does not change its input',
      run: async () => {
        const policy = await create();
        for (const input of inputs()) {
          const before = JSON.stringify(input);
          policy.propose(frozen(input));
          assert.equal(JSON.stringify(input), before);
        }
      },
    },
    {
      name: 'the same inputs in the same order give the same proposals',
      run: async () => {
        const [one, other] = [await create(), await create()];
        for (const input of inputs()) assert.deepEqual(JSON.stringify(other.propose(input)), JSON.stringify(one.propose(input)));
      },
    },
    {
      name: 'a full fleet with much more traffic than it takes does not shrink',
      run: async () => {
        const policy = await create();
        const fleet = [pool('all', 'both', { running: 128, waiting: 500, prefillTokens: 400_000, usedBlocks: 12_400 })];
        const { state } = policy.propose(plannerInput(0, fleet, { rate: 200 }));
        assert.ok((state.replicas['all'] ?? 2) >= 2, `${state.replicas['all']} workers are proposed where 2 are not enough`);
      },
    },
  ];
}

/** Runs the suite: `plannerPolicyContract({ runner: { describe, it }, create })`. */
export function plannerPolicyContract(options: PlannerPolicyContractOptions): void {
  registerRules(options.runner, 'planner-policy v1', plannerPolicyRules(options.create), options.skip);
}
