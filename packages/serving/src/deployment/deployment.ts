import { ArmatureError } from '@armature/contracts';
import type {
  Deployment,
  DeploymentContext,
  DeploymentSummary,
  EngineBackend,
  HttpListener,
  ModelDirectory,
  ModelFacts,
  ModelHandle,
  PlainData,
  Random,
  Scope,
} from '@armature/contracts';
import { ModelRuntime } from '../execution/model-runtime.ts';
import { RequestRecords } from '../routing/records.ts';
import { telemetryDefaults } from '../telemetry/schema.ts';
import { WorkerHost } from '../worker/worker-host.ts';
import type { WorkerHostOptions, WorkerKv } from '../worker/worker-host.ts';
import { listenAdmin, mountRoutes } from './admin.ts';
import { startsWorkers } from './planner-schema.ts';
import { objectiveOf, Planners } from './planners.ts';
import { resolveModelFolder } from './model-source.ts';
import type { DeploymentConfig, HardwareConfig, ModelConfig, WorkerConfig } from './schema.ts';
import { openWorkerKv } from './worker-kv.ts';
import type { WorkerTiers } from './worker-kv.ts';

const CLOSE_DEADLINE_MS = 10_000;
/** Beyond its own time for a pull a decode worker needs some to end the lease and say so. */
const TRANSFER_GRACE_MS = 5_000;
const DEFAULT_HARDWARE: HardwareConfig = { costPerHour: 1, gpus: 1, prefillSpeed: 1, decodeSpeed: 1 };

interface RunningModel {
  readonly config: ModelConfig;
  readonly scope: Scope;
  readonly runtime: ModelRuntime;
  readonly workers: RunningWorker[];
}

interface RunningWorker {
  readonly index: number;
  readonly host: WorkerHost;
  readonly scope: Scope;
  readonly config: WorkerConfig;
}

/** A worker of this process. */
export interface LocalWorker {
  readonly pool: string;
  readonly index: number;
  readonly host: WorkerHost;
}

/** The composition root: opens a scope per model and per worker, starts them, then the frontend. */
export class ServingDeployment implements Deployment, ModelDirectory {
  readonly #config: DeploymentConfig;
  readonly #context: DeploymentContext;
  readonly #models = new Map<string, RunningModel>();
  readonly #records: RequestRecords;
  /** Incarnations of each worker, by model, pool and index: a worker that starts again is another one. */
  readonly #lives = new Map<string, Random>();
  #url: string | undefined;
  #adminUrl: string | undefined;
  #admin: HttpListener | undefined;
  #planners: Planners | undefined;
  #isClosed = false;

  constructor(config: DeploymentConfig, context: DeploymentContext) {
    this.#config = config;
    this.#context = context;
    this.#records = new RequestRecords(config.records);
  }

  list(): readonly ModelHandle[] {
    const handles = new Map<string, ModelHandle>();
    for (const { runtime } of this.#models.values()) {
      handles.set(runtime.name, runtime);
      for (const adapter of runtime.adapters.list()) if (this.get(adapter.name) === adapter) handles.set(adapter.name, adapter);
    }
    return [...handles.values()];
  }

  /** A model goes before an adapter of that name; of two adapters that of the model named first in the file. */
  get(name: string): ModelHandle | undefined {
    const model = this.#models.get(name)?.runtime;
    if (model !== undefined) return model;
    for (const { runtime } of this.#models.values()) {
      const adapter = runtime.adapters.get(name);
      if (adapter !== undefined) return adapter;
    }
    return undefined;
  }

  /** Who else than the adapter of this model answers to its name. */
  #alsoNamed(model: string, adapter: string): string | undefined {
    if (this.#models.has(adapter)) return `model "${adapter}"`;
    for (const { runtime } of this.#models.values()) {
      if (runtime.name !== model && runtime.adapters.get(adapter) !== undefined) return `adapter of model "${runtime.name}"`;
    }
    return undefined;
  }

