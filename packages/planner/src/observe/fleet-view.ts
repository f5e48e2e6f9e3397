import type { EngineReport, PassColumns, PlannedPool, PoolObservation, WorkerCapacity, WorkerRecord } from '@armature/contracts';
import { engineProblem, joinPasses } from './reports.ts';

/** Passes of one pool that are handed on per look. */
const MAX_PASSES = 512;
/** Workers whose reports are kept. */
const MAX_WORKERS = 16_384;
/** A worker silent for so many of its intervals has no known load. */
const STALE_INTERVALS = 3;
/** A worker that has left and still reports is draining; one silent for so long has ended. */
const DRAIN_SILENCE_INTERVALS = 2;
/** What one pass may hold where the worker's record does not say. */
const USUAL_SEQUENCES = 256;

interface Reported {
  report: EngineReport;
  atMs: number;
  /** Since the last look. */
  passes: PassColumns[];
}

export interface SeenFleet {
  readonly pools: readonly PoolObservation[];
  readonly problems: readonly string[];
}

/** The live workers of a model as discovery and their own reports tell of them. */
export class FleetView {
  readonly #pools: readonly PlannedPool[];
  readonly #records: Map<string, WorkerRecord>;
  readonly #reports: Map<string, Reported>;
  readonly #refused: Map<string, number>;
  /** Workers that live and take no requests, because their engine failed: why. */
  readonly #unwell: Map<string, string>;
  /** Joined since the last look: they have had no time to report, and nothing to do yet. */
  readonly #fresh: Set<string>;

  constructor(pools: readonly PlannedPool[]) {
    this.#pools = pools;
    this.#records = new Map();
    this.#reports = new Map();
    this.#refused = new Map();
    this.#unwell = new Map();
    this.#fresh = new Set();
  }

