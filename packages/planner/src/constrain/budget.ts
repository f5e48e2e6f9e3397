import type { Objective, PoolObservation } from '@armature/contracts';
import type { BoundConstraint } from './constraints.ts';

/** Takes workers out of `replicas` until GPUs and cost are within the budget: of what would be added first, then of what there is, never below a minimum. */
export function fitBudget(replicas: Record<string, number>, pools: readonly PoolObservation[], objective: Objective, bound: BoundConstraint[]): void {
  const budgets = [
    { name: 'max_gpus', limit: objective.maxGpus, unit: 'GPUs', of: (pool: PoolObservation) => pool.gpusPerWorker },
    { name: 'max_cost', limit: objective.maxCostPerHour, unit: 'per hour', of: (pool: PoolObservation) => pool.costPerHour },
  ];
  for (const { name, limit, unit, of } of budgets) {
    if (limit === undefined) continue;
    const total = (): number => pools.reduce((sum, pool) => sum + replicas[pool.pool] * of(pool), 0);
    const wanted = total();
    while (total() > limit + 1e-9) {
      const pool = mostToSpare(replicas, pools.filter((candidate) => of(candidate) > 0));
      if (pool === undefined) break;
      replicas[pool.pool]--;
    }
    if (wanted <= limit + 1e-9) continue;
    bound.push({ name, detail: `${round(wanted)} ${unit} were wanted, the budget is ${limit}: ${pools.map((pool) => `${pool.pool} ${replicas[pool.pool]}`).join(', ')}` });
    if (total() > limit + 1e-9) bound.push({ name: 'budget_below_minimum', detail: `the least that the pools need is ${round(total())} ${unit}, above the budget of ${limit}` });
  }
}

/** Most above what is ordered now; among those that are not, most above the minimum. A pool of a role is not emptied. */
function mostToSpare(replicas: Readonly<Record<string, number>>, pools: readonly PoolObservation[]): PoolObservation | undefined {
  let best: PoolObservation | undefined;
  const spare = ({ pool, desired, minReplicas }: PoolObservation): number => (replicas[pool] > desired ? 1e6 + replicas[pool] - desired : replicas[pool] - minReplicas);
  for (const pool of pools) if (replicas[pool.pool] > pool.minReplicas && (best === undefined || spare(pool) > spare(best))) best = pool;
  return best;
}

function round(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}
