import type { WorkerRole } from '@armature/contracts';

interface PoolMinimum {
  readonly role: WorkerRole;
  readonly minReplicas: number;
}

/** How many workers of a model must be left for a leg: the sum over the pools whose configured role takes it. */
export function roleMinimum(pools: readonly PoolMinimum[], leg: 'prefill' | 'decode'): number {
  let sum = 0;
  for (const { role, minReplicas } of pools) if (role === leg || role === 'both') sum += minReplicas;
  return sum;
}
