import { latencyBucketBoundsMs } from '@armature/contracts';
import type { Discovery, DiscoveryWatcher, EngineReport, EventListener, EventPlane, Forecast, Logger, Metrics, Objective, PlainData, PlannerInput, PoolObservation, Random, Registration, ScalingConnector, ScalingOrder, ScalingStatus, TrafficReport, WorkerRecord } from '@armature/contracts';
import { ArmatureError } from '@armature/contracts';
import type { ManualClock } from '@armature/contracts/testing/manual-clock';
import { noPasses } from './observe/reports.ts';
import type { InitialPool, PlannerConfig } from './planner.ts';
import { constraintDefaults } from './constrain/constraints.ts';
import { predictorDefaults } from './predict/forecaster.ts';

export const silentLog: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined, child: () => silentLog, isEnabled: () => false };

/** Counts by name and labels. */
export class CountedMetrics implements Metrics {
  readonly values = new Map<string, number>();

  counter({ name }: { readonly name: string }): ReturnType<Metrics['counter']> {
    return { with: (...labels) => ({ inc: (by = 1) => this.#add([name, ...labels].join(' '), by) }) };
  }
  gauge({ name }: { readonly name: string }): ReturnType<Metrics['gauge']> {
    return { with: (...labels) => ({ set: (value) => void this.values.set([name, ...labels].join(' '), value), add: (by) => this.#add([name, ...labels].join(' '), by) }) };
  }
  histogram(): ReturnType<Metrics['histogram']> {
    return { with: () => ({ observe: () => undefined }) };
  }
  onCollect(): () => void {
    return () => undefined;
  }
  #add(key: string, by: number): void {
    this.values.set(key, (this.values.get(key) ?? 0) + by);
  }
}

export class TestEvents implements EventPlane {
  readonly supports = { processes: false } as const;
  readonly #subscribers = new Set<{ readonly prefix: string; readonly listener: EventListener }>();

  publish(subject: string, payload: PlainData): void {
    for (const { prefix, listener } of this.#subscribers) if (subject.startsWith(prefix)) listener(subject, payload);
  }
  subscribe(prefix: string, listener: EventListener): { close(): void } {
    const entry = { prefix, listener };
    this.#subscribers.add(entry);
    return { close: () => void this.#subscribers.delete(entry) };
  }
}

/** Keys live until their owner closes them, or `lapse` takes them away. */
export class TestDiscovery implements Discovery {
  readonly supports = { processes: false } as const;
  readonly entries = new Map<string, PlainData>();
  readonly #watches = new Set<{ readonly prefix: string; readonly watcher: DiscoveryWatcher }>();

  async register(key: string, value: PlainData): Promise<Registration> {
    if (this.entries.has(key)) throw new ArmatureError('DISCOVERY_KEY_TAKEN', `${key} is taken`);
    this.put(key, value);
    return { update: async (next) => this.put(key, next), close: async () => this.lapse(key) };
  }
  async watch(prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }> {
    for (const [key, value] of this.entries) if (key.startsWith(prefix)) watcher.put({ key, value });
    watcher.synced?.();
    const entry = { prefix, watcher };
    this.#watches.add(entry);
    return { close: () => void this.#watches.delete(entry) };
  }
  put(key: string, value: PlainData): void {
    this.entries.set(key, value);
    for (const { prefix, watcher } of this.#watches) if (key.startsWith(prefix)) watcher.put({ key, value });
  }
  lapse(key: string): void {
    if (!this.entries.delete(key)) return;
    for (const { prefix, watcher } of this.#watches) if (key.startsWith(prefix)) watcher.removed(key);
  }
}

/** xorshift32: printed seeds. */
export class TestRandom implements Random {
  #state: number;
  constructor(seed: number) {
    this.#state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  }
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }
  next(): number {
    return this.u32() / 2 ** 32;
  }
  below(bound: number): number {
    return Math.floor(this.next() * bound);
  }
  fork(label: string): Random {
    return new TestRandom([...label].reduce((hash, char) => (hash * 31 + char.charCodeAt(0)) >>> 0, this.#state));
  }
}

/** Lets time pass in small steps, so that chains of promises end where they began. */
export async function pass(clock: ManualClock, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 100) {
    await clock.elapse(Math.min(100, left));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

export const objective: Objective = { goal: 'cost', ttftMs: 1_000, itlMs: 50, quantile: 0.95, maxGpus: undefined, maxCostPerHour: undefined };

export function pool(more: Partial<InitialPool> = {}): InitialPool {
  return { pool: 'all', role: 'both', hardware: 'default', gpusPerWorker: 1, costPerHour: 2, roleChange: 'live', minReplicas: 1, maxReplicas: 10, startupMs: 5_000, replicas: 2, ...more };
}

export function seen(more: Partial<PoolObservation> = {}): PoolObservation {
  const { replicas: _replicas, ...facts } = pool();
  return { ...facts, desired: 2, ready: 2, starting: 0, draining: 0, lent: 0, running: 0, waiting: 0, prefillTokens: 0, usedBlocks: 0, totalBlocks: 1_000, passes: noPasses, ...more };
}

const around = (mean: number): Forecast['hitRate'] => ({ mean, low: mean * 0.9, high: mean * 1.1 });

export function input(pools: readonly PoolObservation[], more: { readonly objective?: Partial<Objective>; readonly rate?: number; readonly promptTokens?: number; readonly outputTokens?: number; readonly hitRate?: number; readonly atMs?: number } = {}): PlannerInput {
  const { rate = 1, promptTokens = 1_000, outputTokens = 100, hitRate = 0, atMs = 0 } = more;
  const traffic = { requestsPerSecond: rate, promptTokens, hitRate, outputTokens, queued: 0, finishedPerSecond: rate, failedPerSecond: 0, ttftMs: 100, itlMs: 10, attainment: 1 };
  return {
    observation: { model: 'm', tick: 0, atMs, intervalMs: 1_000, traffic, pools, thresholdTokens: undefined, problems: [] },
    forecast: { horizonMs: 4_000, requestsPerSecond: around(rate), promptTokens: around(promptTokens), outputTokens: around(outputTokens), hitRate: around(hitRate) },
    objective: { ...objective, ...more.objective },
  };
}

export function trafficReport(more: Partial<TrafficReport> = {}): TrafficReport {
  const counts = { arrived: 10, arrivedPromptTokens: 1_000, finished: 10, failed: 0, promptTokens: 1_000, cachedTokens: 250, outputTokens: 500, generatedTokens: 600, remotePrefills: 0, queued: 0, withinObjective: 9 };
  return { model: 'm', source: 'f', sequence: 1, intervalMs: 1_000, ...counts, ttft: new Uint32Array(latencyBucketBoundsMs.length), itl: new Uint32Array(latencyBucketBoundsMs.length), ...more };
}

export function engineReport(instanceId: string, more: Partial<EngineReport> = {}): EngineReport {
  return { model: 'm', instanceId, sequence: 1, intervalMs: 1_000, running: 4, waiting: 1, prefillTokens: 100, usedBlocks: 10, totalBlocks: 100, passes: noPasses, ...more };
}

export function worker(poolName: string, index: number, more: Partial<WorkerRecord> = {}): WorkerRecord {
  return { instanceId: `${poolName}/${index}@a`, model: 'm', pool: poolName, index, dpRank: 0, role: 'both', address: '', engine: 'mock', hardware: 'default', costPerHour: 2, taints: [], blockSize: 16, totalBlocks: 100, maxModelTokens: 4_096, maxBatchedTokens: 2_048, maxSequences: 8, firstToken: 'prefill', modelFingerprint: '', kvEvents: true, layoutFingerprint: '', agentMetadata: new Uint8Array(0), protocol: 1, ...more };
}

export function config(more: Partial<PlannerConfig> = {}): PlannerConfig {
  return { intervalMs: 1_000, horizonMs: 4_000, objective, predictor: predictorDefaults, constraints: constraintDefaults, connectorDeadlineMs: 500, ticks: 64, pools: [pool()], ...more };
}

/**
 * An outside that obeys: workers of the only pool come `startupMs` after an order and go at once, each with `capacity` seats. `load` says how many requests
 * there are; each tick of the clock's second it is reported. Survives its planner.
 */
export class TestOutside implements ScalingConnector {
  readonly clock: ManualClock;
  readonly discovery = new TestDiscovery();
  readonly events = new TestEvents();
  readonly orders: ScalingOrder[] = [];
  load = 4;
  capacity = 8;
  /** More workers never come. */
  limit = Infinity;
  said: ScalingStatus | undefined = undefined;
  fail: (() => Promise<void>) | undefined = undefined;
  #lives = 0;
  #sequence = 0;
  #order: ScalingOrder | undefined = undefined;
  readonly #live = new Map<number, string>();
  readonly #poolName: string;
  readonly #startupMs: number;

  constructor(clock: ManualClock, options: { readonly pool?: string; readonly startupMs?: number } = {}) {
    this.clock = clock;
    this.#poolName = options.pool ?? 'all';
    this.#startupMs = options.startupMs ?? 2_000;
    const beat = (): void => {
      this.#report();
      clock.setTimer(1_000, beat);
    };
    clock.setTimer(999, beat); // before the planner's tick of the same second
  }

  get workers(): number {
    return this.#live.size;
  }

  async apply(order: ScalingOrder): Promise<void> {
    await this.fail?.();
    this.orders.push(order);
    this.#order = order;
    const wanted = order.pools.find(({ pool: name }) => name === this.#poolName)?.replicas ?? 0;
    for (const index of [...this.#live.keys()].sort((a, b) => b - a)) if (index >= wanted) this.kill(index);
    for (let index = 0; index < wanted; index++) if (!this.#live.has(index)) this.clock.setTimer(this.#startupMs, () => this.#join(index));
  }

  status(): ScalingStatus {
    return this.said ?? { revision: this.#order?.revision ?? 0, state: 'unknown' };
  }

  async current(): Promise<ScalingOrder | undefined> {
    return this.#order;
  }

  kill(index: number): void {
    const instanceId = this.#live.get(index);
    this.#live.delete(index);
    if (instanceId !== undefined) this.discovery.lapse(`workers/m/${instanceId}`);
  }

  #join(index: number): void {
    if (this.#live.has(index) || this.#live.size >= this.limit || index >= (this.#order?.pools[0]?.replicas ?? 0)) return;
    const record = worker(this.#poolName, index, { instanceId: `${this.#poolName}/${index}@${++this.#lives}` });
    this.#live.set(index, record.instanceId);
    this.discovery.put(`workers/m/${record.instanceId}`, record as unknown as PlainData);
  }

  #report(): void {
    this.#sequence++;
    this.events.publish('traffic/m', trafficReport({ sequence: this.#sequence, arrived: this.load, finished: this.load }) as unknown as PlainData);
    const each = Math.ceil(this.load / Math.max(1, this.workers));
    for (const instanceId of this.#live.values()) {
      const running = Math.min(this.capacity, each);
      this.events.publish('engine/m', engineReport(instanceId, { sequence: this.#sequence, running, waiting: each - running, usedBlocks: 0, prefillTokens: 0 }) as unknown as PlainData);
    }
  }
}
