import type { Objective, PoolObservation } from '@armature/contracts';
import type { BoundConstraint } from './constraints.ts';

interface Budget {
  readonly name: string;
  readonly limit: number;
  readonly unit: string;
  of(pool: PoolObservation): number;
}

/**
 * Takes workers out of `replicas` until GPUs and cost are within the budget: of what would be added first, then of what there is, never below a minimum;
 * what fits after all stays.
 */
export function fitBudget(replicas: Record<string, number>, pools: readonly PoolObservation[], { maxGpus, maxCostPerHour }: Objective, bound: BoundConstraint[]): void {
  const budgets: readonly Budget[] = [
    { name: 'max_gpus', limit: maxGpus ?? Infinity, unit: 'GPUs', of: (pool) => pool.gpusPerWorker },
    { name: 'max_cost', limit: maxCostPerHour ?? Infinity, unit: 'per hour', of: (pool) => pool.costPerHour },
  ];
  const total = ({ of }: Budget): number => pools.reduce((sum, pool) => sum + replicas[pool.pool] * of(pool), 0);
  const exceeded = (): Budget | undefined => budgets.find((budget) => total(budget) > budget.limit + 1e-9);
  const broken = budgets.filter((budget) => total(budget) > budget.limit + 1e-9).map((budget) => ({ budget, wanted: total(budget) }));
  if (broken.length === 0) return;
  const before = { ...replicas };
  for (let budget = exceeded(); budget !== undefined; budget = exceeded()) {
    const { of } = budget;
    const pool = mostToSpare(replicas, pools.filter((candidate) => of(candidate) > 0));
    if (pool === undefined) break;
    replicas[pool.pool]--;
  }
  for (const { pool } of pools) {
    while (replicas[pool] < before[pool]) {
      replicas[pool]++;
      if (exceeded() === undefined) continue;
      replicas[pool]--;
      break;
    }
  }
  for (const { budget, wanted } of broken) {
    bound.push({ name: budget.name, detail: `${round(wanted)} ${budget.unit} were wanted, the budget is ${budget.limit}: ${pools.map(({ pool }) => `${pool} ${replicas[pool]}`).join(', ')}` });
    if (total(budget) > budget.limit + 1e-9) bound.push({ name: 'budget_below_minimum', detail: `the least that the pools need is ${round(total(budget))} ${budget.unit}, above the budget of ${budget.limit}` });
  }
}

/** Most above what is ordered now; among those that are not, most above the minimum. */
function mostToSpare(replicas: Readonly<Record<string, number>>, pools: readonly PoolObservation[]): PoolObservation | undefined {
  let best: PoolObservation | undefined;
  const spare = ({ pool, desired, minReplicas }: PoolObservation): number => (replicas[pool] > desired ? 1e6 + replicas[pool] - desired : replicas[pool] - minReplicas);
  for (const pool of pools) if (replicas[pool.pool] > pool.minReplicas && (best === undefined || spare(pool) > spare(best))) best = pool;
  return best;
}

function round(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}
