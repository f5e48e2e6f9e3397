import type { Reservation } from '@armature/blocks';
import { ArmatureError, FinishCode } from '@armature/contracts';
import type { Clock, ErrorData, Logger } from '@armature/contracts';
import { adopt } from './adoption.ts';
import { buildKvParts } from './engine-parts.ts';
import type { KvParts, KvSizes } from './engine-parts.ts';
import type { KvEventLog } from './kv-events.ts';
import type { ModelRunner, StepResult } from './model-runner.ts';
import type { RequestGroup } from './request-group.ts';
import { finishOf, samplingSetup } from './sampling-setup.ts';
import { Scheduler } from './scheduler.ts';
import { Sequence, SequenceState } from './sequence.ts';
import { PassHistory } from './pass-history.ts';
import { passesAhead } from './passes-ahead.ts';
import { SlotTable } from './slot-table.ts';
import { StepColumns } from './step-columns.ts';
import { Watchdog } from './watchdog.ts';

export interface PassLoopOptions {
  readonly runner: ModelRunner;
  readonly clock: Clock;
  readonly log: Logger;
  readonly events: KvEventLog;
  readonly sizes: KvSizes;
  readonly stepTimeoutMs: number;
  /** Passes that the runner may do at once. */
  readonly maxPasses: number;
  readonly eos: ReadonlySet<number>;
  /** Prefill legs end with a token of this engine. */
  readonly samplesPrefill: boolean;
  /** Called whenever the loop may have come to rest. */
  readonly onRest: () => void;
}

/** Pass after pass while there is work: schedule, run, account, tell the sinks. No promises. */
export class PassLoop {
  readonly kv: KvParts;
  readonly scheduler: Scheduler;
  readonly history: PassHistory;
  readonly #options: PassLoopOptions;
  readonly #sizes: KvSizes;
  readonly #slots: SlotTable;
  readonly #columns: StepColumns;
  readonly #watchdog: Watchdog;
  /** Sequences of the pass that runs or ran last. */
  readonly #batch: Sequence[];
  /** Groups that are to be told something after the pass. */
  readonly #touched: RequestGroup[];
  readonly #onKick: () => void;
  readonly #onStepped: (result: StepResult | undefined, error: ErrorData | undefined) => void;
  #isStepping: boolean;
  #isKicked: boolean;
  #isClosed: boolean;
  #failure: ErrorData | undefined;
  #arrivals: number;

  constructor(options: PassLoopOptions) {
    const { clock, log, events, sizes } = options;
    const { totalBlocks, blockSize, maxSequences, maxBatchedTokens, maxModelTokens } = sizes;
    this.#options = options;
    this.#sizes = sizes;
    const onFreed = (): void => {
      this.kick();
      options.onRest();
    };
    this.kv = buildKvParts({ totalBlocks, clock, log, events, onFreed });
    this.scheduler = new Scheduler({ blockSize, maxSequences, maxBatchedTokens }, this.kv.pool, (sequence) => this.#closeSlot(sequence));
    this.history = new PassHistory();
    this.#slots = new SlotTable(maxSequences);
    this.#columns = new StepColumns(maxSequences, maxBatchedTokens, Math.ceil(maxModelTokens / blockSize) + 1);
    this.#watchdog = new Watchdog(clock, options.stepTimeoutMs, () => this.#stuck());
    this.#batch = [];
    this.#touched = [];
    this.#onKick = () => {
      this.#isKicked = false;
      this.#step();
    };
    this.#onStepped = (result, error) => this.#stepped(result, error);
    this.#isStepping = false;
    this.#isKicked = false;
    this.#isClosed = false;
    this.#failure = undefined;
    this.#arrivals = 0;
  }

