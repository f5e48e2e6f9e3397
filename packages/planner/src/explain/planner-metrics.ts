import type { Metrics } from '@armature/contracts';
import type { TickRecord } from './tick-record.ts';

/** What of each tick goes into metrics. */
export class PlannerMetrics {
  readonly #record: (record: TickRecord) => void;
  #failures = 0;
  readonly #connector: (failures: number) => void;

  constructor(metrics: Metrics, model: string) {
    const gauge = (name: string, help: string, ...labels: string[]): ReturnType<Metrics['gauge']> => metrics.gauge({ name, help, labelNames: ['model', ...labels] });
    const ticks = metrics.counter({ name: 'armature_planner_ticks_total', help: 'Ticks, by what the policy proposed.', labelNames: ['model', 'action'] });
    const orders = metrics.counter({ name: 'armature_planner_orders_total', help: 'Ticks, by what became of their order.', labelNames: ['model', 'outcome'] });
    const bound = metrics.counter({ name: 'armature_planner_constraints_total', help: 'Constraints that bound a plan.', labelNames: ['model', 'constraint'] });
    const failures = metrics.counter({ name: 'armature_planner_connector_failures_total', help: 'Calls of the scaling connector that failed or were not answered.', labelNames: ['model'] }).with(model);
    const workers = gauge('armature_planner_workers', 'Workers of a pool, by state.', 'pool', 'state');
    const expected = gauge('armature_planner_forecast_requests_per_second', 'Request rate expected over the horizon.', 'bound');
    const problems = gauge('armature_planner_problems', 'What is missing, stale, contradictory or stuck, at the last tick.').with(model);
    const revision = gauge('armature_planner_order_revision', 'Revision of the order in force.').with(model);
    const attainment = gauge('armature_planner_attainment_ratio', 'Share of requests within the objective, by whether it was expected of the last decision or seen in the last interval.', 'kind');
    this.#record = (record) => {
      ticks.with(model, record.proposal.action).inc();
      orders.with(model, record.execution.order).inc();
      for (const { name } of record.bound) bound.with(model, name).inc();
      for (const pool of record.inputs.pools) for (const state of ['desired', 'ready', 'starting', 'draining', 'lent'] as const) workers.with(model, pool.pool, state).set(pool[state]);
      for (const side of ['mean', 'low', 'high'] as const) expected.with(model, side).set(record.forecast.requestsPerSecond[side]);
      problems.set(record.problems.length);
      revision.set(record.execution.revision);
      attainment.with(model, 'expected').set(record.proposal.outcome.attainment);
      attainment.with(model, 'seen').set(record.inputs.traffic.attainment);
    };
    this.#connector = (count) => failures.inc(count);
  }

  /** `failures`: of connector calls, since the beginning. */
  tick(record: TickRecord, failures: number): void {
    this.#record(record);
    if (failures > this.#failures) this.#connector(failures - this.#failures);
    this.#failures = failures;
  }
}
