import { ArmatureError } from '@armature/contracts';
import type {
  Clock,
  Discovery,
  EngineBackend,
  ErrorData,
  EventPlane,
  Health,
  KvConnector,
  KvFace,
  Logger,
  Metrics,
  PlainData,
  PlaneMessage,
  PlaneStream,
  RequestPlane,
  ServedEndpoint,
  StreamOpen,
  StreamSink,
  Timer,
  WorkerRecord,
  WorkerRole,
} from '@armature/contracts';
import type { BlockManager } from '@armature/kvbm';
import { Method, numberField, parseOpaqueSource, parsePeers, parsePullSource, parseRequestFor } from '../messages.ts';
import { EngineTelemetry } from '../telemetry/engine-telemetry.ts';
import { DecodeIntake } from './decode-intake.ts';
import type { IntakeHost } from './decode-intake.ts';
import { GenerateLeg } from './generate-leg.ts';
import type { LegHost, LegKv } from './generate-leg.ts';
import { buildIntakeHost } from './intake-host.ts';
import type { KvMover } from './kv-mover.ts';
import { answerBorrow, answerPrefetch } from './kv-peers.ts';
import { PrefillWatch } from './prefill-watch.ts';
import { RunningLegs } from './running-legs.ts';
import { WorkerEvents } from './worker-events.ts';
import { WorkerLives } from './worker-lives.ts';
import { workerMetrics } from './worker-metrics.ts';
import type { WorkerMetrics } from './worker-metrics.ts';
import { buildWorkerRecord } from './worker-record.ts';

const HEARTBEAT_MS = 1_000;
/** Between leaving discovery and closing the endpoint: whoever has not heard of it yet is told to go elsewhere, instead of meeting nobody. */
const LINGER_MS = 300;
const LEASE_LOOK_MS = 20;

export interface WorkerHostOptions {
  readonly model: string;
  readonly pool: string;
  readonly index: number;
  readonly dpRank: number;
  /** The first one. */
  readonly role: WorkerRole;
  readonly engineName: string;
  readonly engine: EngineBackend;
  readonly hardware: string;
  readonly costPerHour: number;
  /** What else its hardware profile says. */
  readonly profile?: Pick<WorkerRecord, 'gpus' | 'prefillSpeed' | 'decodeSpeed'>;
  readonly taints: readonly string[];
  readonly blockSize: number;
  readonly transferTimeoutMs: number;
  /** Between two reports of its load; undefined: none. */
  readonly telemetryMs?: number | undefined;
  /** Distinguishes lives of the same worker; this is the first one. */
  readonly incarnation: string;
  /** That of another life, after a change of role or a failure of the engine. */
  readonly nextIncarnation: () => string;
  readonly discovery: Discovery;
  readonly events: EventPlane;
  readonly requests: RequestPlane;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly health: Health;
}

/** What stands beside an engine that exposes its KV. */
export interface WorkerKv {
  /** Owns the worker's transfer agent. */
  readonly mover: KvMover;
  /** Keeps blocks in tiers below the engine; undefined: none are configured. */
  readonly manager: BlockManager | undefined;
  /** Of an engine that copies its blocks to and from the manager's host tier by itself. */
  readonly connector?: KvConnector;
  /** Longest wait of a request for blocks of those tiers. */
  readonly fetchDeadlineMs: number;
}

const ignore: StreamSink = { message: () => undefined, closed: () => undefined };

