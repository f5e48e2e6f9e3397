import type { PlannedState, PlannerObservation, PoolObservation } from '@armature/contracts';
import type { BoundConstraint } from './constraints.ts';

type Lending = PlannedState['lent'][number];

/**
 * A state that can be: whole counts of known pools within their limits, roles that engines can change, minima of roles. A role change by restart is a
 * worker's end and another one's start, and is planned as that.
 */
export function sanitised(proposed: PlannedState, { pools, thresholdTokens }: PlannerObservation, bound: BoundConstraint[]): PlannedState {
  const known = new Map(pools.map((pool) => [pool.pool, pool]));
  const replicas: Record<string, number> = {};
  for (const pool of pools) replicas[pool.pool] = whole(proposed.replicas[pool.pool], pool, bound);
  for (const name of Object.keys(proposed.replicas)) if (!known.has(name)) bound.push({ name: 'invalid', pool: name, detail: `the policy proposed workers of ${name}, a pool that the plan does not have` });
  const lent: Lending[] = [];
  for (const entry of proposed.lent) {
    const [from, to] = [known.get(entry.from), known.get(entry.to)];
    const allowed = from === undefined || to === undefined || !Number.isInteger(entry.workers) || entry.workers < 0 ? refused(entry, bound) : lending(from, to, entry.workers, { replicas, bound });
    if (allowed > 0 || (from !== undefined && from.lent > 0)) lent.push({ ...entry, workers: allowed });
  }
  for (const pool of pools) replicas[pool.pool] = limited(replicas[pool.pool], pool, bound);
  const threshold = proposed.thresholdTokens;
  const isThreshold = thresholdTokens !== undefined && threshold !== undefined && Number.isFinite(threshold) && threshold >= 0;
  return isThreshold ? { replicas, lent, thresholdTokens: Math.round(threshold) } : { replicas, lent };
}

function refused(entry: Lending, bound: BoundConstraint[]): number {
  bound.push({ name: 'invalid', pool: entry.from, detail: `${entry.workers} workers of ${entry.from} cannot work for ${entry.to}` });
  return 0;
}

function whole(count: number | undefined, { pool, desired }: PoolObservation, bound: BoundConstraint[]): number {
  if (count === undefined) return desired;
  if (Number.isFinite(count) && count >= 0) return Math.ceil(count - 1e-9);
  bound.push({ name: 'invalid', pool, detail: `the policy proposed ${count} workers of ${pool}; it stays at ${desired}` });
  return desired;
}

/** How many of `from` may do the work of `to`. By restart: none, they end there and start here. */
function lending(from: PoolObservation, to: PoolObservation, workers: number, { replicas, bound }: { readonly replicas: Record<string, number>; readonly bound: BoundConstraint[] }): number {
  if (workers === 0) return 0;
  if (from.role === to.role || from.roleChange === 'none') {
    bound.push({ name: 'role_fixed', pool: from.pool, detail: `workers of ${from.pool} cannot take the role of ${to.pool}; ${workers} were proposed` });
    return 0;
  }
  const most = Math.max(0, replicas[from.pool] - Math.max(1, from.minReplicas));
  const allowed = Math.min(workers, most);
  if (allowed < workers) bound.push({ name: 'role_minimum', pool: from.pool, detail: `${Math.max(1, from.minReplicas)} workers of ${from.pool} stay in their role; ${allowed} instead of ${workers} change it` });
  if (from.roleChange === 'live' || allowed === 0) return allowed;
  replicas[from.pool] -= allowed;
  replicas[to.pool] += allowed;
  const gpuSeconds = (allowed * to.gpusPerWorker * to.startupMs) / 1000;
  bound.push({ name: 'role_restart', pool: from.pool, detail: `${allowed} workers end in ${from.pool} and start in ${to.pool}: ${gpuSeconds.toFixed(0)} GPU-seconds of start-up` });
  return 0;
}

function limited(count: number, { pool, role, minReplicas, maxReplicas }: PoolObservation, bound: BoundConstraint[]): number {
  if (count > maxReplicas) {
    bound.push({ name: 'limits', pool, detail: `at most ${maxReplicas} workers of ${pool}, ${count} were proposed` });
    return maxReplicas;
  }
  if (count >= minReplicas) return count;
  bound.push({ name: 'limits', pool, detail: `at least ${minReplicas} workers of ${pool} (role ${role}), ${count} were proposed` });
  return Math.min(minReplicas, maxReplicas);
}
