import { kvEventSubject } from '@armature/contracts';
import type {
  Clock,
  Discovery,
  DisaggregationPolicy,
  EventPlane,
  Gauge,
  Health,
  InferenceHandle,
  InferenceRequest,
  KvEvent,
  Logger,
  Metrics,
  ModelHandle,
  Objective,
  PlaneMessage,
  Preprocessor,
  Random,
  RequestPlane,
  RouterPolicy,
  TokenSink,
  WorkerRecord,
  ResponseFormat,
} from '@armature/contracts';
import { AdmissionQueue } from '../admission/admission-queue.ts';
import type { AffinityConfig, QueueConfig } from '../admission/config.ts';
import { SessionTable } from '../admission/session-table.ts';
import { Method } from '../messages.ts';
import { Inhibitions } from '../routing/inhibitions.ts';
import { ModelRouter } from '../routing/model-router.ts';
import type { RequestRecords } from '../routing/records.ts';
import { followThreshold } from '../telemetry/threshold.ts';
import { TrafficTelemetry } from '../telemetry/traffic-telemetry.ts';
import { callUnary } from '../worker/unary.ts';
import type { ExecutionHost, HopDeadlines } from './execution-host.ts';
import { executionMetrics } from './execution-metrics.ts';
import { HopTimes } from './hop-times.ts';
import { ModelAdapters } from './model-adapters.ts';
import { ModelSelector } from './model-selector.ts';
import { QueuePrefetch } from './queue-prefetch.ts';
import { RequestRun } from './request-run.ts';
import { WaitingRoom } from './waiting-room.ts';
import { refusalOf } from './worker-refusal.ts';

const SNAPSHOT_TIMEOUT_MS = 5_000;
const PROBE_TIMEOUT_MS = 1_000;

export interface ModelRuntimeOptions {
  readonly name: string;
  readonly preprocessor: Preprocessor;
  /** Unique per router and life. */
  readonly routerId: string;
  readonly blockSize: number;
  /** LoRA adapters known before a worker has told them. */
  readonly adapters?: readonly string[];
  /** Who else answers to the name of an adapter. */
  readonly alsoNamed?: (adapter: string) => string | undefined;
  readonly leaseTtlMs: number;
  readonly migrationLimit: number;
  readonly deadlines: HopDeadlines;
  readonly failoverWaitMs: number;
  readonly policy: RouterPolicy;
  readonly disaggregation: DisaggregationPolicy;
  /** Left out: traffic is not reported. */
  readonly telemetry?: { readonly intervalMs: number; readonly objective: Pick<Objective, 'ttftMs' | 'itlMs'> | undefined } | undefined;
  /** Left out: no queue in front of the workers. */
  readonly queue?: QueueConfig | undefined;
  /** Left out: sessions are not looked at. */
  readonly affinity?: AffinityConfig | undefined;
  readonly discovery: Discovery;
  readonly events: EventPlane;
  readonly requests: RequestPlane;
  readonly records: RequestRecords;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly health: Health;
}

/** One model as the frontend sees it: follows its workers, routes and runs its requests. */
export class ModelRuntime implements ModelHandle {
  readonly name: string;
  readonly preprocessor: Preprocessor;
  readonly createdAtSeconds: number;
  readonly router: ModelRouter;
  readonly selector: ModelSelector;
  readonly adapters: ModelAdapters;
  readonly admission: AdmissionQueue | undefined;
  readonly sessions: SessionTable | undefined;
  readonly inhibitions: Inhibitions;
  readonly waitingRoom: WaitingRoom;
  readonly hopTimes = new HopTimes();
  readonly #options: ModelRuntimeOptions;
  readonly #telemetry: TrafficTelemetry | undefined;
  readonly #execution: ExecutionHost;
  readonly #refused = new Set<string>();
  readonly #refusedWorkers: Gauge;
  readonly #subscriptions: { close(): void }[] = [];
  #runs = 0;

