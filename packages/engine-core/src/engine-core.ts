import { BlockPool, LeaseTable, ReservationTable } from '@armature/blocks';
import { ArmatureError, FinishCode } from '@armature/contracts';
import type { Clock, EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, KvEvent, Logger } from '@armature/contracts';
import { checkRequest } from './check-request.ts';
import { KvEventLog } from './kv-events.ts';
import { EngineKv } from './kv-face.ts';
import type { ModelRunner, StepResult } from './model-runner.ts';
import { PrefixRegistry } from './prefix-registry.ts';
import { RequestGroup } from './request-group.ts';
import { finishOf, samplingSetup } from './sampling-setup.ts';
import { Scheduler } from './scheduler.ts';
import { Sequence, SequenceState } from './sequence.ts';
import { SlotTable } from './slot-table.ts';
import { StepColumns } from './step-columns.ts';
import { Watchdog } from './watchdog.ts';

export interface EngineCoreOptions {
  readonly runner: ModelRunner;
  readonly clock: Clock;
  readonly log: Logger;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  /** Requests that may wait; more are refused with ENGINE_OVERLOADED. */
  readonly maxWaiting: number;
  /** A pass that takes longer is reported as stuck. */
  readonly stepTimeoutMs: number;
  readonly roles?: EngineAbilities['roles'];
  /** Default `prefill`. */
  readonly firstToken?: EngineAbilities['firstToken'];
}

/** What exists once the runner has said how large it is. */
interface Parts {
  readonly pool: BlockPool;
  readonly leases: LeaseTable;
  readonly reservations: ReservationTable;
  readonly registry: PrefixRegistry;
  readonly scheduler: Scheduler;
  readonly slots: SlotTable;
  readonly columns: StepColumns;
  readonly kv: EngineKv;
}

interface Sizes {
  readonly totalBlocks: number;
  readonly blockSize: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly maxModelTokens: number;
}

const UNSTARTED: Sizes = { totalBlocks: 0, blockSize: 1, maxSequences: 0, maxBatchedTokens: 0, maxModelTokens: 0 };

/** An engine without its model: scheduler, paged blocks with prefix cache, KV events, kv face. The runner executes the passes. */
export class EngineCore implements EngineBackend {
  readonly abilities: EngineAbilities;
  readonly #options: EngineCoreOptions;
  readonly #events: KvEventLog;
  readonly #watchdog: Watchdog;
  /** Sequences of the pass that runs or ran last. */
  readonly #batch: Sequence[];
  /** Groups that are to be told something after the pass. */
  readonly #touched: RequestGroup[];
  readonly #onKick: () => void;
  readonly #onStepped: (result: StepResult | undefined, error: ErrorData | undefined) => void;
  #parts: Parts;
  #info: EngineInfo | undefined;
  #eos: ReadonlySet<number>;
  #isStepping: boolean;
  #isKicked: boolean;
  #isClosed: boolean;
  #isDraining: boolean;
  #failure: ErrorData | undefined;
  #onIdle: (() => void) | undefined;
  #arrivals: number;

