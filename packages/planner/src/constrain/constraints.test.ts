import { describe, expect, it } from 'vitest';
import type { PlannedState, PoolObservation } from '@armature/contracts';
import { input, seen, TestRandom } from '../testing.test.support.ts';
import { constraintDefaults, Constraints } from './constraints.ts';
import type { ConstrainedPlan, ConstraintConfig, ConstraintFacts } from './constraints.ts';

const calm: ConstraintConfig = { ...constraintDefaults, stabilisationTicks: 1, hysteresis: 0 };

function once(pools: readonly PoolObservation[], state: Partial<PlannedState>, more: Parameters<typeof input>[1] & { readonly config?: Partial<ConstraintConfig>; readonly facts?: Partial<ConstraintFacts> } = {}): ConstrainedPlan {
  return new Constraints({ ...calm, ...more.config }).constrain({ replicas: {}, lent: [], ...state }, input(pools, more), { isBlind: false, stuck: new Set(), ...more.facts });
}
const names = ({ bound }: ConstrainedPlan): string[] => bound.map(({ name }) => name);

describe('constraints', () => {
  it('a plan within everything passes as it is', () => {
    const plan = once([seen()], { replicas: { all: 5 } });
    expect([plan.state.replicas, plan.bound]).toEqual([{ all: 5 }, []]);
  });

  it('limits of pools', () => {
    expect([once([seen()], { replicas: { all: 99 } }).state.replicas, names(once([seen()], { replicas: { all: 99 } }))]).toEqual([{ all: 10 }, ['limits']]);
    expect(once([seen({ minReplicas: 2, desired: 4, ready: 4 })], { replicas: { all: 0 } }).state.replicas).toEqual({ all: 2 });
  });

  it('nonsense of a policy changes nothing, and is said', () => {
    for (const count of [NaN, -1, Infinity]) expect([once([seen()], { replicas: { all: count } }).state.replicas, names(once([seen()], { replicas: { all: count } }))]).toEqual([{ all: 2 }, ['invalid']]);
    expect(names(once([seen()], { replicas: { ghost: 3 } }))).toEqual(['invalid']);
    expect(once([seen()], { replicas: { all: 2.2 } }).state.replicas).toEqual({ all: 3 });
  });

  it('roles: fixed ones are not changed, live ones down to the minimum, by restart as an end and a start', () => {
    const pools = (roleChange: PoolObservation['roleChange']): PoolObservation[] => [seen({ pool: 'p', role: 'prefill', roleChange, minReplicas: 2, desired: 4, ready: 4, startupMs: 30_000 }), seen({ pool: 'd', role: 'decode', startupMs: 30_000 })];
    const lent = [{ from: 'p', to: 'd', workers: 3 }];
    expect([once(pools('none'), { lent }).state, names(once(pools('none'), { lent }))]).toEqual([{ replicas: { p: 4, d: 2 }, lent: [] }, ['role_fixed']]);
    expect([once(pools('live'), { lent }).state, names(once(pools('live'), { lent }))]).toEqual([{ replicas: { p: 4, d: 2 }, lent: [{ from: 'p', to: 'd', workers: 2 }] }, ['role_minimum']]);
    const restart = once(pools('restart'), { lent: [{ from: 'p', to: 'd', workers: 1 }] });
    expect([restart.state, names(restart), restart.bound[0]?.detail]).toEqual([{ replicas: { p: 3, d: 3 }, lent: [] }, ['role_restart'], '1 workers end in p and start in d: 30 GPU-seconds of start-up']);
  });

  it('budgets cut what would be added, then what there is, never below the minimum', () => {
    const pools = [seen({ pool: 'p', role: 'prefill', gpusPerWorker: 2 }), seen({ pool: 'd', role: 'decode', costPerHour: 1 })];
    const gpus = once(pools, { replicas: { p: 4, d: 6 } }, { objective: { maxGpus: 10 } });
    expect([gpus.state.replicas, names(gpus)]).toEqual([{ p: 3, d: 4 }, ['max_gpus']]);
    expect(once(pools, { replicas: { p: 2, d: 6 } }, { objective: { maxCostPerHour: 5 } }).state.replicas).toEqual({ p: 1, d: 3 });
    const poor = once(pools, { replicas: { p: 2, d: 2 } }, { objective: { maxGpus: 1 } });
    expect([poor.state.replicas, names(poor)]).toEqual([{ p: 1, d: 1 }, ['max_gpus', 'budget_below_minimum']]);
  });

  it('hysteresis leaves small changes of large pools alone', () => {
    const large = [seen({ desired: 30, ready: 30, maxReplicas: 100 })];
    expect(names(once(large, { replicas: { all: 32 } }, { config: { hysteresis: 0.1 } }))).toEqual(['hysteresis']);
    expect(once(large, { replicas: { all: 33 } }, { config: { hysteresis: 0.1 } }).state.replicas).toEqual({ all: 33 });
    expect(once([seen()], { replicas: { all: 1 } }, { config: { hysteresis: 0.1 } }).state.replicas).toEqual({ all: 1 });
  });

  it('scale-down waits for the largest of the recent proposals; scale-up does not', () => {
    const constraints = new Constraints({ ...calm, stabilisationTicks: 3 });
    const step = (desired: number, wanted: number): number | undefined => constraints.constrain({ replicas: { all: wanted }, lent: [] }, input([seen({ desired, ready: desired })])).state.replicas['all'];
    constraints.begin({ all: 5 });
    expect([step(5, 2), step(5, 3), step(5, 2), step(3, 2), step(3, 2), step(2, 6)]).toEqual([5, 5, 3, 3, 2, 6]);
  });

  it('cool-down after a change, each way', () => {
    const constraints = new Constraints({ ...calm, cooldownUpMs: 5_000, cooldownDownMs: 20_000 });
    const step = (atMs: number, desired: number, wanted: number): (string | number | undefined)[] => {
      const asked = input([seen({ desired, ready: desired })], { atMs });
      const plan = constraints.constrain({ replicas: { all: wanted }, lent: [] }, asked);
      constraints.ordered(plan.state, asked.observation);
      return [plan.state.replicas['all'], ...names(plan)];
    };
    expect(step(0, 2, 3)).toEqual([3]);
    expect(step(4_000, 3, 4)).toEqual([3, 'cooldown_up']);
    expect(step(6_000, 3, 4)).toEqual([4]);
    expect(step(20_000, 4, 1)).toEqual([4, 'cooldown_down']);
    expect(step(27_000, 4, 1)).toEqual([1]);
  });

  it('blind: nobody goes. Stuck: nobody more is ordered', () => {
    expect(names(once([seen()], { replicas: { all: 1 } }, { facts: { isBlind: true } }))).toEqual(['blind']);
    expect(once([seen()], { replicas: { all: 3 } }, { facts: { isBlind: true } }).state.replicas).toEqual({ all: 3 });
    expect(names(once([seen()], { replicas: { all: 3 } }, { facts: { stuck: new Set(['all']) } }))).toEqual(['stuck']);
  });

  it('whatever is proposed, what comes out obeys limits, roles and budgets, and says when it differs', () => {
    for (const seed of [1, 2, 3, 4]) {
      const random = new TestRandom(seed);
      for (let round = 0; round < 500; round++) {
        const pools = (['prefill', 'decode', 'decode'] as const).map((role, i) => {
          const minReplicas = random.below(3);
          const desired = minReplicas + random.below(5);
          return seen({ pool: `p${i}`, role, minReplicas, maxReplicas: minReplicas + random.below(9), desired, ready: desired, gpusPerWorker: 1 + random.below(4), costPerHour: random.below(8), roleChange: (['live', 'restart', 'none'] as const)[random.below(3)] });
        });
        const objective = { maxGpus: random.below(2) === 0 ? undefined : 5 + random.below(40), maxCostPerHour: random.below(2) === 0 ? undefined : 5 + random.below(60) };
        const replicas = Object.fromEntries(pools.map(({ pool }) => [pool, random.below(14) - (random.below(20) === 0 ? NaN : 0)]));
        const lent = random.below(2) === 0 ? [] : [{ from: 'p0', to: 'p1', workers: random.below(6) }];
        const config = { stabilisationTicks: 1 + random.below(3), hysteresis: random.below(2) * 0.3 };
        const plan = once(pools, { replicas, lent }, { objective, config, facts: { isBlind: random.below(4) === 0 } });
        const where = `seed ${seed}, round ${round}: ${JSON.stringify(plan)}`;
        let [gpus, cost, leastGpus, leastCost] = [0, 0, 0, 0];
        for (const { pool, minReplicas, maxReplicas, gpusPerWorker, costPerHour, roleChange } of pools) {
          const count = plan.state.replicas[pool];
          expect(Number.isInteger(count) && count >= minReplicas && count <= maxReplicas, where).toBe(true);
          gpus += count * gpusPerWorker;
          cost += count * costPerHour;
          leastGpus += minReplicas * gpusPerWorker;
          leastCost += minReplicas * costPerHour;
          for (const { from, workers } of plan.state.lent) if (from === pool) expect(workers === 0 || (roleChange === 'live' && count - workers >= Math.max(1, minReplicas)), where).toBe(true);
        }
        expect(gpus <= Math.max(objective.maxGpus ?? Infinity, leastGpus) || names(plan).includes('budget_below_minimum'), where).toBe(true);
        expect(cost <= Math.max(objective.maxCostPerHour ?? Infinity, leastCost) || names(plan).includes('budget_below_minimum'), where).toBe(true);
        const differs = pools.some(({ pool }) => plan.state.replicas[pool] !== replicas[pool]);
        expect(!differs || plan.bound.length > 0, where).toBe(true);
      }
    }
  });
});
