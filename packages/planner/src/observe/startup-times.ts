import type { PlannedPool } from '@armature/contracts';

/** Starts that are remembered per pool. */
const REMEMBERED = 8;

interface PoolStarts {
  /** Orders that no worker has answered yet, oldest first. */
  readonly open: number[];
  readonly tookMs: number[];
}

/** From order to first sight of a worker: measured, as configured before the first one came. */
export class StartupTimes {
  readonly #pools: Map<string, PoolStarts>;
  readonly #seen: Set<string>;

  constructor(pools: readonly PlannedPool[]) {
    this.#pools = new Map(pools.map(({ pool }) => [pool, { open: [], tookMs: [] }]));
    this.#seen = new Set();
  }

  /** `added` below 0: so many orders were taken back, the newest ones. */
  ordered(pool: string, added: number, nowMs: number): void {
    const starts = this.#pools.get(pool);
    if (starts === undefined) return;
    for (let i = 0; i < added; i++) starts.open.push(nowMs);
    if (added < 0) starts.open.splice(Math.max(0, starts.open.length + added));
  }

  joined(pool: string, instanceId: string, nowMs: number): void {
    const starts = this.#pools.get(pool);
    if (starts === undefined || this.#seen.has(instanceId)) return;
    this.#seen.add(instanceId);
    const since = starts.open.shift();
    if (since === undefined) return;
    starts.tookMs.push(nowMs - since);
    if (starts.tookMs.length > REMEMBERED) starts.tookMs.shift();
  }

  left(instanceId: string): void {
    this.#seen.delete(instanceId);
  }

  /** The mean of the last ones. */
  of({ pool, startupMs }: PlannedPool): number {
    const took = this.#pools.get(pool)?.tookMs ?? [];
    return took.length === 0 ? startupMs : took.reduce((sum, ms) => sum + ms, 0) / took.length;
  }
}