  constructor(options: ModelRuntimeOptions) {
    this.name = options.name;
    this.preprocessor = options.preprocessor;
    this.createdAtSeconds = Math.floor(options.clock.wallMs() / 1000);
    this.#options = options;
    const { clock, log, metrics } = options;
    this.sessions = options.affinity === undefined ? undefined : new SessionTable(options.affinity);
    this.router = new ModelRouter({
      model: options.name,
      policy: options.policy,
      clock,
      random: options.random,
      log,
      metrics,
      health: options.health,
      sessions: this.sessions,
      keepsCandidates: options.records.capacity > 0,
      ...(options.queue === undefined ? {} : { isBusy: (worker: WorkerRecord, prefillTokens: number, blocks: number) => this.admission?.isBusy(worker, prefillTokens, blocks) ?? false }),
      remoteLoadFell: () => this.admission?.capacityChanged(),
      // Within one process there is one router per model.
      expectsHeartbeats: options.events.supports.processes,
      ...(options.events.supports.processes ? { replica: { events: options.events, routerId: options.routerId } } : {}),
      snapshot: (worker, done) => this.#ask(worker, Method.Snapshot, { type: 'snapshot' }, done),
      replay: (worker, from, to, done) => this.#ask(worker, Method.Replay, { type: 'replay', from, to }, done),
    });
    this.admission =
      options.queue === undefined ? undefined : new AdmissionQueue({ model: options.name, config: options.queue, loads: this.router.table, clock, log, metrics });
    this.#refusedWorkers = metrics.gauge({ name: 'armature_router_refused_workers', help: 'Registered workers that get no requests because they do not fit the model.', labelNames: ['model'] }).with(options.name);
    this.waitingRoom = new WaitingRoom(clock);
    this.inhibitions = this.#buildInhibitions();
    this.#telemetry = this.#buildTelemetry();
    this.#execution = this.#buildExecution();
    this.selector = new ModelSelector(this.#execution);
    this.adapters = new ModelAdapters({ base: this, configured: options.adapters ?? [], alsoNamed: options.alsoNamed ?? (() => undefined), log });
  }

  #buildInhibitions(): Inhibitions {
    const { name, clock, log, metrics, health, requests } = this.#options;
    const labelNames = ['model'];
    return new Inhibitions({
      model: name,
      table: this.router.table,
      clock,
      log,
      health,
      inhibited: metrics.counter({ name: 'armature_router_inhibited_total', help: 'Times a worker was taken out because it was lost or silent.', labelNames }).with(name),
      returned: metrics.counter({ name: 'armature_router_returned_total', help: 'Times such a worker answered a probe and came back.', labelNames }).with(name),
      out: metrics.gauge({ name: 'armature_router_inhibited_workers', help: 'Workers that get no requests until they answer a probe.', labelNames }).with(name),
      probe: ({ address }, done) =>
        callUnary(requests, address, { method: Method.Probe, message: { type: 'probe' }, deadlineMs: PROBE_TIMEOUT_MS }, (answer) => done(answer?.['well'] === true)),
      changed: () => this.#capacityChanged(),
    });
  }

