import { definePlugin } from '@armature/contracts';
import type { Logger, ScalingConnector, ScalingOrder, ScalingStatus } from '@armature/contracts';

/** Takes every order and carries out none: what would be done stands in the log and in the ticks. */
export class DryRunConnector implements ScalingConnector {
  readonly #log: Logger;
  readonly #orders: Map<string, ScalingOrder>;

  constructor(log: Logger) {
    this.#log = log;
    this.#orders = new Map();
  }

  async apply(order: ScalingOrder): Promise<void> {
    const last = this.#orders.get(order.model);
    if (last !== undefined && last.revision >= order.revision) return;
    this.#orders.set(order.model, order);
    this.#log.info('dry run: would order', { model: order.model, revision: order.revision, pools: Object.fromEntries(order.pools.map(({ pool, replicas }) => [pool, replicas])) });
  }

  status(model: string): ScalingStatus {
    return { revision: this.#orders.get(model)?.revision ?? 0, state: 'unknown' };
  }

  async current(model: string): Promise<ScalingOrder | undefined> {
    return this.#orders.get(model);
  }
}

/** `facts.isDry`: plans go on from the workers that are there, not from orders that nobody carries out. */
export const dryRun = definePlugin<'scaling-connector', Record<string, never>>({
  kind: 'scaling-connector',
  contract: 'v1',
  name: 'dry-run',
  description: 'Carries out nothing: says what would be ordered.',
  configSchema: { type: 'object', additionalProperties: false, properties: {} },
  facts: () => ({ isDry: true }),
  create: (_config, context) => new DryRunConnector(context.log),
});
