import type { PoolObservation, ScalingStatus } from '@armature/contracts';

interface Waiting {
  readonly desired: number;
  readonly live: number;
  readonly sinceMs: number;
}

export interface Progress {
  readonly problems: readonly string[];
  /** Pools whose ordered workers do not come. */
  readonly stuck: ReadonlySet<string>;
}

/** A pool is stuck when nothing has come for so many start-ups, and this long. */
const [STUCK_STARTUPS, STUCK_MS] = [3, 30_000];

/** Compares desired and observed, tick for tick: the planner never believes its own order. */
export class OrderProgress {
  readonly #waiting: Map<string, Waiting>;

  constructor() {
    this.#waiting = new Map();
  }

  look(pools: readonly PoolObservation[], atMs: number, status: ScalingStatus): Progress {
    const problems: string[] = [];
    const stuck = new Set<string>();
    for (const { pool, desired, ready, lent, startupMs } of pools) {
      const live = ready + lent;
      const before = this.#waiting.get(pool);
      const isSame = before !== undefined && before.desired === desired && (live < desired ? live <= before.live : live >= before.live);
      const waiting = live === desired ? undefined : isSame ? before : { desired, live, sinceMs: atMs };
      if (waiting === undefined) {
        this.#waiting.delete(pool);
        continue;
      }
      this.#waiting.set(pool, waiting);
      const sinceMs = atMs - waiting.sinceMs;
      const limitMs = Math.max(STUCK_MS, STUCK_STARTUPS * startupMs);
      if (live < desired && (sinceMs > limitMs || status.state === 'failed')) {
        stuck.add(pool);
        problems.push(`stuck: ${desired - live} of ${desired} workers of pool ${pool} have not come for ${Math.round(sinceMs / 1000)} s; ${saidOf(status)}`);
      } else if (live > desired && sinceMs > limitMs) problems.push(`stuck: ${live - desired} workers of pool ${pool} more than ordered have not gone for ${Math.round(sinceMs / 1000)} s; ${saidOf(status)}`);
      else if (live < desired && status.state === 'done' && sinceMs > startupMs) problems.push(`the connector says that order ${status.revision} is done, and ${live} of ${desired} workers of pool ${pool} are seen`);
    }
    return { problems, stuck };
  }
}

function saidOf({ state, revision, reason }: ScalingStatus): string {
  if (reason !== undefined) return `the connector says: ${reason}`;
  return state === 'unknown' ? 'the connector does not say why' : `the connector says ${state} of order ${revision}, not why`;
}
