import { ArmatureError } from '@armature/contracts';
import type { Logger, PlannedPool, PlannedState, WorkerRole } from '@armature/contracts';
import type { FleetView } from '../observe/fleet-view.ts';

/** Gives a running worker another role; resolves when it has it. Must keep the minimum of each role by itself. */
export interface RoleMover {
  changeRole(model: string, worker: string, role: WorkerRole): Promise<void>;
}

/** The disaggregation threshold of a model's frontends. */
export interface ThresholdControl {
  /** Undefined: not adjustable. */
  current(): number | undefined;
  set(tokens: number): void;
}

const MAX_CHANGES = 4;

/** Live role changes of one model: what is lent is compared with what shall be, and at most four workers change at a time. */
export class RoleMoves {
  readonly #model: string;
  readonly #pools: readonly PlannedPool[];
  readonly #mover: RoleMover | undefined;
  readonly #log: Logger;
  readonly #changing: Set<string>;
  #problem: string | undefined = undefined;

  constructor(options: { readonly model: string; readonly pools: readonly PlannedPool[]; readonly mover: RoleMover | undefined; readonly log: Logger }) {
    this.#model = options.model;
    this.#pools = options.pools;
    this.#mover = options.mover;
    this.#log = options.log;
    this.#changing = new Set();
  }

  get changing(): number {
    return this.#changing.size;
  }

  /** Of a change that ended since the last call; undefined: none failed. */
  takeProblem(): string | undefined {
    const problem = this.#problem;
    this.#problem = undefined;
    return problem;
  }

  /** Begins what is missing. Pools that `lent` does not name lend nobody. Returns the workers told. */
  begin(lent: PlannedState['lent'], fleet: FleetView): readonly string[] {
    if (this.#mover === undefined) return [];
    const told: string[] = [];
    for (const pool of this.#pools) {
      const wanted = lent.filter(({ from }) => from === pool.pool);
      const away = fleet.workers(pool.pool, true);
      const count = wanted.reduce((sum, { workers }) => sum + workers, 0);
      const role = count > away.length ? this.#pools.find((other) => other.pool === wanted.find(({ workers }) => workers > 0)?.to)?.role : pool.role;
      // Highest index first, as with scale-down: the lowest stay what they were begun as.
      const movers = count > away.length ? [...fleet.workers(pool.pool, false)].reverse().slice(0, count - away.length) : away.slice(0, away.length - count);
      if (role !== undefined) for (const { pool: home, index } of movers) if (this.#change(`${home}/${index}`, role)) told.push(`${home}/${index} → ${role}`);
    }
    return told;
  }

  #change(worker: string, role: WorkerRole): boolean {
    if (this.#mover === undefined || this.#changing.size >= MAX_CHANGES || this.#changing.has(worker)) return false;
    this.#changing.add(worker);
    this.#mover.changeRole(this.#model, worker, role).then(
      () => void this.#changing.delete(worker),
      (error: unknown) => {
        this.#changing.delete(worker);
        const { code, message } = ArmatureError.from(error);
        this.#problem = `${worker} did not take the role ${role}: ${message} (${code})`;
        this.#log.warn('change of a role failed', { model: this.#model, worker, role, code, reason: message });
      },
    );
    return true;
  }
}
