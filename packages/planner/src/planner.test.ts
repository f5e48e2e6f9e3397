import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { describe, expect, it } from 'vitest';
import { LoadPolicy } from './policies/load/load-policy.ts';
import { Planner } from './planner.ts';
import type { PlannerOptions } from './planner.ts';
import { config, CountedMetrics, pass, pool, silentLog, TestOutside, worker } from './testing.test.support.ts';

const policy = (): LoadPolicy => new LoadPolicy({ prefill: { up: 1, down: 0.1 }, decode: { up: 0.8, down: 0.5 }, step: 0 });

function build(more: Partial<PlannerOptions> = {}, outside = new TestOutside(new ManualClock())): { outside: TestOutside; metrics: CountedMetrics; planner: Planner; start: () => Planner } {
  const metrics = new CountedMetrics();
  const start = (): Planner => new Planner({ model: 'm', config: config(), policy: policy(), connector: outside, discovery: outside.discovery, events: outside.events, clock: outside.clock, log: silentLog, metrics, ...more });
  return { outside, metrics, planner: start(), start };
}

describe('the planner', () => {
  it('orders the configured workers first, more when the load triples, fewer when it falls and stays low', async () => {
    const { outside, planner, metrics } = build();
    await planner.start();
    expect(outside.orders.map(({ pools }) => pools)).toEqual([[{ pool: 'all', replicas: 2 }]]);
    outside.load = 10;
    await pass(outside.clock, 20_000);
    expect(outside.workers).toBe(2);
    outside.load = 28;
    await pass(outside.clock, 30_000);
    expect(outside.workers).toBe(5);
    outside.load = 7;
    await pass(outside.clock, 4_000);
    expect(outside.workers).toBe(5); // the largest of the last six proposals counts
    await pass(outside.clock, 60_000);
    expect(outside.workers).toBe(2);
    expect(outside.orders.map(({ revision }) => revision)).toEqual(outside.orders.map((_order, i) => i + 1));
    expect(planner.ticks.list(64).some(({ bound }) => bound.some(({ name }) => name === 'stabilisation'))).toBe(true);
    expect(metrics.values.get('armature_planner_workers m all ready')).toBe(2);
    const ups = planner.ticks.list(64).filter(({ actual }) => actual?.isComplete);
    expect(ups.length).toBeGreaterThan(30);
    expect(ups.at(-1)?.actual?.attainment).toBeCloseTo(9 / 7, 5); // as reported
    await planner.close();
  });

  it('killed in the middle of a move and started again goes on from the order in force: same workers, no flapping', async () => {
    const { outside, planner, start } = build({ policy: policy() });
    await planner.start();
    await pass(outside.clock, 10_000);
    outside.load = 40;
    await pass(outside.clock, 6_000);
    const before = outside.orders.at(-1);
    expect(before?.pools[0]?.replicas).toBeGreaterThan(2);
    await planner.close(); // as a kill: nothing is taken back
    outside.load = 4;
    const again = start();
    await again.start();
    await pass(outside.clock, 4_000);
    expect(outside.orders.at(-1)).toEqual(before);
    await pass(outside.clock, 60_000);
    expect(outside.orders.at(-1)?.revision).toBeGreaterThan(before?.revision ?? 0);
    expect(outside.workers).toBe(1);
    await again.close();
  });

  it('a connector that cannot say what is in force is given no orders until it can', async () => {
    const { outside, planner } = build();
    let asked = 0;
    const connector = { apply: outside.apply.bind(outside), status: outside.status.bind(outside), current: async () => (++asked <= 3 ? Promise.reject(new Error('no quorum')) : outside.current()) };
    const shy = build({ connector }, outside).planner;
    await shy.start();
    await pass(outside.clock, 1_500);
    expect(outside.orders).toEqual([]);
    expect(shy.ticks.last?.problems.join()).toContain('no quorum');
    await pass(outside.clock, 5_000);
    expect(outside.orders.length).toBe(1);
    await shy.close();
    await planner.close();
  });

  it('a first order that is refused is given again, and not less', async () => {
    const { outside, planner } = build({ config: config({ pools: [pool({ replicas: 5 })] }) });
    let refused = 0;
    outside.load = 30;
    outside.fail = async () => {
      if (++refused <= 3) throw new Error('not yet');
    };
    await planner.start();
    await pass(outside.clock, 5_000);
    expect(outside.orders.map(({ revision, pools }) => [revision, pools[0]?.replicas])).toEqual([[1, 5]]);
    await planner.close();
  });

  it('a connector that hangs is given the same order again, never piles up calls, and is said', async () => {
    const { outside, planner, metrics } = build();
    await planner.start();
    outside.load = 40;
    let hanging = 0;
    outside.fail = () => {
      hanging++;
      return new Promise(() => undefined);
    };
    await pass(outside.clock, 30_000);
    expect(hanging).toBe(4);
    expect(outside.orders.length).toBe(1);
    expect(planner.ticks.last?.problems.join()).toMatch(/unanswered|PLANNER_CONNECTOR_SILENT/);
    expect(metrics.values.get('armature_planner_connector_failures_total m')).toBeGreaterThan(0);
    await planner.close();
  });

  it('a connector that fails is tried again under the same revision', async () => {
    const { outside, planner } = build();
    await planner.start();
    await pass(outside.clock, 5_000);
    outside.load = 14;
    const revisions: number[] = [];
    const apply = outside.apply.bind(outside);
    outside.apply = async (order) => {
      revisions.push(order.revision);
      if (revisions.length < 4) throw new Error('refused');
      await apply(order);
    };
    await pass(outside.clock, 4_100);
    expect(revisions).toEqual([2, 2, 2, 2]);
    expect(outside.orders.at(-1)?.pools).toEqual([{ pool: 'all', replicas: 3 }]);
    await planner.close();
  });

  it('workers that do not come: stuck with the connector’s reason, and no more are ordered', async () => {
    const { outside, planner } = build();
    await planner.start();
    await pass(outside.clock, 8_000);
    outside.limit = 2;
    outside.said = { revision: 2, state: 'pending', reason: 'no node has a free GPU' };
    outside.load = 14;
    await pass(outside.clock, 120_000);
    const last = planner.ticks.last;
    expect(last?.problems.find((problem) => problem.startsWith('stuck'))).toContain('no node has a free GPU');
    outside.load = 64;
    await pass(outside.clock, 3_000);
    expect(planner.ticks.last?.bound.map(({ name }) => name)).toContain('stuck');
    await planner.close();
  });

  it('a connector that lies is found out', async () => {
    const { outside, planner } = build();
    outside.limit = 1;
    outside.said = { revision: 1, state: 'done' };
    await planner.start();
    await pass(outside.clock, 12_000);
    expect(planner.ticks.last?.problems.join()).toContain('says that order 1 is done, and 1 of 2 workers of pool all are seen');
    await planner.close();
  });

  it('a policy that throws changes nothing', async () => {
    const { outside, planner } = build({
      policy: {
        propose: () => {
          throw new Error('no idea');
        },
      },
    });
    await planner.start();
    await pass(outside.clock, 5_000);
    expect(outside.orders.length).toBe(1);
    expect(planner.ticks.last?.proposal).toMatchObject({ action: 'hold_policy_failed' });
    await planner.close();
  });

  it('an objective that cannot be kept is said, with what is the best', async () => {
    const { SlaPolicy } = await import('./policies/sla/sla-policy.ts');
    const { outside, planner } = build({ policy: new SlaPolicy({ caution: 0, downShare: 0.8, hardware: {}, tables: {} }), config: config({ objective: { goal: 'cost', ttftMs: 1_000, itlMs: 1, quantile: 0.95, maxGpus: undefined, maxCostPerHour: undefined } }) });
    await planner.start();
    await pass(outside.clock, 5_000);
    expect(planner.ticks.last?.decision.unreachable).toMatch(/cannot be kept even without load: all has TTFT \d+ ms and ITL [\d.]+ ms at best/);
    const poor = build({ policy: policy(), config: config({ objective: { goal: 'cost', ttftMs: 1_000, itlMs: 50, quantile: 0.95, maxGpus: 2, maxCostPerHour: undefined } }) }, outside).planner;
    await planner.close();
    outside.load = 40;
    await poor.start();
    await pass(outside.clock, 8_000);
    expect(poor.ticks.last?.decision.unreachable).toContain('needs more than is allowed (3 GPUs were wanted, the budget is 2: all 2)');
    await poor.close();
  });

  it('lends workers to the other role, live ones only, and takes them back', async () => {
    const clock = new ManualClock();
    const outside = new TestOutside(clock);
    const changes: string[] = [];
    const roles = {
      changeRole: async (_model: string, name: string, role: 'prefill' | 'decode' | 'both') => {
        changes.push(`${name} ${role}`);
        if (name === 'd/2') throw new Error('it is needed');
        const index = Number(name.slice(2));
        outside.discovery.lapse(`workers/m/d/${index}@a`);
        outside.discovery.put(`workers/m/d/${index}@a`, worker('d', index, { role, roleChange: 'live' }) as never);
      },
    };
    for (let i = 0; i < 3; i++) outside.discovery.put(`workers/m/d/${i}@a`, worker('d', i, { role: 'decode', roleChange: 'live' }) as never);
    outside.discovery.put('workers/m/p/0@a', worker('p', 0, { role: 'prefill' }) as never);
    let lent = 2;
    const nothing = { ttftMs: NaN, itlMs: NaN, attainment: NaN, goodputPerSecond: NaN, gpus: NaN, costPerHour: NaN };
    const pools = [pool({ pool: 'd', role: 'decode', roleChange: 'none' }), pool({ pool: 'p', role: 'prefill', roleChange: 'none' })];
    const { planner } = build({ roles, config: config({ pools }), policy: { propose: () => ({ state: { replicas: {}, lent: [{ from: 'd', to: 'p', workers: lent }] }, outcome: nothing, reason: 'so', action: 'rebalance', candidates: [] }) } }, outside);
    await planner.start();
    await pass(clock, 1_100);
    expect(changes).toEqual(['d/2 prefill', 'd/1 prefill']);
    lent = 0;
    await pass(clock, 1_000);
    expect(changes.slice(2)).toEqual(['d/1 decode']);
    expect(planner.ticks.last?.problems).toContain('d/2 did not take the role prefill: it is needed (INTERNAL_ERROR)');
    expect(planner.ticks.last?.execution.roleChanges).toEqual(['d/1 → decode']);
    await planner.close();
  });

  it('silent frontends are no reason to take workers away', async () => {
    const { outside, planner } = build({ config: config({ pools: [pool({ replicas: 6 })] }) });
    await planner.start();
    await pass(outside.clock, 3_500);
    outside.events.publish = () => undefined;
    await pass(outside.clock, 20_000);
    expect(outside.workers).toBe(6);
    expect(planner.ticks.last?.inputs.isBlind).toBe(true);
    expect(planner.ticks.last?.problems.join()).toContain('no frontend has reported');
    await planner.close();
  });

  it('a dry run plans from the workers that are there, and orders none', async () => {
    const { outside, planner } = build();
    await planner.start();
    await pass(outside.clock, 5_000);
    await planner.close();
    const { DryRunConnector } = await import('./connectors/dry-run.ts');
    const dry = build({ connector: new DryRunConnector(silentLog), isDry: true }, outside).planner;
    outside.load = 30;
    await dry.start();
    await pass(outside.clock, 20_000);
    expect([outside.orders.length, outside.workers]).toEqual([1, 2]);
    expect(dry.ticks.last?.decision.state.replicas).toEqual({ all: 3 });
    expect(dry.ticks.last?.problems).toEqual([]);
    await dry.close();
  });

  it('close waits for the tick that runs', async () => {
    const { outside, planner } = build();
    await planner.start();
    await pass(outside.clock, 4_900);
    outside.load = 40;
    outside.fail = () => outside.clock.sleep(300);
    await pass(outside.clock, 200);
    expect(outside.orders.length).toBe(1);
    let isClosed = false;
    const closing = planner.close().then(() => (isClosed = true));
    await pass(outside.clock, 100);
    expect(isClosed).toBe(false);
    await pass(outside.clock, 300);
    await closing;
    expect([outside.orders.length, planner.ticks.last?.execution.order]).toEqual([2, 'taken']);
  });

  it('after close nothing is ordered and no timer is left', async () => {
    const { outside, planner } = build();
    await planner.start();
    const before = outside.clock.pendingTimers;
    await planner.close();
    expect(outside.clock.pendingTimers).toBe(before - 1);
    outside.load = 64;
    await pass(outside.clock, 10_000);
    expect(outside.orders.length).toBe(1);
  });
});