  /** Workers that this process runs, those included that start or drain. */
  localWorkers(model: string): readonly LocalWorker[] {
    return this.#running(model).workers.map(({ config, index, host }) => ({ pool: config.name, index, host }));
  }

  /** Starts one more worker of a pool in this process; resolves when it serves. Throws `SERVING_WORKER_UNKNOWN`, or why it could not start. */
  async startWorker(model: string, pool: string, index: number): Promise<WorkerHost> {
    const running = this.#running(model);
    const config = running.config.workers.find(({ name }) => name === pool);
    const isTaken = running.workers.some((worker) => worker.config === config && worker.index === index);
    if (config === undefined || isTaken) {
      const message = isTaken ? `worker ${pool}/${index} of model "${model}" runs already` : `model "${model}" has no worker pool "${pool}"`;
      throw new ArmatureError('SERVING_WORKER_UNKNOWN', message, { hint: `its pools: ${running.config.workers.map(({ name }) => name).join(', ')}` });
    }
    const before = new Set(running.workers);
    try {
      return (await this.#startWorker(running, config, index)).host;
    } catch (error) {
      const failed = running.workers.find((worker) => !before.has(worker) && worker.config === config && worker.index === index);
      if (failed !== undefined) await this.#endWorker(running, failed, 0);
      throw error;
    }
  }

  /** Ends one worker of this process: it leaves discovery, its requests get `deadlineMs` to end, then move on. Throws `SERVING_WORKER_UNKNOWN`. */
  async stopWorker(model: string, pool: string, index: number, deadlineMs: number): Promise<void> {
    const running = this.#running(model);
    const worker = running.workers.find(({ config, index: at }) => config.name === pool && at === index);
    if (worker === undefined) {
      throw new ArmatureError('SERVING_WORKER_UNKNOWN', `worker ${pool}/${index} of model "${model}" does not run in this process`, { hint: 'armature workers lists those that live' });
    }
    await this.#endWorker(running, worker, deadlineMs);
  }

  async #endWorker(model: RunningModel, worker: RunningWorker, deadlineMs: number): Promise<void> {
    await worker.host.close(deadlineMs);
    await worker.scope.close(CLOSE_DEADLINE_MS);
    const at = model.workers.indexOf(worker);
    if (at !== -1) model.workers.splice(at, 1);
  }