  constructor(options: EngineCoreOptions) {
    this.#options = options;
    const firstToken = options.firstToken ?? 'prefill';
    this.abilities = { roles: options.roles ?? ['both', 'prefill', 'decode'], roleChange: 'live', firstToken, legs: 'sequential', kvEvents: true, maxTopLogprobs: 20 };
    this.#events = new KvEventLog();
    this.#watchdog = new Watchdog(options.clock, options.stepTimeoutMs, () => this.#stuck());
    this.#batch = [];
    this.#touched = [];
    this.#onKick = () => {
      this.#isKicked = false;
      this.#step();
    };
    this.#onStepped = (result, error) => this.#stepped(result, error);
    this.#parts = this.#build(UNSTARTED);
    this.#info = undefined;
    this.#eos = new Set();
    this.#isStepping = false;
    this.#isKicked = false;
    this.#isClosed = false;
    this.#isDraining = false;
    this.#failure = undefined;
    this.#onIdle = undefined;
    this.#arrivals = 0;
  }

  get kv(): EngineKv {
    return this.#parts.kv;
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new ArmatureError('ENGINE_NOT_STARTED', 'the engine has not been started', { hint: 'await start() first' });
    return this.#info;
  }

  async start(): Promise<void> {
    const { runner, maxSequences, maxBatchedTokens } = this.#options;
    await runner.start();
    const { modelFingerprint, vocabSize, blockSize, totalBlocks, eosTokenIds } = runner.info;
    const maxModelTokens = Math.min(runner.info.maxModelTokens, totalBlocks * blockSize);
    this.#info = { modelFingerprint, vocabSize, maxModelTokens, blockSize, totalBlocks, maxSequences, maxBatchedTokens };
    this.#eos = new Set(eosTokenIds);
    this.#parts = this.#build(this.#info);
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const group = new RequestGroup(request, sink, this.#options.log);
    const refusal = this.#refuse(request);
    if (refusal === undefined) {
      this.#accept(group);
    } else {
      // A refused decode leg still owns its reservation.
      if (request.kvSource?.type === 'reservation') this.kv.release(request.kvSource.reservation);
      group.fail(refusal);
    }
    return group;
  }

  cancel(handle: EngineHandle): void {
    const group = handle as RequestGroup;
    if (group.hasEnded) return;
    this.#drop(group);
    group.end({ type: 'cancelled' });
    this.#checkIdle();
  }

  load(): EngineLoad {
    const { scheduler, pool } = this.#parts;
    return {
      running: scheduler.running.length,
      waiting: scheduler.waiting.length,
      prefillTokens: scheduler.prefillTokens,
      usedBlocks: pool.usedBlocks,
      freeBlocks: pool.freeBlocks,
      totalBlocks: pool.totalBlocks,
      preemptions: scheduler.preemptions,
    };
  }

  onKvEvent(listener: (event: KvEvent) => void): void {
    this.#events.listen(listener);
  }

  snapshot(): readonly KvEvent[] {
    return this.#events.snapshot(this.#parts.pool);
  }

  failure(): ErrorData | undefined {
    return this.#failure;
  }

  /** Forgets every block that no request uses; returns how many. */
  resetPrefixCache(): number {
    const cleared = this.#parts.pool.clearInactive();
    this.#events.flushRemoved();
    return cleared;
  }

  /** Waits until nothing runs and no borrower reads, at most `deadlineMs`. */
  async drain(deadlineMs: number): Promise<void> {
    this.#isDraining = true;
    if (this.#isIdle()) return;
    const { clock } = this.#options;
    await new Promise<void>((resolve) => {
      const timer = clock.setTimer(deadlineMs, resolve);
      this.#onIdle = () => {
        clock.clearTimer(timer);
        resolve();
      };
    });
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#watchdog.disarm();
    this.#failAll({ code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true });
    await this.#options.runner.close();
    this.#isStepping = false;
    for (const sequence of this.#batch) if (sequence.isInStep) this.#release(sequence);
    this.#parts.leases.clear();
    this.#parts.reservations.stop();
    this.#checkIdle();
  }

  // ---------------------------------------------------------------- requests

  #refuse(request: EngineRequest): ErrorData | undefined {
    if (this.#failure !== undefined) return this.#failure;
    if (this.#isClosed || this.#info === undefined) return { code: 'ENGINE_CLOSED', message: 'the engine is not running', retryable: true };
    if (this.#isDraining) return { code: 'ENGINE_DRAINING', message: 'the engine takes no new requests', retryable: true };
    const { maxWaiting } = this.#options;
    if (this.#parts.scheduler.waiting.length >= maxWaiting) {
      return { code: 'ENGINE_OVERLOADED', message: `${maxWaiting} requests are waiting already`, hint: 'retry later, or add workers', retryable: true };
    }
    return checkRequest(request, this.#info, this.abilities);
  }

  #accept(group: RequestGroup): void {
    const { request } = group;
    const { firstTokens, kvSource, choices } = request;
    this.#arrivals++;
    if (firstTokens !== undefined) {
      group.outputTokens = choices;
      for (let choice = 0; choice < choices; choice++) if (firstTokens[choice] === -1) group.open--;
    }
    const open = firstTokens?.findIndex((token) => token !== -1) ?? 0;
    const lead = this.#addSequence(group, Math.max(0, open), this.#arrivals);
    if (kvSource?.type === 'reservation') this.#adopt(lead, kvSource.reservation, kvSource.readyTokens);
    if (group.open === 0 || lead.outputLength >= request.stop.maxTokens) {
      lead.state = SequenceState.Finished;
      this.#release(lead);
      this.#finishGroup(group);
      return;
    }
    this.#parts.scheduler.add(lead);
    this.#kick();
  }

  #addSequence(group: RequestGroup, choice: number, arrival: number): Sequence {
    const sequence = new Sequence(group, { choice, arrival, blockSize: this.info.blockSize });
    const first = group.request.firstTokens?.[choice] ?? -1;
    if (first !== -1) sequence.append(first);
    group.sequences.push(sequence);
    return sequence;
  }

  /** The prompt's KV lies in a reservation's blocks up to `readyTokens`; the rest is computed. */
  #adopt(sequence: Sequence, id: number, readyTokens: number): void {
    const { reservations, registry, pool } = this.#parts;
    const { blockSize } = this.info;
    const reservation = reservations.adopt(id);
    if (reservation === undefined) return;
    const { blocks, committed, hashes } = reservation;
    registry.share(blocks, hashes, 0, committed);
    const ready = Math.min(Math.max(readyTokens, committed * blockSize), sequence.length - 1);
    // A block that others may match is never written to: its tokens are computed again in a block of this sequence.
    const writable = Math.floor(ready / blockSize) < committed ? Math.floor(ready / blockSize) : blocks.length;
    const kept = Math.min(writable, Math.ceil(sequence.length / blockSize));
    for (let i = 0; i < blocks.length; i++) {
      if (i < kept) sequence.addBlock(blocks[i]);
    }
    for (let i = blocks.length - 1; i >= kept; i--) pool.release(blocks[i]);
    sequence.computed = Math.min(ready, kept * blockSize);
    sequence.registered = Math.min(committed, Math.floor(sequence.computed / blockSize));
    sequence.isAdopted = true;
    sequence.group.account(sequence.computed);
  }

  /** The other choices start when the first one's prompt is in the prefix cache: one prefill for all. */
  #fork(lead: Sequence): void {
    const { group } = lead;
    group.isForked = true;
    for (let choice = 0; choice < group.request.choices; choice++) {
      if (choice === lead.choice || group.request.firstTokens?.[choice] === -1) continue;
      this.#parts.scheduler.add(this.#addSequence(group, choice, lead.arrival));
    }
  }

  // ---------------------------------------------------------------- passes

  /** Runs a pass at the end of this tick, so that requests of one tick share it. */
  #kick(): void {
    if (this.#isStepping || this.#isKicked || this.#isClosed) return;
    this.#isKicked = true;
    this.#options.clock.defer(this.#onKick);
  }

  #step(): void {
    const { scheduler, columns } = this.#parts;
    if (this.#isStepping || this.#isClosed || this.#failure !== undefined || !scheduler.hasWork) {
      this.#checkIdle();
      return;
    }
    scheduler.schedule(this.#batch);
    this.#events.flushRemoved();
    if (this.#batch.length === 0) return; // blocks are pinned elsewhere: their release kicks again
    for (let i = 0; i < this.#batch.length; i++) {
      const sequence = this.#batch[i];
      sequence.isInStep = true;
      if (sequence.slot === -1) this.#openSlot(sequence);
      if (sequence.request.leg === 'prefill') this.#progress(sequence);
    }
    columns.fill(this.#batch, this.abilities.firstToken === 'prefill');
    this.#isStepping = true;
    this.#watchdog.arm();
    try {
      this.#options.runner.step(columns, this.#onStepped);
    } catch (error) {
      this.#stepped(undefined, ArmatureError.from(error, 'ENGINE_STEP_FAILED').toData());
      return;
    }
    this.#flushTouched(); // prefill legs that have begun: their borrowers get ready while the pass runs
  }

  #stepped(result: StepResult | undefined, error: ErrorData | undefined): void {
    this.#watchdog.disarm();
    if (this.#isClosed || this.#failure !== undefined) return; // a stuck pass that ends after all has nobody to tell
    this.#isStepping = false;
    if (result === undefined) {
      this.#fail(error ?? { code: 'ENGINE_STEP_FAILED', message: 'the model runner failed without saying why' });
      return;
    }
    for (let row = 0; row < this.#batch.length; row++) this.#advance(this.#batch[row], result, row);
    this.#flushTouched();
    if (this.#parts.scheduler.hasWork) this.#step();
    else this.#checkIdle();
  }

  /** One sequence after a pass: its KV is further, maybe it has a new token. Calls no sink. */
  #advance(sequence: Sequence, result: StepResult, row: number): void {
    sequence.isInStep = false;
    const { group } = sequence;
    if (sequence.state === SequenceState.Finished) {
      this.#release(sequence);
      return;
    }
    const rowError = result.rowErrors?.get(row);
    if (rowError !== undefined) {
      this.#condemn(sequence, rowError);
      return;
    }
    const isComplete = sequence.isComplete;
    const isPrefill = group.request.leg === 'prefill';
    sequence.computed += sequence.scheduled;
    sequence.scheduled = 0;
    this.#registerComplete(sequence);
    if (isPrefill) this.#progress(sequence);
    if (!isComplete) return;
    if (!group.isForked) this.#fork(sequence);
    if (isPrefill && this.abilities.firstToken === 'decode') {
      this.#touch(group);
      this.#finishSequence(sequence);
      return;
    }
    sequence.append(result.tokenIds[row]);
    const finish = finishOf(sequence, this.#eos, this.info.maxModelTokens);
    this.#touch(group);
    group.push(sequence, finish, result, row);
    if (finish !== FinishCode.None || isPrefill) this.#finishSequence(sequence);
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
      this.#drop(group);
      group.fail(group.error);
    } else if (group.open === 0) {
      this.#finishGroup(group);
    }
  }

  /** Complete blocks enter the prefix cache and are announced. */
  #registerComplete(sequence: Sequence): void {
    const { registry } = this.#parts;
    const { hasher, blocks, registered, group } = sequence;
    const complete = Math.min(Math.floor(sequence.computed / this.info.blockSize), hasher.blocks);
    if (complete <= registered) return;
    const hashes = hasher.sequenceHashes;
    group.eventId = registry.register(blocks, hashes, registered, complete) || group.eventId;
    registry.share(blocks, hashes, registered, complete);
    sequence.registered = complete;
  }

  /** Progress of a prefill leg. The lease exists from the first word on; its time begins when the leg ends. */
  #progress(sequence: Sequence): void {
    const { group } = sequence;
    if (sequence !== group.sequences[0] || group.hasEnded) return;
    const { promptTokens } = group.request;
    if (group.lease === 0) {
      group.leaseBlocks = sequence.blocks.slice(0, Math.ceil(promptTokens / this.info.blockSize));
      group.lease = this.#parts.leases.grant(group.leaseBlocks);
    }
    group.readableTokens = Math.min(sequence.computed, promptTokens);
    this.#touch(group);
  }

  // ---------------------------------------------------------------- ends

  #finishSequence(sequence: Sequence): void {
    sequence.state = SequenceState.Finished;
    this.#parts.scheduler.remove(sequence);
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
    if (group.lease !== 0 && !group.hasEnded) this.#parts.leases.arm(group.lease, group.request.leaseTtlMs);
  }

  /** Ends a group's sequences; those in a running pass are released after it. */
  #drop(group: RequestGroup): void {
    this.#armLease(group);
    for (const sequence of group.sequences) {
      if (sequence.state === SequenceState.Finished) continue;
      sequence.state = SequenceState.Finished;
      this.#parts.scheduler.remove(sequence);
      if (!sequence.isInStep) this.#release(sequence);
    }
  }

  #release(sequence: Sequence): void {
    sequence.isInStep = false;
    this.#closeSlot(sequence);
    this.#parts.scheduler.releaseBlocks(sequence);
    this.#kick();
  }

  /** The bytes of this sequence's KV are wrong: nobody may match them, and the request fails. */
  #condemn(sequence: Sequence, error: ErrorData): void {
    const { group } = sequence;
    for (let i = 0; i < sequence.blockCount; i++) this.#parts.pool.invalidate(sequence.blocks[i]);
    this.#events.flushRemoved();
    group.error = error;
    this.#touch(group);
  }

  #fail(error: ErrorData): void {
    this.#failure = { ...error, retryable: true };
    this.#options.log.error('the engine failed', { code: error.code, message: error.message });
    this.#failAll(this.#failure);
    for (const sequence of this.#batch) if (sequence.isInStep && !this.#isStepping) this.#release(sequence);
    this.#checkIdle();
  }

  /** The pass may still write: its blocks stay out of use for good. */
  #stuck(): void {
    const { stepTimeoutMs } = this.#options;
    const message = `a pass of ${this.#batch.length} sequences has been running for ${stepTimeoutMs} ms`;
    this.#fail({ code: 'ENGINE_STEP_STUCK', message, hint: 'restart the worker', retryable: true });
  }

  #failAll(error: ErrorData): void {
    const { running, waiting } = this.#parts.scheduler;
    const groups = new Set([...running, ...waiting].map((sequence) => sequence.group));
    for (const group of groups) {
      this.#drop(group);
      group.fail(error);
    }
  }

  #openSlot(sequence: Sequence): void {
    sequence.slot = this.#parts.slots.take();
    this.#options.runner.openSequence(samplingSetup(sequence, this.#eos));
  }

  #closeSlot(sequence: Sequence): void {
    if (sequence.slot === -1) return;
    this.#options.runner.closeSequence(sequence.slot);
    this.#parts.slots.free(sequence.slot);
    sequence.slot = -1;
  }

  #isIdle(): boolean {
    const { scheduler, leases } = this.#parts;
    return !scheduler.hasWork && !this.#isStepping && leases.size === 0;
  }

  #checkIdle(): void {
    if (this.#onIdle !== undefined && this.#isIdle()) this.#onIdle();
  }

  #freed(): void {
    this.#kick();
    this.#checkIdle();
  }

  #build(sizes: Sizes): Parts {
    const { clock, log, runner } = this.#options;
    const { totalBlocks, blockSize, maxSequences, maxBatchedTokens, maxModelTokens } = sizes;
    const events = this.#events;
    const pool = new BlockPool(totalBlocks, (lo, hi) => events.evicted(lo, hi));
    const onFreed = (): void => this.#freed();
    const leases = new LeaseTable(pool, clock, onFreed);
    const reservations = new ReservationTable(pool, {
      clock,
      onExpired: (reservation) => log.warn('a KV reservation outlived its time; its blocks stay out of use until it is released', { code: 'ENGINE_RESERVATION_EXPIRED', reservation }),
    });
    const registry = new PrefixRegistry(pool, events);
    const canReserve = (): boolean => this.#failure === undefined && !this.#isClosed;
    return {
      pool,
      leases,
      reservations,
      registry,
      scheduler: new Scheduler({ blockSize, maxSequences, maxBatchedTokens }, pool, (sequence) => this.#closeSlot(sequence)),
      slots: new SlotTable(maxSequences),
      columns: new StepColumns(maxSequences, maxBatchedTokens, Math.ceil(maxModelTokens / blockSize) + 1),
      kv: new EngineKv({ pool, leases, reservations, registry, events, arena: () => runner.arena(), canReserve, onFreed }),
    };
  }
}