  put(record: WorkerRecord): void {
    if (!this.#records.has(record.instanceId)) this.#fresh.add(record.instanceId);
    this.#records.set(record.instanceId, record);
  }

  removed(instanceId: string): void {
    this.#records.delete(instanceId);
    this.#fresh.delete(instanceId);
    // Only what it reports from now on shows that it drains.
    this.#reports.delete(instanceId);
  }

  /** `reason` undefined: it is well again, or gone. */
  unwell(instanceId: string, reason: string | undefined): void {
    if (reason === undefined) this.#unwell.delete(instanceId);
    else this.#unwell.set(instanceId, reason);
  }

  report(report: EngineReport, nowMs: number): void {
    const problem = engineProblem(report);
    if (problem !== undefined) {
      if (this.#refused.size < 16 || this.#refused.has(problem)) this.#refused.set(problem, (this.#refused.get(problem) ?? 0) + 1);
      return;
    }
    const known = this.#reports.get(report.instanceId);
    if (known === undefined) {
      if (this.#reports.size < MAX_WORKERS) this.#reports.set(report.instanceId, { report, atMs: nowMs, passes: [report.passes] });
      return;
    }
    if (report.sequence <= known.report.sequence) return;
    known.report = report;
    known.atMs = nowMs;
    known.passes.push(report.passes);
    if (known.passes.length > MAX_PASSES) known.passes.shift();
  }

  /** Live workers by pool, whatever their role. */
  counts(): ReadonlyMap<string, number> {
    const counts = new Map(this.#pools.map(({ pool }) => [pool, 0]));
    for (const { pool } of this.#records.values()) if (counts.has(pool)) counts.set(pool, (counts.get(pool) as number) + 1);
    return counts;
  }

  /** Live workers of a pool in its own role (`lent` false) or another one, lowest index first. */
  workers(pool: string, isLent: boolean): readonly WorkerRecord[] {
    const role = this.#pools.find((planned) => planned.pool === pool)?.role;
    return [...this.#records.values()].filter((record) => record.pool === pool && (record.role !== role) === isLent).sort((a, b) => a.index - b.index);
  }

  /** `desired`: the order in force, by pool. */
  look(nowMs: number, desired: ReadonlyMap<string, number>, startupMs: (pool: PlannedPool) => number): SeenFleet {
    this.#forgetEnded(nowMs);
    const problems = [...this.#refused].map(([problem, count]) => `${count} engine reports could not be used: ${problem}`);
    this.#refused.clear();
    const known = new Set(this.#pools.map(({ pool }) => pool));
    const strangers = new Set([...this.#records.values()].map(({ pool }) => pool).filter((pool) => !known.has(pool)));
    for (const stranger of strangers) problems.push(`pool ${stranger} has live workers and is not in the plan`);
    for (const [instanceId, reason] of this.#unwell) problems.push(`worker ${instanceId} takes no requests: ${reason}`);
    const pools = this.#pools.map((pool) => this.#observe({ ...pool, startupMs: startupMs(pool) }, desired.get(pool.pool) ?? 0, nowMs, problems));
    for (const reported of this.#reports.values()) reported.passes.length = 0;
    this.#fresh.clear();
    return { pools, problems };
  }

  #observe(pool: PlannedPool, desired: number, nowMs: number, problems: string[]): PoolObservation {
    const [own, lent] = [this.workers(pool.pool, false), this.workers(pool.pool, true)];
    const here = [...own, ...this.#visitors(pool)];
    const loads = here.map(({ instanceId }) => this.#reports.get(instanceId)).filter((reported) => reported !== undefined && nowMs - reported.atMs <= STALE_INTERVALS * reported.report.intervalMs) as readonly Reported[];
    const silent = here.filter(({ instanceId }) => !this.#fresh.has(instanceId)).length - loads.filter(({ report }) => !this.#fresh.has(report.instanceId)).length;
    if (silent > 0) problems.push(`${silent} of ${here.length} workers of pool ${pool.pool} do not report their load; they are taken to be as loaded as the others`);
    const sum = (name: 'running' | 'waiting' | 'prefillTokens' | 'usedBlocks' | 'totalBlocks'): number =>
      here.length === 0 ? 0 : loads.length === 0 ? NaN : Math.round((loads.reduce((total, { report }) => total + report[name], 0) * (loads.length + silent)) / loads.length);
    const live = own.length + lent.length;
    if (live > desired) problems.push(`pool ${pool.pool} has ${live} live workers where ${desired} are ordered`);
    const capacity = capacityOf(own[0] ?? lent[0]) ?? pool.capacity;
    const roleChange = (own[0] ?? lent[0])?.roleChange ?? pool.roleChange;
    return {
      ...pool,
      ...(capacity === undefined ? {} : { capacity }),
      roleChange,
      desired,
      ready: own.length,
      starting: Math.max(0, desired - live),
      draining: this.#draining(pool.pool),
      lent: lent.length,
      running: sum('running'),
      waiting: sum('waiting'),
      prefillTokens: sum('prefillTokens'),
      usedBlocks: sum('usedBlocks'),
      totalBlocks: sum('totalBlocks'),
      passes: joinPasses([...own, ...lent].flatMap(({ instanceId }) => this.#reports.get(instanceId)?.passes ?? []), MAX_PASSES),
    };
  }

  /** Workers of other pools that have taken this one's role; with several pools of a role they count for the first. */
  #visitors({ pool, role }: PlannedPool): WorkerRecord[] {
    if (this.#pools.find((other) => other.role === role)?.pool !== pool) return [];
    const homes = new Map(this.#pools.map((home) => [home.pool, home.role]));
    return [...this.#records.values()].filter((record) => record.pool !== pool && record.role === role && homes.has(record.pool) && homes.get(record.pool) !== role);
  }

  #draining(pool: string): number {
    let count = 0;
    for (const instanceId of this.#reports.keys()) if (!this.#records.has(instanceId) && !this.#unwell.has(instanceId) && instanceId.startsWith(`${pool}/`)) count++;
    return count;
  }

  #forgetEnded(nowMs: number): void {
    for (const [instanceId, { report, atMs }] of this.#reports) {
      if (!this.#records.has(instanceId) && nowMs - atMs > DRAIN_SILENCE_INTERVALS * report.intervalMs) this.#reports.delete(instanceId);
    }
  }
}

function capacityOf(record: WorkerRecord | undefined): WorkerCapacity | undefined {
  if (record === undefined) return undefined;
  const { totalBlocks, blockSize, maxBatchedTokens, maxSequences } = record;
  return { kvTokens: totalBlocks * blockSize, maxSequences: maxSequences ?? USUAL_SEQUENCES, maxBatchedTokens };
}
