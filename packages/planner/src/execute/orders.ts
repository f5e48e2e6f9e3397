import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, PlannedPool, ScalingConnector, ScalingOrder, ScalingStatus } from '@armature/contracts';
import { within } from './deadline.ts';

export interface OrdersOptions {
  readonly model: string;
  readonly connector: ScalingConnector;
  readonly clock: Clock;
  readonly log: Logger;
  readonly deadlineMs: number;
}

/** Calls of a connector that may hang at the same time; then it is not called again before one ends. */
const MAX_UNANSWERED = 4;

/**
 * Gives orders to a connector and knows which one is in force: the last one that was taken. One that failed is given again under the same revision;
 * whether it was taken after all is asked first.
 */
export class Orders {
  readonly #options: OrdersOptions;
  #inForce: ScalingOrder | undefined = undefined;
  #attempted: ScalingOrder | undefined = undefined;
  /** Whether the outside has said what it remembers. */
  #isKnown = false;
  #unanswered = 0;
  #failures = 0;
  #problem: string | undefined = undefined;

  constructor(options: OrdersOptions) {
    this.#options = options;
  }

  /** False: the connector has not said which order is in force, and nothing may be ordered. */
  get isKnown(): boolean {
    return this.#isKnown;
  }

  get inForce(): ScalingOrder | undefined {
    return this.#inForce;
  }

  /** Calls that failed or were not answered. */
  get failures(): number {
    return this.#failures;
  }

  /** Of the last call; undefined: it went well. */
  get problem(): string | undefined {
    return this.#problem;
  }

  get desired(): ReadonlyMap<string, number> {
    return new Map(this.#inForce?.pools.map(({ pool, replicas }) => [pool, replicas]));
  }

  /** Asks which order is in force: at the start, and after a call that failed. Never throws. */
  async recover(): Promise<void> {
    if (this.#isKnown && this.#problem === undefined) return;
    const { connector, model } = this.#options;
    const current = await this.#call('which order is in force', () => connector.current(model));
    if (current === undefined) return;
    this.#isKnown = true;
    const { order } = current;
    if (order !== undefined && order.revision > (this.#inForce?.revision ?? -1)) this.#inForce = order;
    if (this.#attempted !== undefined && order !== undefined && order.revision >= this.#attempted.revision) this.#attempted = undefined;
  }

  /** Orders `replicas` unless they are in force. Only once it is known what is. Never throws: a failure is told by `problem`, and the order stays what it was. */
  async give(replicas: Readonly<Record<string, number>>): Promise<'unchanged' | 'taken' | 'failed'> {
    if (this.#inForce !== undefined && isSame(this.#inForce, replicas)) {
      this.#attempted = undefined;
      return 'unchanged';
    }
    const { connector, model, deadlineMs, log } = this.#options;
    const order = this.#attempted !== undefined && isSame(this.#attempted, replicas) ? this.#attempted : this.#newOrder(replicas);
    this.#attempted = order;
    const taken = await this.#call(`order ${order.revision}`, () => connector.apply(order, deadlineMs).then(() => undefined));
    if (taken === undefined) return 'failed';
    this.#inForce = order;
    this.#attempted = undefined;
    log.info('workers ordered', { model, revision: order.revision, pools: Object.fromEntries(order.pools.map(({ pool, replicas: count }) => [pool, count])) });
    return 'taken';
  }

  /** What the outside says of the order in force; a connector that throws says nothing. */
  status(): ScalingStatus {
    const { connector, model } = this.#options;
    try {
      return connector.status(model);
    } catch (error) {
      return { revision: 0, state: 'unknown', reason: `its status cannot be read: ${ArmatureError.from(error).message}` };
    }
  }

  #newOrder(replicas: Readonly<Record<string, number>>): ScalingOrder {
    const revision = Math.max(this.#inForce?.revision ?? 0, this.#attempted?.revision ?? 0) + 1;
    return { revision, model: this.#options.model, pools: Object.entries(replicas).map(([pool, count]) => ({ pool, replicas: count })) };
  }

  async #call(what: string, start: () => Promise<ScalingOrder | undefined>): Promise<{ readonly order: ScalingOrder | undefined } | undefined> {
    const { clock, deadlineMs, log, model } = this.#options;
    if (this.#unanswered >= MAX_UNANSWERED) {
      this.#problem = `the scaling connector has left ${this.#unanswered} calls unanswered; it is called again when one ends`;
      return undefined;
    }
    try {
      this.#unanswered++;
      const order = await within(clock, deadlineMs, what, async () => {
        try {
          return await start();
        } finally {
          this.#unanswered--;
        }
      });
      this.#problem = undefined;
      return { order };
    } catch (error) {
      const { code, message } = ArmatureError.from(error, 'PLANNER_CONNECTOR_FAILED');
      this.#failures++;
      this.#problem = `the scaling connector failed at ${what}: ${message} (${code})`;
      log.warn('scaling connector failed', { model, code, at: what, reason: message });
      return undefined;
    }
  }
}

function isSame({ pools }: ScalingOrder, replicas: Readonly<Record<string, number>>): boolean {
  return pools.length === Object.keys(replicas).length && pools.every(({ pool, replicas: count }) => replicas[pool] === count);
}

/** The first order of all: the workers that are there, else those configured, within the limits. */
export function firstOrder(pools: readonly (PlannedPool & { readonly replicas: number })[], live: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries(pools.map(({ pool, replicas, minReplicas, maxReplicas }) => [pool, Math.min(maxReplicas, Math.max(minReplicas, live.get(pool) || replicas))]));
}