/** Puts one started engine on the planes: serves its legs, publishes its KV events, registers it, drains it. */
export class WorkerHost {
  readonly engine: EngineBackend;
  readonly #options: WorkerHostOptions;
  readonly #running: RunningLegs;
  readonly #metrics: WorkerMetrics;
  readonly #lives: WorkerLives;
  readonly #events: WorkerEvents;
  readonly #legHost: LegHost;
  readonly #telemetry: EngineTelemetry | undefined;
  #heartbeat: Timer | undefined;
  #kv: WorkerKv | undefined;
  #legKv: LegKv | undefined;
  #intakeHost: IntakeHost | undefined;
  #endpoint: ServedEndpoint | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: WorkerHostOptions) {
    const { model, engine, events, clock, telemetryMs: intervalMs } = options;
    this.#options = options;
    this.engine = engine;
    this.#running = new RunningLegs(clock);
    this.#metrics = workerMetrics(options.metrics, options);
    this.#lives = new WorkerLives({
      host: options,
      running: this.#running,
      metrics: this.#metrics,
      record: (life) => buildWorkerRecord(options, life, this.#kv),
      reborn: () => this.#events.restart(),
    });
    // Before the engine starts, so that no event is missed.
    this.#events = new WorkerEvents({ engine, publish: (event) => events.publish(this.#lives.subject, event as unknown as PlainData) });
    this.#legHost = this.#buildLegHost();
    this.#telemetry = intervalMs === undefined ? undefined : new EngineTelemetry({ model, intervalMs, instanceId: () => this.instanceId, engine, events, clock });
    this.#heartbeat = undefined;
    this.#kv = undefined;
    this.#legKv = undefined;
    this.#intakeHost = undefined;
    this.#endpoint = undefined;
    this.#closing = undefined;
  }

  /** Of its life now. */
  get instanceId(): string {
    return this.#lives.instanceId;
  }

  get role(): WorkerRole {
    return this.#lives.role;
  }

  /** Undefined: no tiers below the engine. */
  get manager(): BlockManager | undefined {
    return this.#kv?.manager;
  }

  get record(): WorkerRecord | undefined {
    return this.#lives.record;
  }

  /** Throws when the engine, which has been started, does not fit the pool. */
  checkEngine(): void {
    const { engine, role, blockSize, pool, engineName } = this.#options;
    if (!engine.abilities.roles.includes(role)) {
      throw new ArmatureError('SERVING_ROLE_UNSUPPORTED', `engine "${engineName}" of pool "${pool}" cannot be a ${role} worker`, {
        hint: `it can be: ${engine.abilities.roles.join(', ')}`,
      });
    }
    if (engine.info.blockSize !== blockSize) {
      throw new ArmatureError('SERVING_BLOCK_SIZE_MISMATCH', `engine "${engineName}" of pool "${pool}" uses blocks of ${engine.info.blockSize} tokens, the model ${blockSize}`, {
        hint: 'set models[].blockSize to the size that the engine uses',
      });
    }
  }

  /** Serves and registers. The engine must have been started; `kv` is undefined when it does not expose its KV. The worker closes what it holds. */
  async start(kv: WorkerKv | undefined): Promise<void> {
    const { model, pool, index, requests, engine } = this.#options;
    this.#kv = kv;
    this.checkEngine();
    if (kv?.manager !== undefined) this.#attach(kv.manager, kv.fetchDeadlineMs);
    this.#intakeHost = buildIntakeHost(this.#options, kv, this.#metrics, {
      eventIdOf: (engineEventId) => this.#events.idOf(engineEventId),
      submitting: () => void this.#legKv?.watch.submitted(0, false),
      closed: (intake) => this.#ended(intake),
    });
    this.#endpoint = await requests.serve(`${model}/${pool}/${index}`, (open, stream) => this.#open(open, stream));
    if (kv !== undefined) this.#connect(kv, this.#endpoint.address);
    await this.#lives.start(this.#endpoint.address);
    this.#beat();
    this.#telemetry?.start();
    this.#options.log.info('worker ready', { worker: this.instanceId, role: this.role, blocks: engine.info.totalBlocks });
  }

  /** Says how far the events go, so that followers notice the loss of the last ones. Within one process nothing is lost. */
  #beat(): void {
    const { clock, engine, events } = this.#options;
    if (!events.supports.processes || !engine.abilities.kvEvents) return;
    events.publish(this.#lives.subject, { type: 'heartbeat', eventId: this.#events.lastEventId });
    this.#heartbeat = clock.setTimer(HEARTBEAT_MS, () => this.#beat());
  }

  /** Leaves discovery, lets running legs end and readers of its blocks finish up to the deadline, then closes. */
  close(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    const { clock, requests } = this.#options;
    const untilMs = clock.nowMs() + deadlineMs;
    const leftMs = (): number => Math.max(0, untilMs - clock.nowMs());
    await this.#lives.leave();
    if (requests.supports.processes && deadlineMs > 0) await clock.sleep(Math.min(LINGER_MS, leftMs()));
    await this.#running.idle(leftMs());
    // A prefill leg has ended long before its blocks have been read.
    while (this.#isRead() && leftMs() > 0) await clock.sleep(LEASE_LOOK_MS);
    if (this.#heartbeat !== undefined) clock.clearTimer(this.#heartbeat);
    this.#telemetry?.close();
    await this.#endpoint?.close();
    this.#kv?.connector?.detach();
    await this.#kv?.manager?.close(); // its copies end before their agent does
    await this.#kv?.mover.close();
    this.#lives.forget();
  }

  /** Whether other workers read blocks of the engine or of its host tier. */
  #isRead(): boolean {
    return (this.engine.kv?.counts().leases ?? 0) > 0 || (this.manager?.stats().loans ?? 0) > 0;
  }

  #attach(manager: BlockManager, fetchDeadlineMs: number): void {
    const { clock } = this.#options;
    this.#events.attach(manager);
    const watch = new PrefillWatch(clock, (tokens, milliseconds) => manager.observePrefill(tokens, milliseconds));
    const { kv } = this.engine;
    if (kv !== undefined) this.#legKv = { kv, manager, watch, fetchDeadlineMs };
  }

  /** From now on the engine's own process uses the host tier; other workers borrow from it under this worker's address. */
  #connect({ mover, connector }: WorkerKv, address: string): void {
    connector?.attach(this.#manager().host, { instanceId: this.instanceId, address, agentMetadata: mover.metadata(), layoutFingerprint: connector.format().layoutFingerprint });
  }

  #buildLegHost(): LegHost {
    const { engine, clock, blockSize } = this.#options;
    return {
      engine,
      clock,
      blockSize,
      eventIdOf: (engineEventId) => this.#events.idOf(engineEventId),
      closed: (leg) => this.#ended(leg),
    };
  }

  #open(open: StreamOpen, stream: PlaneStream): StreamSink {
    switch (open.method) {
      case Method.Generate:
        return this.#generate(open.message, stream);
      case Method.Decode:
        return this.#decode(open.message, stream);
      case Method.RenewLease:
        return answer(stream, { type: 'lease', valid: this.#face().renewLease(numberField(open.message, 'lease'), numberField(open.message, 'ttlMs')) });
      case Method.ReleaseLease:
        return answer(stream, { type: 'lease', valid: this.#face().releaseLease(numberField(open.message, 'lease')) === 'valid' });
      case Method.Probe:
        return answer(stream, { type: 'probe', well: this.#lives.isWell, load: { ...this.engine.load() } });
      case Method.Snapshot:
        return answer(stream, { type: 'snapshot', events: this.#events.snapshot() as unknown as PlainData });
      case Method.Replay:
        return answer(stream, { type: 'replay', events: this.#events.history.slice(numberField(open.message, 'from'), numberField(open.message, 'to')) as unknown as PlainData });
      case Method.Borrow:
        this.#lives.refuseIfDraining();
        return answerBorrow(this.#manager(), open.message, stream);
      case Method.RenewLoan:
        return answer(stream, { type: 'lease', valid: this.#manager().renewLoan(numberField(open.message, 'lease'), numberField(open.message, 'ttlMs')) });
      case Method.SettleLoan:
        return answer(stream, { type: 'lease', valid: this.#manager().settleLoan(numberField(open.message, 'lease')) === 'valid' });
      case Method.Role:
        return this.#lives.changeRole(open.message, stream);
      case Method.Prefetch:
        return answerPrefetch(this.#manager(), open.message, stream);
      default:
        throw new ArmatureError('SERVING_METHOD_UNKNOWN', `worker method "${open.method}" does not exist`, { hint: 'the caller runs another version' });
    }
  }

  #face(): KvFace {
    const { kv } = this.#options.engine;
    if (kv === undefined) throw new ArmatureError('SERVING_KV_UNSUPPORTED', `engine "${this.#options.engineName}" does not expose its KV`);
    return kv;
  }

  #manager(): BlockManager {
    const { manager } = this;
    if (manager === undefined) throw new ArmatureError('SERVING_KV_UNSUPPORTED', `worker ${this.instanceId} keeps no KV below its engine`);
    return manager;
  }

  #generate(message: PlaneMessage, stream: PlaneStream): StreamSink {
    this.#lives.refuseIfDraining();
    const leg = new GenerateLeg(this.#legHost, parseRequestFor(this.engine, message), stream);
    const source = parseOpaqueSource(message);
    const peers = parsePeers(message);
    this.#metrics.legs.inc();
    this.#running.add(leg, stream);
    leg.start(source, this.#legKv, peers);
    return leg;
  }

  #decode(message: PlaneMessage, stream: PlaneStream): StreamSink {
    this.#lives.refuseIfDraining();
    const host = this.#intakeHost;
    if (host === undefined) {
      throw new ArmatureError('SERVING_KV_UNSUPPORTED', `worker ${this.instanceId} cannot pull KV`, { hint: 'its engine has no kv face, or no transport is configured' });
    }
    this.#metrics.legs.inc();
    const intake = new DecodeIntake(host, parseRequestFor(this.engine, message), parsePullSource(message), stream);
    this.#running.add(intake, stream);
    return intake;
  }

  #ended(leg: object): void {
    this.#lives.legEnded();
    this.#running.ended(leg);
  }
}

function answer(stream: PlaneStream, message: PlaneMessage, error?: ErrorData): StreamSink {
  stream.send(message);
  stream.close(error);
  return ignore;
}
