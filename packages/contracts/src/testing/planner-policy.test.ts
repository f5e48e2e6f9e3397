import { describe, expect, it } from 'vitest';
import type { PlannerInput, PlannerPolicy, PlannerProposal } from '../planner.ts';
import { plannerPolicyRules } from './planner-policy.ts';

const outcome = { ttftMs: NaN, itlMs: NaN, attainment: NaN, goodputPerSecond: NaN, gpus: 0, costPerHour: 0 };

/** One worker per two requests per second, for each pool. */
function good({ observation, forecast }: PlannerInput): PlannerProposal {
  const rate = forecast.requestsPerSecond.mean;
  const counts = observation.pools.map(({ pool, desired, minReplicas, maxReplicas }) => [pool, Number.isFinite(rate) ? Math.min(maxReplicas, Math.max(minReplicas, Math.ceil(rate / 2))) : desired] as const);
  const state = { replicas: Object.fromEntries(counts), lent: [] };
  return { state, outcome, reason: 'by the rate', action: Number.isFinite(rate) ? 'scale' : 'hold_insufficient_data', candidates: [{ state, outcome, score: 1 }] };
}

/** Broken policies, each with the rule it must fail. */
const mutants: readonly [string, string, () => PlannerPolicy][] = [
  ['divides by a load that is not known', 'whole counts', () => ({ propose: (input) => ({ ...good(input), state: { replicas: { [input.observation.pools[0]?.pool ?? '']: Math.ceil((input.observation.pools[0]?.running ?? 0) / 4) }, lent: [] } }) })],
  ['gives no reason', 'whole counts', () => ({ propose: (input) => ({ ...good(input), reason: '' }) })],
  ['takes unseen traffic for none', 'nothing was seen', () => ({ propose: (input) => ({ ...good(input), state: { replicas: Object.fromEntries(input.observation.pools.map(({ pool, minReplicas }) => [pool, Number.isNaN(input.forecast.requestsPerSecond.mean) ? minReplicas : 12])), lent: [] } }) })],
  ['lends whom it likes', 'never lends', () => ({ propose: (input) => ({ ...good(input), state: { ...good(input).state, lent: input.observation.pools.length > 1 && input.observation.tick > 3 ? [{ from: input.observation.pools[0]?.pool ?? '', to: input.observation.pools[1]?.pool ?? '', workers: 1 }] : [] } }) })],
  [
    'sorts the pools it was given',
    'does not change its input',
    () => ({
      propose: (input) => {
        (input.observation.pools as unknown[]).reverse();
        return good(input);
      },
    }),
  ],
  [
    'draws lots of its own',
    'the same inputs',
    (
      (lives) => () => {
        const life = ++lives;
        return { propose: (input: PlannerInput) => ({ ...good(input), reason: `in life ${life}` }) };
      }
    )(0),
  ],
  ['takes a long queue for idle workers', 'does not shrink', () => ({ propose: (input) => ({ ...good(input), ...((input.observation.pools[0]?.waiting ?? 0) >= 500 ? { state: { replicas: { all: 1 }, lent: [] } } : {}) }) })],
];

describe('the planner-policy suite', () => {
  it('passes a correct policy', async () => {
    for (const rule of plannerPolicyRules(() => ({ propose: good }))) await rule.run();
  });

  it.each(mutants)('finds a policy that %s', async (_what, broken, create) => {
    const failed: string[] = [];
    for (const rule of plannerPolicyRules(create)) {
      try {
        await rule.run();
      } catch {
        failed.push(rule.name);
      }
    }
    expect(failed.some((name) => name.includes(broken)), failed.join()).toBe(true);
    expect(failed.length).toBeLessThanOrEqual(2);
  });
});
