import type { PoolObservation } from '@armature/contracts';

/** Workers that do the work of a pool: its own that are ready, and those that pools of another role lend to this role (they go to its first pool). */
export function workersAt(pool: PoolObservation, pools: readonly PoolObservation[]): number {
  const isFirst = pools.find(({ role }) => role === pool.role) === pool;
  const visitors = isFirst && pool.role !== 'both' ? pools.reduce((sum, { role, lent }) => sum + (role === pool.role ? 0 : lent), 0) : 0;
  return pool.ready + visitors;
}
