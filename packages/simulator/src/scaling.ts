import { definePlugin } from '@armature/contracts';
import type { Logger, PluginDescriptor, ScalingConnector, ScalingOrder, ScalingStatus } from '@armature/contracts';
import type { SimulatedPool } from './cluster-config.ts';
import type { SimulatedCluster } from './cluster.ts';

/** Carries a planner's orders out on the simulated cluster: workers start up, drain and are paid for meanwhile. */
export class SimulatedScaling implements ScalingConnector {
  readonly #log: Logger;
  readonly #orders: Map<string, ScalingOrder>;
  readonly #failures: Map<string, string>;
  #cluster: SimulatedCluster | undefined;
  changes: number;

  constructor(pools: readonly SimulatedPool[], log: Logger) {
    this.#log = log;
    this.#failures = new Map();
    this.#cluster = undefined;
    this.changes = 0;
    const models = new Map<string, SimulatedPool[]>();
    for (const pool of pools) models.set(pool.model, [...(models.get(pool.model) ?? []), pool]);
    this.#orders = new Map([...models].map(([model, own]) => [model, { revision: 1, model, pools: own.map(({ pool, replicas }) => ({ pool, replicas })) }]));
  }

  /** From now on orders are carried out. */
  attach(cluster: SimulatedCluster): void {
    this.#cluster = cluster;
  }

  async apply(order: ScalingOrder): Promise<void> {
    const last = this.#orders.get(order.model);
    if (last !== undefined && last.revision >= order.revision) return;
    this.#orders.set(order.model, order);
    for (const { pool, replicas } of order.pools) this.#resize(order.model, pool, replicas);
  }

  status(model: string): ScalingStatus {
    const revision = this.#orders.get(model)?.revision ?? 0;
    const reason = this.#failures.get(model);
    return reason === undefined ? { revision, state: 'done' } : { revision, state: 'failed', reason };
  }

  async current(model: string): Promise<ScalingOrder | undefined> {
    return this.#orders.get(model);
  }

  /** Lowest free indexes first; those with the highest leave first. */
  #resize(model: string, name: string, replicas: number): void {
    const cluster = this.#cluster;
    const pool = cluster?.pools.find((entry) => entry.model === model && entry.pool === name);
    if (cluster === undefined || pool === undefined) return;
    const here = cluster.staying(pool);
    for (let index = 0; here.length < replicas; index++) {
      if (cluster.isTaken(pool, index)) continue;
      here.push(index);
      this.#watch(model, cluster.startWorker(pool, index));
    }
    here.sort((a, b) => a - b);
    for (const index of here.slice(replicas)) this.#watch(model, cluster.stopWorker(pool, index));
  }

  #watch(model: string, work: Promise<void>): void {
    this.changes++;
    work.then(
      () => this.#failures.delete(model),
      (error: unknown) => {
        this.#failures.set(model, String(error));
        this.#log.warn('a simulated worker could not be started or stopped', { error: String(error) });
      },
    );
  }
}

/** The plug-in behind `connector: { use: simulated }`. */
export function simulatedScaling(scaling: SimulatedScaling): PluginDescriptor {
  return definePlugin<'scaling-connector', Record<string, never>>({
    kind: 'scaling-connector',
    contract: 'v1',
    name: 'simulated',
    description: 'Starts and stops simulated workers.',
    configSchema: { type: 'object', additionalProperties: false, properties: {} },
    create: () => scaling,
  }) as unknown as PluginDescriptor;
}
