import type { PlannerObservation, PoolObservation } from '@armature/contracts';
import { decodeRate, prefillRate } from '@armature/fleet-model';
import type { SteadyTraffic } from '@armature/fleet-model';
import type { KnownWorker } from '../timing-book.ts';

/** A pool of a side, and what one of its workers takes. */
export interface SidePool {
  readonly pool: PoolObservation;
  /** Requests per second that one worker takes within the objective, doing nothing else. */
  readonly rate: number;
}

/** The two halves of a fleet's work. Pools of role `both` stand on the decode side and are rated for prefill and decode together. */
export interface Side {
  readonly name: 'prefill' | 'decode';
  readonly pools: readonly SidePool[];
}

export function sidesOf(observation: PlannerObservation, workers: ReadonlyMap<string, KnownWorker>, traffic: SteadyTraffic, itlMs: number): readonly [Side, Side] {
  const rated = observation.pools.map((pool): SidePool => {
    const worker = workers.get(pool.pool) as KnownWorker;
    const prefill = prefillRate(worker, traffic);
    const decode = decodeRate(worker, traffic, itlMs);
    return { pool, rate: pool.role === 'prefill' ? prefill : pool.role === 'decode' ? decode : 1 / (1 / prefill + 1 / decode) };
  });
  return [
    { name: 'prefill', pools: rated.filter(({ pool }) => pool.role === 'prefill') },
    { name: 'decode', pools: rated.filter(({ pool }) => pool.role !== 'prefill') },
  ];
}

/** Replicas with which a side takes `requestsPerSecond`, by pool: cheapest work first, within the pools' limits. */
export function replicasFor(side: Side, requestsPerSecond: number): Map<string, number> {
  const replicas = new Map(side.pools.map(({ pool }) => [pool.pool, pool.minReplicas]));
  let left = requestsPerSecond - side.pools.reduce((sum, { pool, rate }) => sum + pool.minReplicas * rate, 0);
  const cheapest = [...side.pools].sort((a, b) => a.pool.costPerHour / a.rate - b.pool.costPerHour / b.rate);
  for (const { pool, rate } of cheapest) {
    const added = Math.min(pool.maxReplicas - pool.minReplicas, Math.max(0, Math.ceil(left / rate - 1e-9)));
    replicas.set(pool.pool, pool.minReplicas + added);
    left -= added * rate;
  }
  return replicas;
}
