import { ArmatureError, kvEventSubject } from '@armature/contracts';
import type {
  Clock,
  Counter,
  Discovery,
  EngineBackend,
  ErrorData,
  EventPlane,
  Health,
  KvFace,
  Logger,
  Metrics,
  PlainData,
  PlaneMessage,
  PlaneStream,
  Registration,
  RequestPlane,
  ServedEndpoint,
  StreamOpen,
  StreamSink,
  Timer,
  WorkerRecord,
  WorkerRole,
} from '@armature/contracts';
import type { BlockManager } from '@armature/kvbm';
import { Method, PROTOCOL, numberField, parseOpaqueSource, parsePeers, parsePullSource, parseRequest } from '../messages.ts';
import { answerRoleChange, parseRoleChange } from '../control/role-change.ts';
import type { RoleHost } from '../control/role-change.ts';
import { kvConversionOf } from './arena-segments.ts';
import { DecodeIntake } from './decode-intake.ts';
import type { IntakeHost } from './decode-intake.ts';
import { GenerateLeg } from './generate-leg.ts';
import type { LegHost, LegKv } from './generate-leg.ts';
import type { KvMover } from './kv-mover.ts';
import { answerBorrow, answerPrefetch } from './kv-peers.ts';
import { PrefillWatch } from './prefill-watch.ts';
import { RunningLegs } from './running-legs.ts';
import { callUnary } from './unary.ts';
import { WorkerEvents } from './worker-events.ts';

const LEASE_CALL_TIMEOUT_MS = 2_000;
const REGISTRATION_TTL_MS = 10_000;
const HEARTBEAT_MS = 1_000;
/** For legs that were told to move on: what they hold goes back within a pass of the engine. */
const MOVE_ON_MS = 2_000;
const REJOIN_RETRY_MS = 1_000;

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
  readonly taints: readonly string[];
  readonly blockSize: number;
  readonly transferTimeoutMs: number;
  /** Distinguishes lives of the same worker; this is the first one. */
  readonly incarnation: string;
  /** That of another life, after a change of role. */
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
  /** Longest wait of a request for blocks of those tiers. */
  readonly fetchDeadlineMs: number;
}

const ignore: StreamSink = { message: () => undefined, closed: () => undefined };

/** Puts one started engine on the planes: serves its legs, publishes its KV events, registers it, drains it. */
export class WorkerHost {
  readonly engine: EngineBackend;
  readonly #options: WorkerHostOptions;
  readonly #running: RunningLegs;
  #instanceId: string;
  #role: WorkerRole;
  readonly #movedBlocks: Counter;
  readonly #movedBytes: Counter;
  readonly #legs: Counter;
  readonly #roleChanges: { with(...labels: string[]): Counter };
  readonly #failures: { with(...labels: string[]): Counter };
  #subject: string;
  readonly #events: WorkerEvents;
  readonly #legHost: LegHost;
  #heartbeat: Timer | undefined;
  #kv: WorkerKv | undefined;
  #legKv: LegKv | undefined;
  #intakeHost: IntakeHost | undefined;
  #endpoint: ServedEndpoint | undefined;
  #registration: Registration | undefined;
  #record: WorkerRecord | undefined;
  #isDraining = false;
  #closing: Promise<void> | undefined;
  /** A change of role that is under way. */
  #changing: Promise<unknown> | undefined;
  #hasFailed = false;

  constructor(options: WorkerHostOptions) {
    this.#options = options;
    this.engine = options.engine;
    this.#instanceId = `${options.pool}/${options.index}@${options.incarnation}`;
    this.#role = options.role;
    this.#running = new RunningLegs(options.clock);
    const labels = [options.model, options.pool];
    const labelNames = ['model', 'pool'];
    const { metrics } = options;
    this.#movedBlocks = metrics.counter({ name: 'armature_kv_transfer_blocks_total', help: 'KV blocks pulled from prefill workers.', labelNames }).with(...labels);
    this.#movedBytes = metrics.counter({ name: 'armature_kv_transfer_bytes_total', help: 'KV bytes pulled from prefill workers.', labelNames }).with(...labels);
    this.#legs = metrics.counter({ name: 'armature_worker_legs_total', help: 'Request legs taken by workers.', labelNames }).with(...labels);
    const failures = metrics.counter({
      name: 'armature_kv_transfer_failures_total',
      help: 'KV pulls that did not bring every block, by reason; the rest was recomputed.',
      labelNames: [...labelNames, 'reason'],
    });
    this.#failures = { with: (reason) => failures.with(...labels, reason) };
    const roleChanges = metrics.counter({ name: 'armature_worker_role_changes_total', help: 'Changes of role, by the role asked for and what came of it.', labelNames: [...labelNames, 'role', 'outcome'] });
    this.#roleChanges = { with: (...outcome) => roleChanges.with(...labels, ...outcome) };
    // Before the engine starts, so that no event is missed.
    this.#subject = kvEventSubject(options.model, this.instanceId);
    this.#events = new WorkerEvents({ engine: options.engine, publish: (event) => options.events.publish(this.#subject, event as unknown as PlainData) });
    this.#legHost = this.#buildLegHost();
  }