  #running(model: string): RunningModel {
    const running = this.#models.get(model);
    if (running !== undefined) return running;
    throw new ArmatureError('SERVING_WORKER_UNKNOWN', `this process has no model "${model}"`, { hint: `it has: ${[...this.#models.keys()].join(', ')}` });
  }

  /** Workers first, then listeners: a client never meets a half-started server. On failure everything is closed again. */
  async start(): Promise<void> {
    try {
      for (const model of this.#isPlannerOnly() ? [] : this.#config.models) await this.#startModel(model);
      await this.#startListeners();
      await this.#startPlanners();
      this.#context.health.set('deployment', 'ready');
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** The edge first: no new requests, running streams end; then the workers, which by now have nothing to do. */
  async drain(deadlineMs: number): Promise<void> {
    const { clock, health } = this.#context;
    const untilMs = clock.nowMs() + deadlineMs;
    health.set('deployment', 'draining');
    await this.#planners?.close();
    for (const model of this.#models.values()) model.runtime.stopQueue();
    if (this.#config.frontend !== undefined) await this.#context.instance(this.#config.frontend).drain?.(deadlineMs);
    for (const model of this.#models.values()) {
      await Promise.all(model.workers.map((worker) => worker.host.close(Math.max(0, untilMs - clock.nowMs()))));
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#planners?.close();
    await this.#admin?.close(0);
    for (const model of [...this.#models.values()].reverse()) {
      for (const worker of model.workers) await worker.host.close(0);
      model.runtime.close();
      await model.scope.close(CLOSE_DEADLINE_MS);
    }
    this.#models.clear();
  }

  summary(): DeploymentSummary {
    return {
      url: this.#url,
      adminUrl: this.#adminUrl,
      models: [...this.#models.values()].map((model) => ({
        name: model.config.name,
        source: model.config.source,
        workers: model.workers.map((worker) => ({
          name: `${worker.config.name}/${worker.host.record?.index ?? 0}`,
          role: worker.host.role,
          engine: worker.config.engine.use,
        })),
      })),
    };
  }

  async #startModel(config: ModelConfig): Promise<void> {
    const context = this.#context;
    const folder = resolveModelFolder(config.source, context.baseDir);
    const facts: ModelFacts = { name: config.name, source: config.source, folder, blockSize: config.blockSize };
    const scope = await context.openScope(config, { kind: 'model', name: config.name, facts: facts as unknown as Record<string, PlainData> });
    const runtime = this.#buildRuntime(config, scope);
    const model: RunningModel = { config, scope, runtime, workers: [] };
    this.#models.set(config.name, model);
    await scope.start();
    if (this.#routes(config)) await runtime.start();
    if (!startsWorkers(this.#config, config.name)) return;
    for (const worker of config.workers) {
      for (let i = 0; i < worker.replicas; i++) await this.#startWorker(model, worker, worker.firstIndex + i);
    }
  }

  /** It opens no model: it needs their names and pools only. */
  #isPlannerOnly(): boolean {
    return this.#config.planner?.alone === true && this.#config.frontend === undefined;
  }

  async #startPlanners(): Promise<void> {
    const { planner } = this.#config;
    if (planner === undefined) return;
    this.#planners = new Planners(this.#config, planner, this.#context);
    await this.#planners.start();
  }

  /** Reports of traffic and load; where there is a planner they are on. */
  #telemetryMs(): number | undefined {
    const { telemetry, planner } = this.#config;
    return telemetry?.intervalMs ?? (planner === undefined ? undefined : telemetryDefaults.intervalMs);
  }

  /** Whether requests for the model can come into this process; a process that only runs workers follows nobody. */
  #routes(config: ModelConfig): boolean {
    const { frontend, requests } = this.#config;
    return frontend !== undefined || config.workers.length === 0 || !this.#context.instance(requests).supports.processes;
  }

  #buildRuntime(config: ModelConfig, scope: Scope): ModelRuntime {
    const context = this.#context;
    const intervalMs = this.#telemetryMs();
    return new ModelRuntime({
      name: config.name,
      preprocessor: scope.instance(config.preprocessor),
      routerId: context.random.fork(`router-id/${config.name}`).u32().toString(16).padStart(8, '0'),
      blockSize: config.blockSize,
      adapters: config.adapters,
      alsoNamed: (adapter) => this.#alsoNamed(config.name, adapter),
      telemetry: intervalMs === undefined ? undefined : { intervalMs, objective: config.objective === undefined && this.#config.planner === undefined ? undefined : objectiveOf(config) },
      leaseTtlMs: config.leaseTtlMs,
      migrationLimit: config.migrationLimit,
      deadlines: { ...config.deadlines, transferMs: config.deadlines.transferMs ?? config.transferTimeoutMs + TRANSFER_GRACE_MS },
      failoverWaitMs: config.failoverWaitMs,
      policy: scope.instance(config.router),
      disaggregation: scope.instance(config.disaggregation),
      queue: config.queue,
      affinity: config.affinity,
      discovery: context.instance(this.#config.discovery),
      events: context.instance(this.#config.events),
      requests: context.instance(this.#config.requests),
      records: this.#records,
      clock: context.clock,
      random: context.random.fork(`router/${config.name}`),
      log: context.log.child({ model: config.name }),
      metrics: context.metrics,
      health: context.health,
    });
  }

  #livesOf(worker: string): Random {
    const lives = this.#lives.get(worker) ?? this.#context.random.fork(`worker/${worker}`);
    this.#lives.set(worker, lives);
    return lives;
  }

  async #startWorker(model: RunningModel, config: WorkerConfig, index: number): Promise<RunningWorker> {
    const context = this.#context;
    const lives = this.#livesOf(`${model.config.name}/${config.name}/${index}`);
    const nextIncarnation = (): string => lives.u32().toString(16).padStart(8, '0');
    const incarnation = nextIncarnation();
    const name = `${config.name}/${index}`;
    const scope = await model.scope.openScope(config, { kind: 'worker', name, facts: { pool: config.name, index, role: config.role, dpRanks: config.dpRanks } });
    const engine = scope.instance(config.engine);
    const kvbm = tiersOf(config, scope);
    const log = context.log.child({ model: model.config.name });
    const host = new WorkerHost({
      model: model.config.name,
      pool: config.name,
      index,
      dpRank: config.dpRanks > 1 ? index % config.dpRanks : 0,
      role: config.role,
      engineName: config.engine.use,
      engine,
      hardware: config.hardware,
      ...profileOf(this.#config.hardware[config.hardware]),
      taints: config.taints,
      blockSize: model.config.blockSize,
      transferTimeoutMs: model.config.transferTimeoutMs,
      telemetryMs: this.#telemetryMs(),
      incarnation,
      nextIncarnation,
      discovery: context.instance(this.#config.discovery),
      events: context.instance(this.#config.events),
      requests: context.instance(this.#config.requests),
      clock: context.clock,
      log,
      metrics: context.metrics,
      health: context.health,
    });
    const worker = { index, host, scope, config };
    model.workers.push(worker);
    await scope.start();
    host.checkEngine();
    await host.start(await this.#openKv(model.config.name, config, { index, incarnation, engine, kvbm }));
    return worker;
  }

  /** Transfer agent, tiers and their manager for an engine that exposes its KV. */
  #openKv(model: string, config: WorkerConfig, worker: { readonly index: number; readonly incarnation: string; readonly engine: EngineBackend; readonly kvbm: WorkerTiers | undefined }): Promise<WorkerKv | undefined> {
    const context = this.#context;
    const { index, ...rest } = worker;
    return openWorkerKv({
      ...rest,
      worker: `${model}/${config.name}/${index}`,
      labels: [model, config.name],
      transports: this.#config.transports.map((slot) => context.instance(slot)),
      requests: context.instance(this.#config.requests),
      baseDir: context.baseDir,
      clock: context.clock,
      log: context.log.child({ model }),
      metrics: context.metrics,
    });
  }

  async #startListeners(): Promise<void> {
    const context = this.#context;
    mountRoutes(context, {
      models: () => [...this.#models.values()].map((model) => model.runtime),
      hosts: () => [...this.#models.values()].flatMap((model) => model.workers.map((worker) => worker.host)),
      records: this.#records,
    });
    const admin = this.#config.admin;
    if (admin !== undefined) {
      this.#admin = await listenAdmin(context, context.instance(admin.server), admin);
      const { host, port } = this.#admin;
      this.#adminUrl = `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
    }
    if (this.#config.frontend === undefined) return;
    const frontend = context.instance(this.#config.frontend);
    frontend.mount(this);
    this.#url = (await frontend.listen()).url;
  }
}

/** What workers tell of their hardware; the profile `default` need not be written down. */
function profileOf({ costPerHour, gpus, prefillSpeed, decodeSpeed }: HardwareConfig = DEFAULT_HARDWARE): Pick<WorkerHostOptions, 'costPerHour' | 'profile'> {
  return { costPerHour, profile: { gpus, prefillSpeed, decodeSpeed } };
}

/** Instances of a pool's `kvbm` section in one worker's scope. */
function tiersOf({ kvbm }: WorkerConfig, scope: Scope): WorkerTiers | undefined {
  if (kvbm === undefined) return undefined;
  const { tiers, policy, ...config } = kvbm;
  return { tiers: tiers.map((slot) => scope.instance(slot)), policy: scope.instance(policy), config };
}
