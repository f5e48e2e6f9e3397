import { ArmatureError, kvEventSubject } from '@armature/contracts';
import type { PlaneMessage, PlaneStream, StreamSink, WorkerRecord, WorkerRole } from '@armature/contracts';
import { answerRoleChange, parseRoleChange } from '../control/role-change.ts';
import type { RoleHost } from '../control/role-change.ts';
import { EngineWatch } from './engine-watch.ts';
import type { EngineState } from './engine-watch.ts';
import { Membership } from './membership.ts';
import type { RunningLegs } from './running-legs.ts';
import type { WorkerHostOptions } from './worker-host.ts';
import type { WorkerMetrics } from './worker-metrics.ts';
import type { LifeFacts } from './worker-record.ts';

/** For legs that were told to move on: what they hold goes back within a pass of the engine. */
const MOVE_ON_MS = 2_000;

export interface WorkerLivesOptions {
  readonly host: WorkerHostOptions;
  readonly running: RunningLegs;
  readonly metrics: WorkerMetrics;
  readonly record: (life: LifeFacts) => WorkerRecord;
  /** A new life begins, whose KV events count from 1 and whose first snapshot is all that is held. */
  readonly reborn: () => void;
}

/**
 * The lives of a worker over one engine: registers, drains, changes role, leaves when its engine fails and comes back when it is well. Each time it
 * comes back it is another incarnation, so that whoever follows its KV events asks for the whole state: the engine's cache may be empty.
 */
export class WorkerLives {
  readonly #options: WorkerLivesOptions;
  readonly #component: string;
  readonly #membership: Membership;
  readonly #watch: EngineWatch;
  #instanceId: string;
  #subject: string;
  #role: WorkerRole;
  #address: string;
  #record: WorkerRecord | undefined;
  #isDraining: boolean;
  #isClosing: boolean;
  /** From the engine's failure until the worker is registered again. */
  #isOut: boolean;
  /** A change of role or a return that is under way. */
  #changing: Promise<unknown> | undefined;

  constructor(options: WorkerLivesOptions) {
    const { model, pool, index, incarnation, role, engine, discovery, clock, log } = options.host;
    this.#options = options;
    this.#component = `worker ${model}/${pool}/${index}`;
    this.#membership = new Membership({ model, discovery, clock, log });
    this.#watch = new EngineWatch({ engine, clock, changed: (state) => this.#engineIs(state) });
    this.#instanceId = `${pool}/${index}@${incarnation}`;
    this.#subject = kvEventSubject(model, this.#instanceId);
    this.#role = role;
    this.#address = '';
    this.#record = undefined;
    this.#isDraining = false;
    this.#isClosing = false;
    this.#isOut = false;
    this.#changing = undefined;
  }

  /** Of the life now, as all that follows. */
  get instanceId(): string {
    return this.#instanceId;
  }

  get subject(): string {
    return this.#subject;
  }

  get role(): WorkerRole {
    return this.#role;
  }

  get record(): WorkerRecord | undefined {
    return this.#record;
  }

  get isWell(): boolean {
    return !this.#isDraining && !this.#isOut && this.#options.host.engine.failure() === undefined;
  }

  async start(address: string): Promise<void> {
    this.#address = address;
    this.#record = this.#buildRecord(this.#role);
    await this.#membership.enter(this.#record);
    this.#watch.start();
    this.#tellHealth();
  }

  /** Out of discovery and no more legs; whatever was under way has ended. */
  async leave(): Promise<void> {
    this.#isClosing = true;
    this.#isDraining = true;
    this.#watch.stop();
    this.#tellHealth();
    this.#options.running.wake(); // a change of role that waits for its legs gives up
    await this.#changing;
    await this.#membership.close();
  }

  forget(): void {
    this.#options.host.health.remove(this.#component);
  }

