import { boot, CoreToken } from '@armature/core';
import type { App, BootOptions, VirtualClock } from '@armature/core';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, ModelDirectory, ModelHandle, PluginDescriptor } from '@armature/contracts';
import { deployment } from '@armature/serving';
import type { ServingDeployment } from '@armature/serving';
import type { SimulatedConfig, SimulatedPool } from './cluster-config.ts';
import { FleetHours } from './fleet-hours.ts';
import type { PoolHours } from './fleet-hours.ts';
import type { SimulationSettings } from './settings.ts';
import { SimulatedScaling, simulatedScaling } from './scaling.ts';
import { simulatedPreprocessor } from './simulated-preprocessor.ts';
import { SimulatedRequests } from './simulated-requests.ts';
import { SimulatedTiers } from './simulated-tiers.ts';
import type { TierSummary } from './simulated-tiers.ts';
import { SimulatedTransport } from './simulated-transport.ts';
import { WorkerClock } from './worker-clock.ts';

export interface ClusterOptions {
  readonly config: SimulatedConfig;
  readonly settings: SimulationSettings;
  readonly clock: VirtualClock;
  readonly seed: number;
  /** Those that the configuration may name. */
  readonly plugins: readonly PluginDescriptor[];
  readonly log: Logger;
}

interface Living {
  readonly pool: SimulatedPool;
  readonly index: number;
  /** It drains. */
  isLeaving?: boolean;
  readonly clock: WorkerClock | undefined;
}

const DRAIN_MS = 180_000;
const [HIGH_WATER, MOST_BUFFERED] = [1_048_576, 16_777_216];

/** The production deployment in one process, with simulated engines, links and clocks. Workers are started and ended one by one. */
export class SimulatedCluster {
  readonly #options: ClusterOptions;
  readonly #requests: SimulatedRequests;
  readonly #transport: SimulatedTransport;
  readonly #tiers: SimulatedTiers;
  readonly #app: App;
  readonly #workers: Map<string, Living>;
  readonly #clocks: Map<string, WorkerClock>;
  readonly #hours: FleetHours;

  private constructor(options: ClusterOptions, app: App, planes: { readonly requests: SimulatedRequests; readonly transport: SimulatedTransport; readonly tiers: SimulatedTiers; readonly clocks: Map<string, WorkerClock> }) {
    this.#options = options;
    this.#app = app;
    this.#requests = planes.requests;
    this.#transport = planes.transport;
    this.#tiers = planes.tiers;
    this.#clocks = planes.clocks;
    this.#workers = new Map();
    this.#hours = new FleetHours(options.config.pools, options.clock.nowMs());
  }

  /** Starts everything; the workers of the file are there when it resolves, and no time of theirs is charged before. */
  static async start(options: ClusterOptions): Promise<SimulatedCluster> {
    const { config, settings, clock, seed, plugins, log } = options;
    const { network } = settings;
    const poolOf = (worker: string): SimulatedPool | undefined => config.pools.find(({ model, pool }) => worker.startsWith(`${model}/${pool}/`));
    const bytesPerBlock = (worker: string): number => (poolOf(worker)?.blockSize ?? 1) * network.kvBytesPerToken;
    const links = new Map(network.links.map((link) => [`${link.from} ${link.to}`, link]));
    const requests = new SimulatedRequests({
      plane: { encode: false, codec: undefined as never, clock, log, highWaterMessages: HIGH_WATER, maxBufferedMessages: MOST_BUFFERED },
      linkOf: () => network.requests,
      detectMs: network.detectMs,
    });
    const transport = new SimulatedTransport({
      clock,
      linkOf: (from, to) => (from === to ? settings.tiers.host : (links.get(`${poolOf(from)?.pool} ${poolOf(to)?.pool}`) ?? network.transfer)),
      scale: bytesPerBlock,
    });
    const tiers = new SimulatedTiers({ clock, models: settings.tiers, bytesPerBlock });
    const clocks = new Map<string, WorkerClock>();
    const scaling = new SimulatedScaling(config.pools, log);
    const app = await boot({
      configText: config.text,
      root: deployment as BootOptions['root'],
      builtins: [...plugins, simulatedPreprocessor as unknown as PluginDescriptor, simulatedScaling(scaling), tiers.plugin()],
      clock,
      random: seed,
      logger: log,
      processMetrics: false,
      overrides: ({ kind }) => (kind === 'process' ? { 'request-plane': requests, 'transfer-transport': transport } : undefined),
      configureScope: (container, { kind, name }) => {
        if (kind !== 'worker') return;
        const own = new WorkerClock(clock);
        clocks.set(name, own);
        container.register<Clock>(CoreToken.clock, { useValue: own });
      },
    });
    await clock.runUntilSettled(app.start());
    const cluster = new SimulatedCluster(options, app, { requests, transport, tiers, clocks });
    const all = config.pools.flatMap((pool) => Array.from({ length: pool.replicas }, (_, i) => cluster.startWorker(pool, i)));
    await clock.runUntilSettled(Promise.all(all));
    cluster.#hours.begin(clock.nowMs());
    scaling.attach(cluster);
    return cluster;
  }

  get pools(): readonly SimulatedPool[] {
    return this.#options.config.pools;
  }

