import { ArmatureError, definePlugin } from '@armature/contracts';
import type { Clock, Discovery, PlainData, Registration, ScalingConnector, ScalingOrder, ScalingStatus } from '@armature/contracts';

export interface VirtualConfig {
  readonly prefix: string;
  readonly ttlMs: number;
}

/** Written by the outside actor under `PREFIX/MODEL/done`: which order it carries out, how far it is, and why it is stuck. */
export interface Acknowledgement {
  readonly order: ScalingOrder;
  readonly state: 'pending' | 'done' | 'failed';
  readonly reason?: string;
}

interface Model {
  readonly open: Promise<{ close(): void }>;
  desired: ScalingOrder | undefined;
  done: Acknowledgement | undefined;
  registration: Registration | undefined;
}

/**
 * Writes orders to discovery under `PREFIX/MODEL/desired`; an outside actor (an operator, a script) follows them and acknowledges under `PREFIX/MODEL/done`.
 * One planner per model at a time: the key has one living owner. What the actor has acknowledged outlives the planner.
 */
export class VirtualConnector implements ScalingConnector {
  readonly #discovery: Discovery;
  readonly #clock: Clock;
  readonly #config: VirtualConfig;
  readonly #models: Map<string, Model>;
  #isClosed = false;

  constructor(discovery: Discovery, clock: Clock, config: VirtualConfig) {
    this.#discovery = discovery;
    this.#clock = clock;
    this.#config = config;
    this.#models = new Map();
  }

  async apply(order: ScalingOrder): Promise<void> {
    const model = await this.#follow(order.model);
    const held = model.registration !== undefined;
    if (held && model.desired !== undefined && model.desired.revision >= order.revision) return;
    const value = { ...order, decidedAtMs: this.#clock.wallMs() } as unknown as PlainData;
    if (model.registration !== undefined) await model.registration.update(value);
    else model.registration = await this.#register(order.model, value);
    model.desired = order;
    if (this.#isClosed) await this.#withdraw(model);
  }

  status(name: string): ScalingStatus {
    const model = this.#models.get(name);
    const done = model?.done;
    if (done !== undefined && done.order.revision >= (model?.desired?.revision ?? 0)) return { revision: done.order.revision, state: done.state, ...(done.reason === undefined ? {} : { reason: done.reason }) };
    return { revision: model?.desired?.revision ?? 0, state: 'unknown', reason: `nobody has acknowledged the order at ${this.#config.prefix}/${name}/done` };
  }

  async current(name: string): Promise<ScalingOrder | undefined> {
    const { desired, done } = await this.#follow(name);
    return desired !== undefined && desired.revision >= (done?.order.revision ?? -1) ? desired : done?.order;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const model of this.#models.values()) {
      await this.#withdraw(model);
      await model.open.then((open) => open.close(), () => undefined);
    }
    this.#models.clear();
  }

  async #withdraw(model: Model): Promise<void> {
    await model.registration?.close();
    model.registration = undefined;
  }

  #follow(name: string): Promise<Model> {
    const known = this.#models.get(name);
    if (known !== undefined) return known.open.then(() => known);
    const prefix = `${this.#config.prefix}/${name}/`;
    const model: { -readonly [K in keyof Model]: Model[K] } = { open: Promise.resolve({ close: () => undefined }), desired: undefined, done: undefined, registration: undefined };
    const see = (key: string, value: PlainData): void => {
      if (key === `${prefix}desired` && model.registration === undefined) model.desired = orderOf(value);
      if (key === `${prefix}done`) model.done = acknowledgementOf(value);
    };
    model.open = this.#discovery.watch(prefix, { put: ({ key, value }) => see(key, value), removed: () => undefined });
    this.#models.set(name, model);
    // One that could not be opened is tried again.
    model.open.catch(() => void this.#models.delete(name));
    return model.open.then(() => model);
  }

  async #register(model: string, value: PlainData): Promise<Registration> {
    try {
      return await this.#discovery.register(`${this.#config.prefix}/${model}/desired`, value, { ttlMs: this.#config.ttlMs });
    } catch (error) {
      if (!ArmatureError.is(error) || error.code !== 'DISCOVERY_KEY_TAKEN') throw error;
      throw new ArmatureError('PLANNER_DESIRED_TAKEN', `another planner holds the desired state of model "${model}"`, { hint: `one planner per model; one that was killed gives it up after ${this.#config.ttlMs} ms`, cause: error, retryable: true });
    }
  }
}

/** Undefined: not an order. Others write to discovery too. */
export function orderOf(value: PlainData): ScalingOrder | undefined {
  const order = value as unknown as ScalingOrder | null | undefined;
  const isOrder = typeof order === 'object' && order !== null && Number.isSafeInteger(order.revision) && typeof order.model === 'string' && Array.isArray(order.pools) && order.pools.every((entry) => typeof entry?.pool === 'string' && Number.isSafeInteger(entry.replicas) && entry.replicas >= 0);
  return isOrder ? { revision: order.revision, model: order.model, pools: order.pools.map(({ pool, replicas }) => ({ pool, replicas })) } : undefined;
}

function acknowledgementOf(value: PlainData): Acknowledgement | undefined {
  const said = value as unknown as Partial<Acknowledgement> | null | undefined;
  const order = orderOf(said?.order as unknown as PlainData);
  if (order === undefined || !(said?.state === 'pending' || said?.state === 'done' || said?.state === 'failed')) return undefined;
  return { order, state: said.state, ...(typeof said.reason === 'string' ? { reason: said.reason } : {}) };
}

export const virtual = definePlugin<'scaling-connector', VirtualConfig>({
  kind: 'scaling-connector',
  contract: 'v1',
  name: 'virtual',
  description: 'Writes the desired state to discovery; an outside actor starts and stops workers, and acknowledges.',
  requires: [{ kind: 'discovery' }],
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      prefix: { type: 'string', minLength: 1, default: 'planner', description: 'Keys are PREFIX/MODEL/desired, written here, and PREFIX/MODEL/done, written by the actor: { order, state: pending | done | failed, reason }.' },
      ttlMs: { type: 'integer', minimum: 1_000, default: 10_000, description: 'A desired state whose planner is gone disappears after so many milliseconds; what was acknowledged stays.' },
    },
  },
  create: (config, context) => new VirtualConnector(context.get('discovery'), context.clock, config),
});