  /** An engine that fails ends its legs: looked at whenever one ends, and every second. */
  legEnded(): void {
    if (!this.#isClosing) this.#watch.look();
  }

  refuseIfDraining(): void {
    if (this.#isDraining) throw this.#drainingError();
  }

  changeRole(message: PlaneMessage, stream: PlaneStream): StreamSink {
    this.refuseIfDraining();
    this.#refuseIfOut();
    let ended: (value?: unknown) => void = () => undefined;
    const { host: options, running, metrics } = this.#options;
    const host: RoleHost = {
      instanceId: this.#instanceId,
      role: this.#role,
      abilities: options.engine.abilities,
      legs: running.size,
      drain: (deadlineMs) => {
        this.#changing = new Promise((resolve) => (ended = resolve));
        return this.#drain(deadlineMs);
      },
      rejoin: (role) => this.#takeRole(role),
      changed: (role, outcome) => {
        metrics.roleChanges.with(role, outcome).inc();
        ended();
      },
    };
    return answerRoleChange(host, parseRoleChange(message), stream);
  }

  /** Legs are refused and discovery left; the endpoint stays, so that prefilled blocks can still be read and released. */
  async #drain(deadlineMs: number): Promise<number> {
    const { running } = this.#options;
    this.#isDraining = true;
    this.#tellHealth();
    await this.#membership.leave();
    await running.idle(deadlineMs);
    if (this.#isClosing) throw this.#drainingError();
    const moved = running.moveOn(this.#drainingError().toData());
    await running.idle(MOVE_ON_MS);
    return moved;
  }

  async #takeRole(role: WorkerRole): Promise<string> {
    const { log } = this.#options.host;
    const before = this.#instanceId;
    try {
      await this.#rejoin(role);
    } finally {
      this.#isDraining = this.#isClosing;
      this.#tellHealth();
    }
    log.info('worker changed its role', { worker: this.#instanceId, before, role });
    return this.#instanceId;
  }

  /** Another life over the same engine: what its cache holds is in the new life's first snapshot. Throws, in the old role, when the engine fails or the worker closes. */
  async #rejoin(role: WorkerRole): Promise<void> {
    const { pool, index, model, nextIncarnation } = this.#options.host;
    const check = (): void => {
      if (this.#isClosing) throw this.#drainingError();
      this.#refuseIfFailed();
    };
    check();
    this.#instanceId = `${pool}/${index}@${nextIncarnation()}`;
    this.#subject = kvEventSubject(model, this.#instanceId);
    this.#options.reborn();
    const record = this.#buildRecord(role);
    this.#isDraining = false; // before others can know of it
    await this.#membership.enterAgain(record, check);
    this.#role = role;
    this.#record = record;
    if (this.#isOut) this.#isBack();
  }

  #engineIs(state: EngineState): void {
    if (state.is === 'failed' && !this.#isOut) this.#leaveFailed(state.failure.code);
    this.#tellHealth();
    if (state.is === 'well') this.#comeBack();
    else this.#tellUnwell(state);
  }

  /** At once: its requests move on, and no new ones come. */
  #leaveFailed(code: string): void {
    const { host, metrics } = this.#options;
    this.#isOut = true;
    metrics.engineFailures.inc();
    metrics.out.set(1);
    host.log.error('worker leaves the pool: its engine failed', { code, worker: this.#instanceId, reason: host.engine.failure()?.message });
    this.#membership.leave().catch((error: unknown) => host.log.warn('worker could not leave discovery', { worker: this.#instanceId, reason: String(error) }));
  }

  #comeBack(): void {
    const { log } = this.#options.host;
    // A change of role that saw the failure ends first.
    this.#changing = Promise.resolve(this.#changing)
      .then(() => this.#return())
      .catch((error: unknown) => log.warn('worker could not come back', { worker: this.#instanceId, reason: ArmatureError.from(error).message }));
  }

  async #return(): Promise<void> {
    if (!this.#isOut) return; // the change of role has brought it back
    const before = this.#instanceId;
    await this.#rejoin(this.#role); // failed again meanwhile: the watch says when it is well
    this.#options.host.log.info('worker is back: its engine is well again', { worker: this.#instanceId, before });
  }

  #isBack(): void {
    const { metrics } = this.#options;
    this.#isOut = false;
    metrics.engineRecoveries.inc();
    metrics.out.set(0);
    this.#membership.tell(undefined);
    this.#tellHealth();
  }

  #tellHealth(): void {
    const { health } = this.#options.host;
    const { state } = this.#watch;
    if (this.#isDraining) health.set(this.#component, 'draining');
    else if (state.is === 'failed') health.set(this.#component, 'failed', `${state.failure.code}: ${state.failure.message}`);
    else if (state.is === 'held') health.set(this.#component, 'degraded', `its engine had failed (${state.failure.code}); back in the pool when it has been well for ${state.holdMs / 1000} s`);
    else if (this.#isOut) health.set(this.#component, 'degraded', 'its engine is well again; not yet in discovery');
    else health.set(this.#component, 'ready');
  }

  #tellUnwell(state: Exclude<EngineState, { is: 'well' }>): void {
    if (this.#record === undefined) return;
    const { instanceId, model, pool, index, role, engine, hardware, address } = this.#record;
    const { code, message } = state.failure;
    this.#membership.tell({ instanceId, model, pool, index, role, engine, hardware, address, state: state.is, holdMs: state.is === 'held' ? state.holdMs : 0, code, reason: message });
  }

  #buildRecord(role: WorkerRole): WorkerRecord {
    return this.#options.record({ instanceId: this.#instanceId, role, address: this.#address });
  }

  #drainingError(): ArmatureError {
    return new ArmatureError('SERVING_WORKER_DRAINING', `worker ${this.#instanceId} is draining`, { retryable: true, hint: 'the request is tried on another worker' });
  }

  #refuseIfOut(): void {
    if (this.#isOut) this.#refuseFailed();
  }

  #refuseIfFailed(): void {
    if (this.#watch.state.is !== 'well') this.#refuseFailed();
  }

  #refuseFailed(): never {
    throw new ArmatureError('SERVING_WORKER_FAILED', `the engine of worker ${this.#instanceId} has failed`, {
      hint: 'the worker comes back by itself when its engine is well; otherwise start its process again',
    });
  }
}