  get movedBytes(): number {
    return this.#transport.bytes;
  }

  tiers(): TierSummary[] {
    return this.#tiers.summary();
  }

  model(name: string): ModelHandle {
    const handle = (this.#app.deployment as unknown as ModelDirectory).get(name);
    if (handle === undefined) throw new ArmatureError('SIMULATION_NO_MODEL', `there is no model "${name}"`, { hint: this.pools.map(({ model }) => model).join(', ') });
    return handle;
  }

  /** Workers that were ordered and are not gone, by pool. */
  counts(): Record<string, number> {
    const counts: Record<string, number> = Object.fromEntries(this.pools.map(({ pool }) => [pool, 0]));
    for (const { pool } of this.#workers.values()) counts[pool.pool]++;
    return counts;
  }

  /** Workers that live, in the order of their start. */
  workers(): readonly { readonly pool: SimulatedPool; readonly index: number }[] {
    return [...this.#workers.values()];
  }

  /** Indexes of a pool's workers that are not leaving. */
  staying(pool: SimulatedPool): number[] {
    return [...this.#workers.values()].filter((worker) => worker.pool === pool && worker.isLeaving !== true).map(({ index }) => index);
  }

  isTaken(pool: SimulatedPool, index: number): boolean {
    return this.#workers.has(keyOf(pool, index));
  }

  hours(): PoolHours[] {
    return this.#hours.summary(this.#options.clock.nowMs());
  }

  /** Resolves when it serves; its start-up is the engine's. */
  async startWorker(pool: SimulatedPool, index: number): Promise<void> {
    const key = keyOf(pool, index);
    if (this.#workers.has(key)) return;
    this.#hours.ordered(pool.model, pool.pool, this.#options.clock.nowMs());
    this.#workers.set(key, { pool, index, clock: undefined });
    await this.#deployment().startWorker(pool.model, pool.pool, index);
    this.#workers.set(key, { pool, index, clock: this.#clocks.get(`${pool.pool}/${index}`) });
  }

  /** Drained, then gone. */
  async stopWorker(pool: SimulatedPool, index: number, deadlineMs = DRAIN_MS): Promise<void> {
    const worker = this.#workers.get(keyOf(pool, index));
    if (worker === undefined || worker.isLeaving === true) return;
    worker.isLeaving = true;
    await this.#deployment().stopWorker(pool.model, pool.pool, index, deadlineMs);
    this.#gone(pool, index);
  }

  /** Its process is gone at once: connections are reset, nothing of it runs any more. */
  async kill(pool: SimulatedPool, index: number): Promise<void> {
    const worker = this.#workers.get(keyOf(pool, index));
    if (worker === undefined) return;
    const endpoint = this.#endpointOf(pool, index);
    worker.clock?.kill();
    if (endpoint !== undefined) this.#requests.reset(endpoint);
    this.#gone(pool, index);
    await this.#deployment().stopWorker(pool.model, pool.pool, index, 0);
  }

  /** Nothing reaches it, and with `isStopped` nothing of it runs, until the returned function is called. */
  cut(pool: SimulatedPool, index: number, isStopped: boolean): () => void {
    const worker = this.#workers.get(keyOf(pool, index));
    const endpoint = this.#endpointOf(pool, index);
    if (worker === undefined || endpoint === undefined) return () => undefined;
    this.#requests.cut(endpoint);
    if (isStopped) worker.clock?.stop();
    return () => {
      worker.clock?.resume();
      this.#requests.mend(endpoint);
    };
  }

  hasDisk(pool: SimulatedPool, index: number): boolean {
    return this.#tiers.disk(keyOf(pool, index)) !== undefined;
  }

  /** Its disk is so many times as slow, or without a number fails, until the returned function is called. */
  hurtDisk(pool: SimulatedPool, index: number, slowdown: number | undefined): () => void {
    const disk = this.#tiers.disk(keyOf(pool, index));
    if (disk === undefined) return () => undefined;
    if (slowdown === undefined) disk.isBroken = true;
    else disk.slowdown = slowdown;
    return () => {
      disk.isBroken = false;
      disk.slowdown = 1;
    };
  }

  /** Sum over all labels of some counters of the deployment. */
  async counters(names: readonly string[]): Promise<Record<string, number>> {
    const lines = (await this.#app.metrics.text()).split('\n');
    return Object.fromEntries(
      names.map((name) => [name, lines.filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `)).reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)]),
    );
  }

  async close(): Promise<void> {
    await this.#options.clock.runUntilSettled(this.#app.close(1_000));
  }

  #gone(pool: SimulatedPool, index: number): void {
    this.#workers.delete(keyOf(pool, index));
    this.#hours.gone(pool.model, pool.pool, this.#options.clock.nowMs());
  }

  #deployment(): ServingDeployment {
    return this.#app.deployment as unknown as ServingDeployment;
  }

  #endpointOf(pool: SimulatedPool, index: number): string | undefined {
    const local = this.#deployment().localWorkers(pool.model).find((worker) => worker.pool === pool.pool && worker.index === index);
    return local?.host.record?.address.replace(/^memory:/, '');
  }
}

function keyOf({ model, pool }: SimulatedPool, index: number): string {
  return `${model}/${pool}/${index}`;
}
