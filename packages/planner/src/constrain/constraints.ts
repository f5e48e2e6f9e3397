import type { JsonSchema, PlannedState, PlannerInput, PlannerObservation, PoolObservation } from '@armature/contracts';
import { fitBudget } from './budget.ts';
import { sanitised } from './sanitise.ts';

export interface ConstraintConfig {
  /** A scale-down waits until so many proposals in a row want it: the largest of the last ones counts. */
  readonly stabilisationTicks: number;
  /** Changes below this share of a pool are left alone. */
  readonly hysteresis: number;
  readonly cooldownUpMs: number;
  readonly cooldownDownMs: number;
}

export const constraintSchema = {
  type: 'object',
  additionalProperties: false,
  default: {},
  description: 'What keeps a plan from swinging. Limits of pools, minima of roles and budgets always hold.',
  properties: {
    stabilisationTicks: { type: 'integer', minimum: 1, maximum: 10_000, default: 6, description: 'Workers go only when the last so many proposals all wanted fewer: the largest of them counts. 1 = at once.' },
    hysteresis: { type: 'number', minimum: 0, maximum: 1, default: 0.1, description: 'Changes of fewer workers than this share of their pool are left alone.' },
    cooldownUpMs: { type: 'integer', minimum: 0, default: 0, description: 'After a change of a pool: no more workers for so many milliseconds.' },
    cooldownDownMs: { type: 'integer', minimum: 0, default: 0, description: 'After a change of a pool: no fewer workers for so many milliseconds.' },
  },
} as const satisfies JsonSchema;

export const constraintDefaults = Object.fromEntries(Object.entries(constraintSchema.properties).map(([name, { default: value }]) => [name, value])) as unknown as ConstraintConfig;

/** A limit that made the plan another one than was proposed. */
export interface BoundConstraint {
  /** `invalid`, `role_fixed`, `role_restart`, `role_minimum`, `limits`, `hysteresis`, `cooldown_up`, `cooldown_down`, `stabilisation`, `blind`, `stuck`, `max_gpus`, `max_cost`, `budget_below_minimum`. */
  readonly name: string;
  readonly pool?: string;
  /** With the numbers. */
  readonly detail: string;
}

export interface ConstrainedPlan {
  readonly state: PlannedState;
  readonly bound: readonly BoundConstraint[];
}

export interface ConstraintFacts {
  /** Less may have been seen than there is. */
  readonly isBlind: boolean;
  /** Pools whose ordered workers do not come. */
  readonly stuck: ReadonlySet<string>;
}

const nothingWrong: ConstraintFacts = { isBlind: false, stuck: new Set() };

/** What a proposal has to obey, in order: sense, roles, limits, calm, budgets. Keeps the recent proposals and the times of the last changes. */
export class Constraints {
  readonly #config: ConstraintConfig;
  readonly #recent: PlannedState['replicas'][];
  readonly #changedMs: Map<string, number>;

  constructor(config: ConstraintConfig) {
    this.#config = config;
    this.#recent = [];
    this.#changedMs = new Map();
  }

  /** Replicas in force count as if they had been proposed all the time: a planner that starts again takes nothing away at once. */
  begin(replicas: PlannedState['replicas']): void {
    this.#recent.length = 0;
    for (let i = 0; i < this.#config.stabilisationTicks; i++) this.#recent.push(replicas);
  }

  /** What was ordered at a tick: cool-downs begin. */
  ordered({ replicas }: PlannedState, { pools, atMs }: PlannerObservation): void {
    for (const { pool, desired } of pools) if (replicas[pool] !== desired) this.#changedMs.set(pool, atMs);
  }

  /** Once per tick. */
  constrain(proposed: PlannedState, input: PlannerInput, facts: ConstraintFacts = nothingWrong): ConstrainedPlan {
    const { pools, atMs } = input.observation;
    const bound: BoundConstraint[] = [];
    const state = sanitised(proposed, input.observation, bound);
    this.#recent.push(state.replicas);
    if (this.#recent.length > this.#config.stabilisationTicks) this.#recent.shift();
    const replicas: Record<string, number> = {};
    for (const pool of pools) replicas[pool.pool] = this.#calmed(pool, state.replicas[pool.pool] ?? pool.desired, { atMs, facts, bound });
    fitBudget(replicas, pools, input.objective, bound);
    const lent = state.lent.map((entry) => ({ ...entry, workers: Math.min(entry.workers, this.#lendable(entry.from, replicas, pools)) }));
    return { state: { ...state, replicas, lent }, bound };
  }

  #lendable(from: string, replicas: Readonly<Record<string, number>>, pools: readonly PoolObservation[]): number {
    const pool = pools.find((candidate) => candidate.pool === from);
    return pool === undefined ? 0 : Math.max(0, replicas[from] - Math.max(1, pool.minReplicas));
  }

  /** The count nearest to what is wanted that does not swing. */
  #calmed(pool: PoolObservation, wanted: number, { atMs, facts, bound }: { readonly atMs: number; readonly facts: ConstraintFacts; readonly bound: BoundConstraint[] }): number {
    const { pool: name, desired } = pool;
    const { hysteresis, cooldownUpMs, cooldownDownMs, stabilisationTicks } = this.#config;
    if (wanted === desired) return desired;
    const keep = (constraint: string, detail: string): number => {
      bound.push({ name: constraint, pool: name, detail: `${detail}; ${name} stays at ${desired}, ${wanted} were proposed` });
      return desired;
    };
    const isOutside = desired < pool.minReplicas || desired > pool.maxReplicas;
    if (isOutside) return wanted;
    if (Math.abs(wanted - desired) < hysteresis * desired) return keep('hysteresis', `a change below ${hysteresis * 100} %`);
    const sinceMs = atMs - (this.#changedMs.get(name) ?? -Infinity);
    if (wanted > desired) {
      if (facts.stuck.has(name)) return keep('stuck', 'workers ordered before have not come');
      return sinceMs < cooldownUpMs ? keep('cooldown_up', `changed ${sinceMs} ms ago, below ${cooldownUpMs}`) : wanted;
    }
    if (facts.isBlind) return keep('blind', 'traffic was not seen in full');
    if (sinceMs < cooldownDownMs) return keep('cooldown_down', `changed ${sinceMs} ms ago, below ${cooldownDownMs}`);
    const most = Math.max(...this.#recent.map((replicas) => replicas[name] ?? desired));
    if (most <= wanted) return wanted;
    const calm = Math.min(desired, most);
    bound.push({ name: 'stabilisation', pool: name, detail: `the largest of the last ${stabilisationTicks} proposals is ${most}; ${name} goes to ${calm}, ${wanted} were proposed` });
    return calm;
  }
}