  /** Of its life now. */
  get instanceId(): string {
    return this.#instanceId;
  }

  get role(): WorkerRole {
    return this.#role;
  }

  /** Undefined: no tiers below the engine. */
  get manager(): BlockManager | undefined {
    return this.#kv?.manager;
  }

  get record(): WorkerRecord | undefined {
    return this.#record;
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
    this.#intakeHost = this.#buildIntakeHost();
    this.#endpoint = await requests.serve(`${model}/${pool}/${index}`, (open, stream) => this.#open(open, stream));
    this.#record = this.#buildRecord(this.#endpoint.address);
    this.#registration = await this.#register(this.#record);
    this.#beat();
    this.#options.health.set(`worker ${model}/${pool}/${index}`, 'ready');
    this.#options.log.info('worker ready', { worker: this.instanceId, role: this.#options.role, blocks: engine.info.totalBlocks });
  }

  #register(record: WorkerRecord): Promise<Registration> {
    const { discovery, model } = this.#options;
    return discovery.register(`workers/${model}/${record.instanceId}`, record as unknown as PlainData, { ttlMs: REGISTRATION_TTL_MS });
  }

  /** Says how far the events go, so that followers notice the loss of the last ones. Within one process nothing is lost. */
  #beat(): void {
    const { clock, engine, events } = this.#options;
    if (!events.supports.processes || !engine.abilities.kvEvents) return;
    events.publish(this.#subject, { type: 'heartbeat', eventId: this.#events.lastEventId });
    this.#heartbeat = clock.setTimer(HEARTBEAT_MS, () => this.#beat());
  }

  /** Leaves discovery, lets running legs end up to the deadline, then closes. */
  close(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    this.#isDraining = true;
    const { model, pool, index, health } = this.#options;
    health.set(`worker ${model}/${pool}/${index}`, 'draining');
    this.#running.wake(); // a change of role that waits for its legs gives up
    await this.#changing;
    await this.#registration?.close();
    await this.#running.idle(deadlineMs);
    if (this.#heartbeat !== undefined) this.#options.clock.clearTimer(this.#heartbeat);
    await this.#endpoint?.close();
    await this.#kv?.manager?.close(); // its copies end before their agent does
    await this.#kv?.mover.close();
    health.remove(`worker ${model}/${pool}/${index}`);
  }

  #attach(manager: BlockManager, fetchDeadlineMs: number): void {
    const { clock } = this.#options;
    this.#events.attach(manager);
    const watch = new PrefillWatch(clock, (tokens, milliseconds) => manager.observePrefill(tokens, milliseconds));
    this.#legKv = { kv: this.#face(), manager, watch, fetchDeadlineMs };
  }

  #buildRecord(address: string): WorkerRecord {
    const { model, pool, index, engineName, engine, hardware, costPerHour, taints } = this.#options;
    const mover = this.#kv?.mover;
    const kvTiers = this.manager?.stats().tiers.map(({ tier }) => tier);
    const arena = mover === undefined ? undefined : engine.kv?.arena();
    const kvConversion = arena === undefined ? undefined : kvConversionOf(arena);
    return {
      instanceId: this.instanceId,
      model,
      pool,
      index,
      dpRank: this.#options.dpRank,
      role: this.#role,
      address,
      engine: engineName,
      hardware,
      costPerHour,
      taints,
      kvEvents: engine.abilities.kvEvents,
      blockSize: engine.info.blockSize,
      totalBlocks: engine.info.totalBlocks,
      maxModelTokens: engine.info.maxModelTokens,
      maxBatchedTokens: engine.info.maxBatchedTokens,
      firstToken: engine.abilities.firstToken,
      modelFingerprint: engine.info.modelFingerprint,
      layoutFingerprint: arena?.layoutFingerprint ?? '',
      ...(kvConversion === undefined ? {} : { kvConversion }),
      agentMetadata: mover?.metadata() ?? new Uint8Array(0),
      ...(this.manager === undefined || kvTiers === undefined ? {} : { kvTiers, kvPrefetch: this.manager.prefetchRule }),
      protocol: PROTOCOL,
    };
  }

  #buildIntakeHost(): IntakeHost | undefined {
    const { engine, clock, requests, blockSize, transferTimeoutMs } = this.#options;
    const mover = this.#kv?.mover;
    const kv = engine.kv;
    if (kv === undefined || mover === undefined) return undefined;
    const arena = kv.arena();
    const kvConversion = kvConversionOf(arena);
    const unary = (address: string, method: string, message: PlaneMessage, done: (answer: PlaneMessage | undefined) => void): void =>
      callUnary(requests, address, { method, message, deadlineMs: LEASE_CALL_TIMEOUT_MS }, done);
    return {
      engine,
      kv,
      mover,
      clock,
      blockSize,
      transferTimeoutMs,
      layoutFingerprint: arena.layoutFingerprint,
      ...(kvConversion === undefined ? {} : { kvConversion }),
      releaseLease: (address, lease, done) => unary(address, Method.ReleaseLease, { type: 'lease', lease }, (answer) => done(answer?.['valid'] === true)),
      renewLease: (address, lease, ttlMs) => unary(address, Method.RenewLease, { type: 'lease', lease, ttlMs }, () => undefined),
      moved: (blocks, bytes) => {
        this.#movedBlocks.inc(blocks);
        this.#movedBytes.inc(bytes);
      },
      failed: (reason) => this.#failures.with(reason).inc(),
      eventIdOf: (engineEventId) => this.#events.idOf(engineEventId),
      submitting: () => void this.#legKv?.watch.submitted(0, false),
      closed: (intake) => {
        this.#ended(intake);
      },
    };
  }

  #buildLegHost(): LegHost {
    const { engine, clock, blockSize } = this.#options;
    return {
      engine,
      clock,
      blockSize,
      eventIdOf: (engineEventId) => this.#events.idOf(engineEventId),
      closed: (leg) => {
        this.#ended(leg);
      },
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
        return answer(stream, { type: 'probe', well: !this.#isDraining && this.engine.failure() === undefined, load: { ...this.engine.load() } });
      case Method.Snapshot:
        return answer(stream, { type: 'snapshot', events: this.#events.snapshot() as unknown as PlainData });
      case Method.Replay:
        return answer(stream, { type: 'replay', events: this.#events.history.slice(numberField(open.message, 'from'), numberField(open.message, 'to')) as unknown as PlainData });
      case Method.Borrow:
        this.#refuseIfDraining();
        return answerBorrow(this.#manager(), open.message, stream);
      case Method.RenewLoan:
        return answer(stream, { type: 'lease', valid: this.#manager().renewLoan(numberField(open.message, 'lease'), numberField(open.message, 'ttlMs')) });
      case Method.SettleLoan:
        return answer(stream, { type: 'lease', valid: this.#manager().settleLoan(numberField(open.message, 'lease')) === 'valid' });
      case Method.Role:
        return this.#changeRole(open.message, stream);
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
    this.#refuseIfDraining();
    const leg = new GenerateLeg(this.#legHost, parseRequest(message), stream);
    const source = parseOpaqueSource(message);
    const peers = parsePeers(message);
    this.#legs.inc();
    this.#running.add(leg, stream);
    leg.start(source, this.#legKv, peers);
    return leg;
  }

  #decode(message: PlaneMessage, stream: PlaneStream): StreamSink {
    this.#refuseIfDraining();
    const host = this.#intakeHost;
    if (host === undefined) {
      throw new ArmatureError('SERVING_KV_UNSUPPORTED', `worker ${this.instanceId} cannot pull KV`, { hint: 'its engine has no kv face, or no transport is configured' });
    }
    this.#legs.inc();
    const intake = new DecodeIntake(host, parseRequest(message), parsePullSource(message), stream);
    this.#running.add(intake, stream);
    return intake;
  }

  #refuseIfDraining(): void {
    if (this.#isDraining) throw this.#drainingError();
  }

  #drainingError(): ArmatureError {
    return new ArmatureError('SERVING_WORKER_DRAINING', `worker ${this.instanceId} is draining`, { retryable: true, hint: 'the request is tried on another worker' });
  }

  /** A dead engine leaves the pool: its requests move on, and no new ones come. Looked at whenever a leg ends. */
  #checkFailure(): void {
    const failure = this.#options.engine.failure();
    if (failure === undefined || this.#hasFailed) return;
    this.#hasFailed = true;
    const { model, pool, index, health, log } = this.#options;
    health.set(`worker ${model}/${pool}/${index}`, 'failed', `${failure.code}: ${failure.message}`);
    log.error('worker leaves the pool: its engine failed', { code: failure.code, worker: this.instanceId, reason: failure.message });
    this.#registration?.close().catch((error: unknown) => log.warn('worker could not leave discovery', { worker: this.instanceId, reason: String(error) }));
  }

  #ended(leg: object): void {
    this.#checkFailure();
    this.#running.ended(leg);
  }

  /** Legs are refused and discovery left; the endpoint stays, so that prefilled blocks can still be read and released. */
  async #drain(deadlineMs: number): Promise<number> {
    const { model, pool, index, health } = this.#options;
    this.#isDraining = true;
    health.set(`worker ${model}/${pool}/${index}`, 'draining');
    await this.#registration?.close();
    await this.#running.idle(deadlineMs);
    if (this.#closing !== undefined) throw this.#drainingError();
    const moved = this.#running.moveOn(this.#drainingError().toData());
    await this.#running.idle(MOVE_ON_MS);
    return moved;
  }

  /** Another life over the same engine: what its cache holds is in the new life's first snapshot. */
  async #rejoin(role: WorkerRole): Promise<string> {
    const { model, pool, index, nextIncarnation, health, log } = this.#options;
    if (this.#closing !== undefined) throw this.#drainingError();
    const before = this.#instanceId;
    this.#instanceId = `${pool}/${index}@${nextIncarnation()}`;
    this.#subject = kvEventSubject(model, this.#instanceId);
    this.#role = role;
    this.#events.restart();
    this.#record = this.#buildRecord(this.#endpoint?.address ?? '');
    this.#isDraining = false; // before others can know of it
    this.#registration = await this.#registerAgain(this.#record);
    health.set(`worker ${model}/${pool}/${index}`, 'ready');
    log.info('worker changed its role', { worker: this.#instanceId, before, role });
    return this.#instanceId;
  }

  /** A worker outside of discovery is lost to everybody: tried until it is in, or closes. */
  async #registerAgain(record: WorkerRecord): Promise<Registration> {
    const { clock, log } = this.#options;
    for (;;) {
      if (this.#closing !== undefined) throw this.#drainingError();
      if (this.#hasFailed) throw new ArmatureError('SERVING_WORKER_FAILED', `the engine of worker ${record.instanceId} failed while its role changed`, { hint: 'start its process again' });
      try {
        return await this.#register(record);
      } catch (error) {
        log.warn('worker could not register again', { worker: record.instanceId, reason: String(error) });
        await clock.sleep(REJOIN_RETRY_MS);
      }
    }
  }

  #changeRole(message: PlaneMessage, stream: PlaneStream): StreamSink {
    this.#refuseIfDraining();
    let ended: (value?: unknown) => void = () => undefined;
    const host: RoleHost = {
      instanceId: this.#instanceId,
      role: this.#role,
      abilities: this.engine.abilities,
      legs: this.#running.size,
      drain: (deadlineMs) => {
        this.#changing = new Promise((resolve) => (ended = resolve));
        return this.#drain(deadlineMs);
      },
      rejoin: (role) => this.#rejoin(role),
      changed: (role, outcome) => {
        this.#changing = undefined;
        this.#roleChanges.with(role, outcome).inc();
        ended();
      },
    };
    return answerRoleChange(host, parseRoleChange(message), stream);
  }
}

function answer(stream: PlaneStream, message: PlaneMessage, error?: ErrorData): StreamSink {
  stream.send(message);
  stream.close(error);
  return ignore;
}
