import type { Counter, Gauge, Metrics } from '@armature/contracts';

/** What a worker counts, under its model and pool. */
export interface WorkerMetrics {
  readonly movedBlocks: Counter;
  readonly movedBytes: Counter;
  readonly legs: Counter;
  readonly engineFailures: Counter;
  readonly engineRecoveries: Counter;
  /** 1 while it is out because of its engine. */
  readonly out: Gauge;
  /** Label: reason. */
  readonly transferFailures: { with(reason: string): Counter };
  /** Labels: role asked for, outcome. */
  readonly roleChanges: { with(role: string, outcome: string): Counter };
}

export function workerMetrics(metrics: Metrics, { model, pool, index }: { readonly model: string; readonly pool: string; readonly index: number }): WorkerMetrics {
  const labelNames = ['model', 'pool'];
  const counter = (name: string, help: string): Counter => metrics.counter({ name, help, labelNames }).with(model, pool);
  const transferFailures = metrics.counter({
    name: 'armature_kv_transfer_failures_total',
    help: 'KV pulls that did not bring every block, by reason; the rest was recomputed.',
    labelNames: [...labelNames, 'reason'],
  });
  const roleChanges = metrics.counter({ name: 'armature_worker_role_changes_total', help: 'Changes of role, by the role asked for and what came of it.', labelNames: [...labelNames, 'role', 'outcome'] });
  const out = metrics.gauge({ name: 'armature_worker_engine_failed', help: '1 while the worker is out of its pool because its engine failed, until it is back.', labelNames: [...labelNames, 'index'] });
  return {
    movedBlocks: counter('armature_kv_transfer_blocks_total', 'KV blocks pulled from prefill workers.'),
    movedBytes: counter('armature_kv_transfer_bytes_total', 'KV bytes pulled from prefill workers.'),
    legs: counter('armature_worker_legs_total', 'Request legs taken by workers.'),
    engineFailures: counter('armature_worker_engine_failures_total', 'Times that a worker left its pool because its engine failed.'),
    engineRecoveries: counter('armature_worker_engine_recoveries_total', 'Times that a worker came back after its engine had failed.'),
    out: out.with(model, pool, String(index)),
    transferFailures: { with: (reason) => transferFailures.with(model, pool, reason) },
    roleChanges: { with: (role, outcome) => roleChanges.with(model, pool, role, outcome) },
  };
}
