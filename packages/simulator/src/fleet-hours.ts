import type { SimulatedPool } from './cluster-config.ts';

export interface PoolHours {
  readonly pool: string;
  readonly hardware: string;
  readonly workerHours: number;
  readonly gpuHours: number;
  readonly cost: number;
  /** Orders of workers over the run. */
  readonly started: number;
}

/** Hours of workers from their order until they are gone: start-up and drain are paid. */
export class FleetHours {
  readonly #pools: readonly SimulatedPool[];
  readonly #hours: { ms: number; started: number }[];
  readonly #living: Map<string, number>;
  #untilMs: number;

  constructor(pools: readonly SimulatedPool[], nowMs: number) {
    this.#pools = pools;
    this.#hours = pools.map(() => ({ ms: 0, started: 0 }));
    this.#living = new Map();
    this.#untilMs = nowMs;
  }

  /** What was before is free of charge. */
  begin(nowMs: number): void {
    this.#pass(nowMs);
    for (const entry of this.#hours) entry.ms = 0;
  }

  ordered(model: string, pool: string, nowMs: number): void {
    this.#pass(nowMs);
    this.#count(model, pool, 1);
    this.#hours[this.#at(model, pool)].started++;
  }

  gone(model: string, pool: string, nowMs: number): void {
    this.#pass(nowMs);
    this.#count(model, pool, -1);
  }

  summary(nowMs: number): PoolHours[] {
    this.#pass(nowMs);
    return this.#pools.map(({ pool, hardware, gpusPerWorker, costPerHour }, i) => {
      const workerHours = this.#hours[i].ms / 3_600_000;
      const short = (value: number): number => Number(value.toFixed(6));
      return { pool, hardware, workerHours: short(workerHours), gpuHours: short(workerHours * gpusPerWorker), cost: short(workerHours * costPerHour), started: this.#hours[i].started };
    });
  }

  #count(model: string, pool: string, by: number): void {
    const key = `${model}/${pool}`;
    this.#living.set(key, (this.#living.get(key) ?? 0) + by);
  }

  #pass(nowMs: number): void {
    const ms = nowMs - this.#untilMs;
    this.#untilMs = nowMs;
    this.#pools.forEach(({ model, pool }, i) => {
      this.#hours[i].ms += ms * (this.#living.get(`${model}/${pool}`) ?? 0);
    });
  }

  #at(model: string, pool: string): number {
    return this.#pools.findIndex((entry) => entry.model === model && entry.pool === pool);
  }
}
