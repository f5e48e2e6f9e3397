import { kvEventSubject } from '@armature/contracts';
import type {
  Clock,
  Discovery,
  DisaggregationPolicy,
  EventPlane,
  InferenceHandle,
  InferenceRequest,
  KvEvent,
  Logger,
  Metrics,
  ModelHandle,
  Preprocessor,
  Random,
  RequestPlane,
  RouterPolicy,
  TokenSink,
  WorkerRecord,
} from '@armature/contracts';
import { Method, PROTOCOL } from '../messages.ts';
import { ModelRouter } from '../routing/model-router.ts';
import type { RequestRecords } from '../routing/records.ts';
import { callUnary } from '../worker/unary.ts';
import type { ExecutionHost } from './execution-host.ts';
import { RequestRun } from './request-run.ts';

const SNAPSHOT_TIMEOUT_MS = 5_000;

export interface ModelRuntimeOptions {
  readonly name: string;
  readonly preprocessor: Preprocessor;
  readonly blockSize: number;
  readonly leaseTtlMs: number;
  readonly migrationLimit: number;
  readonly policy: RouterPolicy;
  readonly disaggregation: DisaggregationPolicy;
  readonly discovery: Discovery;
  readonly events: EventPlane;
  readonly requests: RequestPlane;
  readonly records: RequestRecords;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** One model as the frontend sees it: follows its workers, routes and runs its requests. */
export class ModelRuntime implements ModelHandle {
  readonly name: string;
  readonly preprocessor: Preprocessor;
  readonly createdAtSeconds: number;
  readonly router: ModelRouter;
  readonly #options: ModelRuntimeOptions;
  readonly #execution: ExecutionHost;
  readonly #subscriptions: { close(): void }[] = [];
  #runs = 0;

  constructor(options: ModelRuntimeOptions) {
    this.name = options.name;
    this.preprocessor = options.preprocessor;
    this.createdAtSeconds = Math.floor(options.clock.wallMs() / 1000);
    this.#options = options;
    const { clock, log, metrics, requests, records } = options;
    this.router = new ModelRouter({
      model: options.name,
      policy: options.policy,
      clock,
      random: options.random,
      log,
      metrics,
      snapshot: (worker, done) => this.#snapshot(worker, done),
    });
    const counter = (name: string, help: string): ExecutionHost['metrics']['finished'] =>
      metrics.counter({ name, help, labelNames: ['model'] }).with(options.name);
    const outcomes = metrics.counter({ name: 'armature_requests_total', help: 'Requests by outcome.', labelNames: ['model', 'outcome'] });
    this.#execution = {
      model: options.name,
      blockSize: options.blockSize,
      leaseTtlMs: options.leaseTtlMs,
      migrationLimit: options.migrationLimit,
      router: this.router,
      policy: options.disaggregation,
      requests,
      records,
      clock,
      log,
      input: { promptTokens: 0, overlapTokens: 0, prefillWorkers: 0, leastPrefillTokens: 0, decodePrefillTokens: 0 },
      metrics: {
        finished: outcomes.with(options.name, 'finished'),
        failed: outcomes.with(options.name, 'failed'),
        cancelled: outcomes.with(options.name, 'cancelled'),
        remotePrefills: counter('armature_remote_prefills_total', 'Prompts computed by a prefill worker.'),
        localPrefills: counter('armature_local_prefills_total', 'Prompts of a disaggregated model computed by their decode worker.'),
        fallbacks: counter('armature_prefill_fallbacks_total', 'Prompts for which no prefill worker was ready.'),
        migrations: counter('armature_migrations_total', 'Requests moved to another worker.'),
      },
      nextRunId: () => `${options.name}-${++this.#runs}`,
    };
  }

  async start(): Promise<void> {
    const { discovery, events, name } = this.#options;
    const eventPrefix = kvEventSubject(name, '');
    this.#subscriptions.push(
      events.subscribe(eventPrefix, (subject, payload) => this.router.apply(subject.slice(eventPrefix.length), payload as unknown as KvEvent)),
    );
    const prefix = `workers/${name}/`;
    const watch = await discovery.watch(prefix, {
      put: (entry) => this.#joined(entry.value as unknown as WorkerRecord),
      removed: (key) => this.router.leave(key.slice(prefix.length)),
    });
    this.#subscriptions.push(watch);
  }

  close(): void {
    for (const subscription of this.#subscriptions.splice(0)) subscription.close();
  }

  get maxModelTokens(): number {
    let limit = this.preprocessor.card.maxModelTokens;
    for (const worker of this.router.table.records()) limit = Math.min(limit, worker.maxModelTokens);
    return limit;
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

  #joined(worker: WorkerRecord): void {
    if (worker.protocol !== PROTOCOL) {
      this.#options.log.error('worker refused: it speaks another protocol version', {
        code: 'SERVING_PROTOCOL_MISMATCH',
        worker: worker.instanceId,
        found: worker.protocol,
        expected: PROTOCOL,
      });
      return;
    }
    this.router.join(worker);
  }

  #snapshot(worker: WorkerRecord, done: (events: readonly KvEvent[] | undefined) => void): void {
    const open = { method: Method.Snapshot, message: { type: 'snapshot' }, deadlineMs: SNAPSHOT_TIMEOUT_MS };
    callUnary(this.#options.requests, worker.address, open, (answer) => done(answer?.['events'] as unknown as readonly KvEvent[] | undefined));
  }
}