  #buildExecution(): ExecutionHost {
    const { name, blockSize, leaseTtlMs, migrationLimit, deadlines, failoverWaitMs, disaggregation, requests, records, clock, log, metrics } = this.#options;
    return {
      model: name,
      blockSize,
      leaseTtlMs,
      migrationLimit,
      deadlines,
      failoverWaitMs,
      router: this.router,
      policy: disaggregation,
      admission: this.admission,
      prefetch: this.admission === undefined ? undefined : this.#buildPrefetch(),
      sessions: this.sessions,
      inhibitions: this.inhibitions,
      waitingRoom: this.waitingRoom,
      hopTimes: this.hopTimes,
      telemetry: this.#telemetry,
      requests,
      records,
      clock,
      log,
      input: { promptTokens: 0, overlapTokens: 0, prefillWorkers: 0, leastPrefillTokens: 0, decodePrefillTokens: 0, localFirstTokenMs: NaN, remoteFirstTokenMs: NaN },
      metrics: executionMetrics(metrics, name),
      nextRunId: () => `${name}-${++this.#runs}`,
    };
  }

  #buildTelemetry(): TrafficTelemetry | undefined {
    const { name, telemetry, routerId, events, clock } = this.#options;
    if (telemetry === undefined) return undefined;
    return new TrafficTelemetry({ model: name, source: routerId, ...telemetry, queued: () => (this.admission?.size ?? 0) + this.waitingRoom.size, events, clock });
  }

  #buildPrefetch(): QueuePrefetch {
    const { name, blockSize, requests, clock, metrics } = this.#options;
    const sent = metrics.counter({ name: 'armature_queue_prefetches_total', help: 'Workers told to bring up blocks of a request that waits.', labelNames: ['model'] }).with(name);
    return new QueuePrefetch({ router: this.router, requests, clock, blockSize, sent });
  }

  /** A worker can take more, or there is one more. */
  #capacityChanged(): void {
    this.waitingRoom.wake();
    this.admission?.capacityChanged();
  }

  async start(): Promise<void> {
    const { discovery, events, name } = this.#options;
    const eventPrefix = kvEventSubject(name, '');
    this.#subscriptions.push(
      events.subscribe(eventPrefix, (subject, payload) => this.router.apply(subject.slice(eventPrefix.length), payload)),
    );
    const prefix = `workers/${name}/`;
    const watch = await discovery.watch(prefix, {
      put: (entry) => this.#joined(entry.key.slice(prefix.length), entry.value as unknown as WorkerRecord),
      removed: (key) => this.#left(key.slice(prefix.length)),
    });
    this.#subscriptions.push(watch);
    const threshold = await followThreshold(name, this.#options.disaggregation, discovery);
    if (threshold !== undefined) this.#subscriptions.push(threshold);
    this.#telemetry?.start();
    this.router.replica?.start(); // after the workers are known: what others sent to them can be charged
  }

  /** Requests that wait for a worker have not begun: another server may take them. New ones are refused. */
  stopQueue(): void {
    this.admission?.close();
  }

  close(): void {
    this.stopQueue();
    this.#telemetry?.close();
    for (const subscription of this.#subscriptions.splice(0)) subscription.close();
    this.inhibitions.close();
    this.router.close();
  }

  get maxModelTokens(): number {
    return Math.min(this.preprocessor.card.maxModelTokens, this.router.table.leastModelTokens);
  }

  responseFormats(): readonly ResponseFormat['type'][] | undefined {
    const workers = this.router.table.records().filter(({ role }) => role !== 'prefill');
    return workers.length === 0 ? undefined : [...new Set(workers.flatMap(({ responseFormats = [] }) => responseFormats))];
  }

  isReady(): boolean {
    const { table } = this.router;
    return table.hasRole('both') || table.hasRole('decode');
  }

  execute(request: InferenceRequest, sink: TokenSink): InferenceHandle {
    const run = new RequestRun(this.#execution, request, sink);
    run.start();
    return run;
  }

  #joined(key: string, worker: WorkerRecord): void {
    const reason = refusalOf(worker, this.#options.blockSize);
    if (reason !== undefined) {
      this.#refuse(key, reason);
      return;
    }
    const isKnown = this.router.table.slotOf(worker.instanceId) !== undefined;
    if (!this.router.join(worker)) this.#refuse(key, { code: 'SERVING_WORKER_MISMATCH', message: 'it serves another model or block size than the pool' });
    else if (!isKnown) {
      this.adapters.joined(worker);
      this.admission?.joined(worker);
      this.waitingRoom.wake();
    }
  }

  /** The worker gets no requests: said in the log, in health and as a metric until it leaves. */
  #refuse(key: string, { code, message }: { readonly code: string; readonly message: string }): void {
    const { log, health, name } = this.#options;
    log.error('worker refused', { code, worker: key, reason: message });
    this.#refused.add(key);
    this.#refusedWorkers.set(this.#refused.size);
    health.set(`worker ${name}/${key}`, 'degraded', `refused: ${message} (${code}); it gets no requests`);
  }

  #left(key: string): void {
    this.inhibitions.left(key);
    this.router.leave(key);
    this.waitingRoom.workerLeft();
    if (this.#refused.delete(key)) {
      this.#refusedWorkers.set(this.#refused.size);
      this.#options.health.remove(`worker ${this.name}/${key}`);
    }
    this.admission?.capacityChanged();
  }

  /** Asks a worker for KV events; undefined without an answer, or when it has them no more. */
  #ask(worker: WorkerRecord, method: string, message: PlaneMessage, done: (events: readonly KvEvent[] | undefined) => void): void {
    callUnary(this.#options.requests, worker.address, { method, message, deadlineMs: SNAPSHOT_TIMEOUT_MS }, (answer) => {
      const events = answer?.['events'];
      done(Array.isArray(events) ? (events as unknown as readonly KvEvent[]) : undefined);
    });
  }
}
