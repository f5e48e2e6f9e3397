import type { Clock, Logger, Random } from '@armature/contracts';
import type { SimulatedPool } from './cluster-config.ts';
import type { SimulatedCluster } from './cluster.ts';
import type { FaultModel } from './settings.ts';

export interface FaultRecord {
  readonly atMs: number;
  readonly kind: FaultModel['kind'];
  readonly worker: string;
}

/** Breaks workers by plan or by a seeded rate, and mends them. */
export class Faults {
  readonly #cluster: SimulatedCluster;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #log: Logger;
  readonly #startMs: number;
  readonly records: FaultRecord[];
  /** Faults that last, by what they hurt of which worker: one at a time of each. */
  readonly #lasting: Set<string>;
  #isOver: boolean;

  constructor(faults: readonly FaultModel[], options: { readonly cluster: SimulatedCluster; readonly clock: Clock; readonly random: Random; readonly log: Logger }) {
    this.#cluster = options.cluster;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#log = options.log;
    this.#startMs = this.#clock.nowMs();
    this.records = [];
    this.#lasting = new Set();
    this.#isOver = false;
    for (const fault of faults) {
      if (fault.atMs !== undefined) this.#clock.setTimer(fault.atMs, () => this.#strike(fault));
      else this.#again(fault, (3_600_000 / (fault.perHour ?? 1)));
    }
  }

  /** No further ones. */
  end(): void {
    this.#isOver = true;
  }

  #again(fault: FaultModel, meanMs: number): void {
    this.#clock.setTimer(-Math.log(1 - this.#random.next()) * meanMs, () => {
      if (this.#isOver) return;
      this.#strike(fault);
      this.#again(fault, meanMs);
    });
  }

  #strike(fault: FaultModel): void {
    if (this.#isOver) return;
    const candidates = this.#cluster.workers().filter(
      ({ pool, index }) =>
        (fault.worker === undefined || fault.worker === `${pool.pool}/${index}`) &&
        (fault.pool === undefined || fault.pool === pool.pool) &&
        (fault.kind === 'kill' || !this.#lasting.has(keyOf(fault, pool, index))) &&
        (fault.kind !== 'disk' || this.#cluster.hasDisk(pool, index)),
    );
    if (candidates.length === 0) return;
    const { pool, index } = candidates[this.#random.below(candidates.length)];
    this.records.push({ atMs: this.#clock.nowMs() - this.#startMs, kind: fault.kind, worker: `${pool.pool}/${index}` });
    if (fault.kind === 'kill') {
      this.#watch(this.#cluster.kill(pool, index));
      if (fault.restartMs !== undefined) this.#clock.setTimer(fault.restartMs, () => this.#watch(this.#cluster.startWorker(pool, index)));
      return;
    }
    const mend = fault.kind === 'disk' ? this.#cluster.hurtDisk(pool, index, fault.slowdown) : this.#cluster.cut(pool, index, fault.kind === 'stop');
    const key = keyOf(fault, pool, index);
    this.#lasting.add(key);
    this.#clock.setTimer(fault.durationMs, () => {
      this.#lasting.delete(key);
      mend();
    });
  }

  #watch(work: Promise<void>): void {
    work.catch((error: unknown) => this.#log.warn('a simulated fault could not be carried out', { error: String(error) }));
  }
}

/** Stopped and cut off are told apart from a hurt disk, not from each other: both cut the same links. */
function keyOf({ kind }: FaultModel, { model, pool }: SimulatedPool, index: number): string {
  return `${kind === 'disk' ? 'disk' : 'links'} ${model}/${pool}/${index}`;
}