  /** Why no pass can run any more. */
  get failure(): ErrorData | undefined {
    return this.#failure;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Nothing runs or waits, and nobody reads under a lease. */
  get isResting(): boolean {
    if (this.#failure !== undefined) return true; // what a lost pass still uses never comes back
    return !this.scheduler.hasWork && !this.#isStepping && this.kv.leases.size === 0;
  }

  /** Ends every request; nothing runs from here on. The runner is still to be closed, then `closed` called. */
  close(): void {
    this.#isClosed = true;
    this.#watchdog.disarm();
    this.#failAll({ code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true });
  }

  /** The runner writes no more: everything goes back. */
  closed(): void {
    this.#isStepping = false;
    this.#releaseBatch();
    this.kv.leases.clear();
    this.kv.reservations.stop();
    this.#options.onRest();
  }

  // ---------------------------------------------------------------- requests

  /** Takes a request that has been checked. */
  accept(group: RequestGroup): void {
    const { request } = group;
    const { firstTokens, kvSource, choices } = request;
    this.#arrivals++;
    if (firstTokens !== undefined) {
      group.outputTokens = choices;
      for (let choice = 0; choice < choices; choice++) if (firstTokens[choice] === -1) group.open--;
    }
    if (request.leg === 'prefill' && !this.#options.samplesPrefill) {
      group.open = 1; // nothing is drawn: the choices begin elsewhere
      group.isForked = true;
    }
    const open = firstTokens?.findIndex((token) => token !== -1) ?? 0;
    const lead = this.#addSequence(group, Math.max(0, open), this.#arrivals);
    const reservation = kvSource?.type === 'reservation' ? this.kv.reservations.adopt(kvSource.reservation) : undefined;
    if (reservation !== undefined && kvSource?.type === 'reservation') this.#adopt(lead, reservation, kvSource.readyTokens);
    if (group.open === 0 || lead.outputLength >= request.stop.maxTokens || lead.length >= this.#sizes.maxModelTokens) {
      lead.state = SequenceState.Finished;
      group.account(lead.computed);
      this.#release(lead);
      this.#finishGroup(group);
      return;
    }
    this.scheduler.add(lead);
    this.kick();
  }

  #addSequence(group: RequestGroup, choice: number, arrival: number): Sequence {
    const sequence = new Sequence(group, { choice, arrival, blockSize: this.#sizes.blockSize });
    const first = group.request.firstTokens?.[choice] ?? -1;
    if (first !== -1) sequence.append(first);
    group.sequences.push(sequence);
    return sequence;
  }

  #adopt(sequence: Sequence, reservation: Reservation, readyTokens: number): void {
    if (adopt(sequence, reservation, readyTokens, this.kv)) return;
    const fields = { code: 'ENGINE_RESERVATION_MISMATCH', request: sequence.request.id, reservation: reservation.id };
    this.#options.log.warn("a reservation holds another prompt than the request that came with it; the request's is computed", fields);
  }

  /** The other choices start when the first one's prompt is in the prefix cache: one prefill for all. */
  #fork(lead: Sequence): void {
    const { group } = lead;
    group.isForked = true;
    for (let choice = 0; choice < group.request.choices; choice++) {
      if (choice === lead.choice || group.request.firstTokens?.[choice] === -1) continue;
      this.scheduler.add(this.#addSequence(group, choice, lead.arrival));
    }
  }

  // ---------------------------------------------------------------- passes

  /** Runs a pass at the end of this tick, so that requests of one tick share it. */
  kick(): void {
    if (this.#isStepping) this.#interrupt();
    if (this.#isStepping || this.#isKicked || this.#isClosed) return;
    this.#isKicked = true;
    this.#options.clock.defer(this.#onKick);
  }

  #step(): void {
    const { scheduler } = this;
    if (this.#isStepping || this.#isClosed || this.#failure !== undefined || !scheduler.hasWork) {
      this.#options.onRest();
      return;
    }
    scheduler.schedule(this.#batch);
    if (this.#batch.length > 0) this.#isStepping = true;
    for (let i = 0; i < this.#batch.length; i++) this.#batch[i].isInStep = true;
    this.#options.events.flushRemoved(); // a listener may cancel: what is in the pass stays until its end
    if (this.#batch.length === 0) return; // blocks are pinned elsewhere: their release kicks again
    this.#watchdog.arm();
    try {
      for (let i = 0; i < this.#batch.length; i++) this.#prepare(this.#batch[i]);
      this.#columns.fill(this.#batch, this.#options.samplesPrefill);
      this.#columns.maxPasses = this.#options.maxPasses > 1 ? passesAhead(this.#batch, this.#sizes, this.#options) : 1;
      this.history.begin(this.#columns, this.#options.clock.nowMs());
      this.#options.runner.step(this.#columns, this.#onStepped);
    } catch (error) {
      this.#stepped(undefined, ArmatureError.from(error, 'ENGINE_STEP_FAILED').toData());
      return;
    }
    this.#flushTouched(); // prefill legs that have begun: their borrowers get ready while the pass runs
  }

  /** Who waits need not wait for passes that were to be done at once. */
  #interrupt(): void {
    if (this.#columns.maxPasses > 1) this.#options.runner.interrupt?.();
  }

  #prepare(sequence: Sequence): void {
    if (sequence.slot === -1) this.#openSlot(sequence);
    if (sequence.request.leg === 'prefill') this.#progress(sequence);
  }

  #stepped(result: StepResult | undefined, error: ErrorData | undefined): void {
    this.#watchdog.disarm();
    if (this.#isClosed || this.#failure !== undefined) return; // a stuck pass that ends after all has nobody to tell
    this.#isStepping = false;
    this.history.end(result?.passes ?? 1, this.#options.clock.nowMs());
    if (result === undefined) {
      this.#fail(error ?? { code: 'ENGINE_STEP_FAILED', message: 'the model runner failed without saying why' });
      return;
    }
    for (let row = 0; row < this.#batch.length; row++) this.#advance(this.#batch[row], result, row);
    if (result.passes !== undefined) for (let pass = 1; pass < result.passes; pass++) this.#advanceAgain(result, pass * this.#batch.length);
    this.#flushTouched();
    if (this.scheduler.hasWork) this.#step();
    else this.#options.onRest();
  }

  /** One sequence after a pass: its KV is further, maybe it has a new token. Calls no sink. */
  #advance(sequence: Sequence, result: StepResult, row: number): void {
    const { group } = sequence;
    const isComplete = sequence.isComplete;
    const isPrefill = group.request.leg === 'prefill';
    const rowError = result.rowErrors?.get(row);
    if (sequence.state !== SequenceState.Finished) {
      if (rowError !== undefined) this.#condemn(sequence, rowError);
      else this.#computed(sequence);
    }
    sequence.isInStep = false;
    if (sequence.state === SequenceState.Finished) this.#release(sequence); // cancelled during the pass, or by a listener just now
    if (sequence.state === SequenceState.Finished || rowError !== undefined) return;
    if (isPrefill) this.#progress(sequence);
    if (!isComplete) return;
    if (!group.isForked) this.#fork(sequence);
    if (isPrefill && !this.#options.samplesPrefill) {
      this.#touch(group);
      this.#finishSequence(sequence);
      return;
    }
    sequence.append(result.tokenIds[row]);
    const finish = finishOf(sequence, this.#options.eos, this.#sizes.maxModelTokens);
    this.#touch(group);
    group.push(sequence, finish, result, row);
    if (finish !== FinishCode.None || isPrefill) this.#finishSequence(sequence);
  }

  /** A further pass of several that were done at once. */
  #advanceAgain(result: StepResult, from: number): void {
    for (let row = 0; row < this.#batch.length; row++) {
      const sequence = this.#batch[row];
      if (sequence.state !== SequenceState.Running) continue; // cancelled meanwhile
      sequence.scheduled = 1;
      this.#advance(sequence, result, from + row);
    }
  }

  #touch(group: RequestGroup): void {
    if (group.isTouched) return;
    group.isTouched = true;
    this.#touched.push(group);
  }

  /** Tells the sinks. They may submit and cancel, which adds no groups here. */
  #flushTouched(): void {
    for (let i = 0; i < this.#touched.length; i++) this.#flush(this.#touched[i]);
    this.#touched.length = 0;
  }

  #flush(group: RequestGroup): void {
    group.isTouched = false;
    if (!group.flush()) group.error = { code: 'ENGINE_SINK_FAILED', message: 'the receiver of this request failed' };
    if (group.error !== undefined) {
      this.drop(group);
      group.fail(group.error);
    } else if (group.open === 0) {
      this.#finishGroup(group);
    }
  }

  /** The pass's tokens are in the blocks: complete ones enter the prefix cache and are announced. */
  #computed(sequence: Sequence): void {
    sequence.computed += sequence.scheduled;
    sequence.scheduled = 0;
    const { registry } = this.kv;
    const { hasher, registered, group } = sequence;
    const complete = Math.min(Math.floor(sequence.computed / this.#sizes.blockSize), hasher.blocks);
    if (complete <= registered) return;
    group.eventId = registry.register(sequence, registered, complete) || group.eventId;
    registry.share(sequence, registered, complete);
    sequence.registered = complete;
  }

  /** Progress of a prefill leg. The lease exists from the first word on; its time begins when the leg ends. */
  #progress(sequence: Sequence): void {
    const { group } = sequence;
    if (sequence !== group.sequences[0] || group.hasEnded) return;
    const { promptTokens } = group.request;
    if (group.lease === 0) {
      group.leaseBlocks = sequence.blocks.slice(0, Math.ceil(promptTokens / this.#sizes.blockSize));
      group.lease = this.kv.leases.grant(group.leaseBlocks);
    }
    group.readableTokens = Math.min(sequence.computed, promptTokens);
    this.#touch(group);
  }

  // ---------------------------------------------------------------- ends

  #finishSequence(sequence: Sequence): void {
    sequence.state = SequenceState.Finished;
    this.scheduler.remove(sequence);
    this.#release(sequence);
    sequence.group.open--;
  }

  #finishGroup(group: RequestGroup): void {
    this.#armLease(group);
    const { promptTokens } = group.request;
    group.end({ type: 'finished', usage: { promptTokens, cachedTokens: group.cachedTokens, outputTokens: group.outputTokens } });
  }

  /** A borrower may be reading: from here on the lease lives by its time. */
  #armLease(group: RequestGroup): void {
    if (group.lease !== 0 && !group.hasEnded) this.kv.leases.arm(group.lease, group.request.leaseTtlMs);
  }

  /** Ends a group's sequences without a word to the sink; those in a running pass are released after it. */
  drop(group: RequestGroup): void {
    this.#armLease(group);
    for (const sequence of group.sequences) {
      if (sequence.state === SequenceState.Finished) continue;
      sequence.state = SequenceState.Finished;
      this.scheduler.remove(sequence);
      if (sequence.isInStep) this.#interrupt();
      else this.#release(sequence);
    }
  }

  #release(sequence: Sequence): void {
    sequence.isInStep = false;
    this.#closeSlot(sequence);
    this.scheduler.releaseBlocks(sequence);
    this.kick();
  }

  /** The bytes of this sequence's KV are wrong: nobody may match them, and the request fails. */
  #condemn(sequence: Sequence, error: ErrorData): void {
    const { group } = sequence;
    for (let i = 0; i < sequence.blockCount; i++) this.kv.pool.invalidate(sequence.blocks[i]);
    this.#options.events.flushRemoved();
    group.error = error;
    this.#touch(group);
  }

  #fail(error: ErrorData): void {
    this.#failure = { ...error, retryable: true };
    this.#options.log.error('the engine failed', { code: error.code, message: error.message });
    this.#failAll(this.#failure);
    if (!this.#isStepping) this.#releaseBatch();
    this.#options.onRest();
  }

  #releaseBatch(): void {
    for (const sequence of this.#batch) if (sequence.isInStep) this.#release(sequence);
  }

  /** The pass may still write: its blocks stay out of use for good. */
  #stuck(): void {
    const { stepTimeoutMs } = this.#options;
    const message = `a pass of ${this.#batch.length} sequences has been running for ${stepTimeoutMs} ms`;
    this.#fail({ code: 'ENGINE_STEP_STUCK', message, hint: 'restart the worker', retryable: true });
  }

  #failAll(error: ErrorData): void {
    const { running, waiting } = this.scheduler;
    const groups = new Set([...running, ...waiting].map((sequence) => sequence.group));
    for (const group of groups) {
      this.drop(group);
      group.fail(error);
    }
  }

  #openSlot(sequence: Sequence): void {
    sequence.slot = this.#slots.take();
    try {
      this.#options.runner.openSequence(samplingSetup(sequence, this.#options.eos));
    } catch (error) {
      this.#slots.free(sequence.slot);
      sequence.slot = -1;
      throw error;
    }
  }

  #closeSlot(sequence: Sequence): void {
    if (sequence.slot === -1) return;
    this.#options.runner.closeSequence(sequence.slot);
    this.#slots.free(sequence.slot);
    sequence.slot = -1;
  }
}
