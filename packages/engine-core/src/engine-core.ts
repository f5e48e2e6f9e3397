import { BlockPool, LeaseTable, ReservationTable } from '@armature/blocks';
import { FinishCode } from '@armature/contracts';
import type {
  Clock,
  EngineAbilities,
  EngineBackend,
  EngineHandle,
  EngineInfo,
  EngineLoad,
  EngineRequest,
  EngineSink,
  ErrorData,
  KvEvent,
  Logger,
  Timer,
} from '@armature/contracts';
import { saltHash } from '@armature/tokens';
import { checkRequest } from './check-request.ts';
import { KvEventLog } from './kv-events.ts';
import { EngineKv } from './kv-face.ts';
import type { ModelRunner, StepResult } from './model-runner.ts';
import { RequestGroup } from './request-group.ts';
import { Scheduler } from './scheduler.ts';
import type { SchedulerLimits } from './scheduler.ts';
import { Sequence, SequenceState } from './sequence.ts';
import { SlotTable } from './slot-table.ts';
import { StepColumns } from './step-columns.ts';

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
}

/** An engine without its model: scheduler, paged blocks with prefix cache, KV events, kv face. The runner executes the passes. */
export class EngineCore implements EngineBackend {
  readonly abilities: EngineAbilities;
  readonly #options: EngineCoreOptions;
  readonly #events = new KvEventLog();
  readonly #batch: Sequence[] = [];
  /** Groups that got tokens in the current pass. */
  readonly #touched: RequestGroup[] = [];
  #info: EngineInfo | undefined;
  #eos: ReadonlySet<number> = new Set();
  #pool = new BlockPool(0);
  #leases: LeaseTable;
  #reservations: ReservationTable;
  #scheduler: Scheduler;
  #slots = new SlotTable(0);
  #columns = new StepColumns(0, 0, 0);
  #kv: EngineKv;
  #isStepping = false;
  #isKicked = false;
  #isClosed = false;
  #isDraining = false;
  #failure: ErrorData | undefined;
  #watchdog: Timer | undefined;
  #onIdle: (() => void) | undefined;
  #arrivals = 0;

  constructor(options: EngineCoreOptions) {
    this.#options = options;
    this.abilities = { roles: options.roles ?? ['both', 'prefill', 'decode'], roleChange: 'live', firstToken: 'prefill', legs: 'sequential', kvEvents: true, maxTopLogprobs: 20 };
    this.#leases = new LeaseTable(this.#pool, options.clock, () => this.#kick());
    this.#reservations = new ReservationTable(this.#pool);
    this.#scheduler = this.#buildScheduler({ blockSize: 1, maxSequences: 0, maxBatchedTokens: 0 });
    this.#kv = this.#buildKv();
  }

  get kv(): EngineKv {
    return this.#kv;
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new Error('the engine has not been started');
    return this.#info;
  }

  async start(): Promise<void> {
    const { runner, maxSequences, maxBatchedTokens, clock } = this.#options;
    await runner.start();
    const { info } = runner;
    const maxModelTokens = Math.min(info.maxModelTokens, info.totalBlocks * info.blockSize);
    this.#info = {
      modelFingerprint: info.modelFingerprint,
      vocabSize: info.vocabSize,
      maxModelTokens,
      blockSize: info.blockSize,
      totalBlocks: info.totalBlocks,
      maxSequences,
      maxBatchedTokens,
    };
    this.#eos = new Set(info.eosTokenIds);
    this.#pool = new BlockPool(info.totalBlocks, (lo, hi) => this.#events.evicted(lo, hi));
    this.#leases = new LeaseTable(this.#pool, clock, () => this.#kick());
    this.#reservations = new ReservationTable(this.#pool);
    this.#scheduler = this.#buildScheduler({ blockSize: info.blockSize, maxSequences, maxBatchedTokens });
    this.#slots = new SlotTable(maxSequences);
    this.#columns = new StepColumns(maxSequences, maxBatchedTokens, Math.ceil(maxModelTokens / info.blockSize) + 1);
    this.#kv = this.#buildKv();
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const group = new RequestGroup(request, sink, this.#options.log);
    const refusal = this.#refuse(request);
    if (refusal !== undefined) {
      this.#giveBack(request);
      group.fail(refusal);
      return group;
    }
    this.#arrivals++;
    this.#addFirst(group);
    this.#kick();
    return group;
  }

  cancel(handle: EngineHandle): void {
    const group = handle as RequestGroup;
    if (group.hasEnded) return;
    group.end({ type: 'cancelled' });
    this.#drop(group);
    this.#checkIdle();
  }

  load(): EngineLoad {
    const scheduler = this.#scheduler;
    return {
      running: scheduler.running.length,
      waiting: scheduler.waiting.length,
      prefillTokens: scheduler.prefillTokens,
      usedBlocks: this.#pool.usedBlocks,
      freeBlocks: this.#pool.freeBlocks,
      totalBlocks: this.#pool.totalBlocks,
      preemptions: scheduler.preemptions,
    };
  }

  onKvEvent(listener: (event: KvEvent) => void): void {
    this.#events.listen(listener);
  }

  snapshot(): readonly KvEvent[] {
    return this.#events.snapshot(this.#pool);
  }

  failure(): ErrorData | undefined {
    return this.#failure;
  }

  /** Forgets every block that no request uses. */
  resetPrefixCache(): number {
    const cleared = this.#pool.clearInactive();
    this.#events.flushRemoved();
    return cleared;
  }

  async drain(deadlineMs: number): Promise<void> {
    this.#isDraining = true;
    if (!this.#scheduler.hasWork && !this.#isStepping) return;
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
    this.#clearWatchdog();
    for (const sequence of [...this.#scheduler.running, ...this.#scheduler.waiting]) {
      sequence.group.fail({ code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true });
    }
    this.#leases.clear();
    await this.#options.runner.close();
  }

  // ---------------------------------------------------------------- requests

  #refuse(request: EngineRequest): ErrorData | undefined {
    if (this.#failure !== undefined) return this.#failure;
    if (this.#isClosed || this.#info === undefined) return { code: 'ENGINE_CLOSED', message: 'the engine is not running', retryable: true };
    if (this.#isDraining) return { code: 'ENGINE_DRAINING', message: 'the engine takes no new requests', retryable: true };
    const { maxWaiting } = this.#options;
    if (this.#scheduler.waiting.length >= maxWaiting) {
      return { code: 'ENGINE_OVERLOADED', message: `${maxWaiting} requests are waiting already`, hint: 'retry later, or add workers', retryable: true };
    }
    return checkRequest(request, this.#info, this.abilities.maxTopLogprobs);
  }

  /** A refused decode leg still owns its reservation. */
  #giveBack(request: EngineRequest): void {
    if (request.kvSource?.type === 'reservation') this.#reservations.release(request.kvSource.reservation);
  }

  #addFirst(group: RequestGroup): void {
    const { request } = group;
    const firsts = request.firstTokens;
    for (let choice = 0; choice < request.choices; choice++) {
      if (firsts !== undefined && firsts[choice] === -1) group.open--;
    }
    if (firsts !== undefined) group.outputTokens = request.choices;
    const lead = this.#firstOpenChoice(request);
    const sequence = this.#addSequence(group, lead);
    if (request.kvSource?.type === 'reservation') this.#adopt(sequence, request.kvSource.reservation, request.kvSource.readyTokens);
    if (group.open === 0) {
      this.#finishGroup(group);
      return;
    }
    this.#scheduler.add(sequence);
  }

  #firstOpenChoice(request: EngineRequest): number {
    const at = request.firstTokens?.findIndex((token) => token !== -1) ?? 0;
    return Math.max(0, at);
  }

  #addSequence(group: RequestGroup, choice: number): Sequence {
    const { request } = group;
    const salt = saltHash({ cacheSalt: request.cacheSalt });
    const tokens = new Int32Array(request.tokenIds.length + 32);
    tokens.set(request.tokenIds);
    const setup = { salt, blockSize: this.info.blockSize, arrival: this.#arrivals };
    const sequence = new Sequence(group, choice, tokens.subarray(0, request.tokenIds.length), setup);
    const first = request.firstTokens?.[choice];
    if (first !== undefined && first !== -1) sequence.append(first);
    group.sequences.push(sequence);
    return sequence;
  }

  #adopt(sequence: Sequence, id: number, readyTokens: number): void {
    const reservation = this.#reservations.adopt(id);
    if (reservation === undefined) return;
    for (const block of reservation.blocks) sequence.addBlock(block);
    sequence.computed = Math.min(readyTokens, sequence.length - 1);
    sequence.registered = Math.min(reservation.committed, Math.floor(sequence.computed / this.info.blockSize));
    sequence.isAdopted = true;
    sequence.group.cachedTokens = Math.min(readyTokens, sequence.request.promptTokens);
  }

  /** The other choices start when the first one's prompt is in the prefix cache: one prefill for all. */
  #addForks(lead: Sequence): void {
    const { group } = lead;
    if (group.sequences.length > 1 || group.request.choices === 1) return;
    for (let choice = 0; choice < group.request.choices; choice++) {
      if (choice === lead.choice || group.request.firstTokens?.[choice] === -1) continue;
      this.#scheduler.add(this.#addSequence(group, choice));
    }
  }

  // ---------------------------------------------------------------- passes

  /** Runs a pass at the end of this tick, so that requests of one tick share it. */
  #kick(): void {
    if (this.#isStepping || this.#isKicked || this.#isClosed) return;
    this.#isKicked = true;
    this.#options.clock.defer(() => {
      this.#isKicked = false;
      this.#step();
    });
  }

  #step(): void {
    if (this.#isStepping || this.#isClosed || this.#failure !== undefined || !this.#scheduler.hasWork) {
      this.#checkIdle();
      return;
    }
    this.#scheduler.schedule(this.#batch);
    this.#events.flushRemoved();
    if (this.#batch.length === 0) return; // blocks are pinned elsewhere: their release kicks again
    for (const sequence of this.#batch) {
      sequence.isInStep = true;
      if (sequence.slot === -1) this.#openSlot(sequence);
    }
    this.#columns.fill(this.#batch);
    this.#isStepping = true;
    this.#armWatchdog();
    this.#options.runner.step(this.#columns, (result, error) => this.#stepped(result, error));
  }

  #stepped(result: StepResult | undefined, error: ErrorData | undefined): void {
    this.#clearWatchdog();
    this.#isStepping = false;
    if (this.#isClosed || this.#failure !== undefined) return; // a stuck pass that ends after all has nobody to tell
    if (result === undefined) {
      this.#fail(error ?? { code: 'ENGINE_STEP_FAILED', message: 'the model runner failed', retryable: true });
      return;
    }
    for (let row = 0; row < this.#batch.length; row++) this.#advance(this.#batch[row] as Sequence, result, row);
    for (const group of this.#touched) this.#flush(group);
    this.#touched.length = 0;
    if (this.#scheduler.hasWork) this.#step();
    else this.#checkIdle();
  }

  /** One sequence after a pass: its KV is further, maybe it has a new token. */
  #advance(sequence: Sequence, result: StepResult, row: number): void {
    sequence.isInStep = false;
    const { group } = sequence;
    if (group.hasEnded || sequence.state === SequenceState.Finished) {
      this.#release(sequence);
      return;
    }
    const isSampling = sequence.isSampling;
    sequence.computed += sequence.scheduled;
    sequence.scheduled = 0;
    this.#registerComplete(sequence);
    if (group.request.leg === 'prefill' && sequence === group.sequences[0]) this.#prefilled(sequence);
    if (!isSampling) return;
    this.#addForks(sequence);
    const token = result.tokenIds[row] as number;
    sequence.append(token);
    const finish = this.#finishOf(sequence, token);
    if (!group.hasRows) this.#touched.push(group);
    group.push(sequence, token, finish, result, row);
    if (finish !== FinishCode.None || group.request.leg === 'prefill') this.#finishSequence(sequence);
  }

  #finishOf(sequence: Sequence, token: number): FinishCode {
    const { stop } = sequence.request;
    if (stop.stopTokenIds.includes(token)) return FinishCode.Stop;
    if (!stop.ignoreEos && this.#eos.has(token)) return FinishCode.Stop;
    if (sequence.outputLength >= stop.maxTokens || sequence.length >= this.info.maxModelTokens) return FinishCode.Length;
    return FinishCode.None;
  }

  #flush(group: RequestGroup): void {
    group.flush();
    if (group.open === 0) this.#finishGroup(group);
  }

  /** Complete blocks enter the prefix cache and are announced. */
  #registerComplete(sequence: Sequence): void {
    const complete = Math.min(Math.floor(sequence.computed / this.info.blockSize), sequence.hasher.blocks);
    if (complete <= sequence.registered) return;
    sequence.group.eventId = this.#register(sequence.blocks, sequence.hasher.sequenceHashes, sequence.registered, complete) || sequence.group.eventId;
    sequence.registered = complete;
  }

  /** Registers blocks `from` to `to` of a chain; returns the id of the last event, 0 without one. Known blocks are not announced again. */
  #register(blocks: Int32Array, hashes: Int32Array, from: number, to: number): number {
    let eventId = 0;
    let start = from;
    for (let i = from; i < to; i++) {
      const parentLo = i === 0 ? 0 : (hashes[2 * i - 2] as number);
      const parentHi = i === 0 ? 0 : (hashes[2 * i - 1] as number);
      if (this.#pool.register(blocks[i] as number, hashes[2 * i] as number, hashes[2 * i + 1] as number, parentLo, parentHi)) continue;
      eventId = this.#announce(hashes, start, i) || eventId;
      start = i + 1;
    }
    return this.#announce(hashes, start, to) || eventId;
  }

  #announce(hashes: Int32Array, from: number, to: number): number {
    if (to <= from) return 0;
    const parent = from === 0 ? new Int32Array(0) : hashes.subarray(2 * from - 2, 2 * from);
    return this.#events.stored(parent, hashes.subarray(2 * from, 2 * to));
  }

  /** Progress of a prefill leg. The lease exists from the first word on; its time begins when the leg ends. */
  #prefilled(sequence: Sequence): void {
    const { group } = sequence;
    const promptBlocks = Math.ceil(group.request.promptTokens / this.info.blockSize);
    const blocks = sequence.blocks.slice(0, promptBlocks);
    if (group.lease === 0) group.lease = this.#leases.grant(blocks);
    group.prefilled(blocks, Math.min(sequence.computed, group.request.promptTokens));
  }

  // ---------------------------------------------------------------- ends

  #finishSequence(sequence: Sequence): void {
    sequence.state = SequenceState.Finished;
    this.#scheduler.remove(sequence);
    this.#release(sequence);
    sequence.group.open--;
  }

  #finishGroup(group: RequestGroup): void {
    this.#armLease(group);
    const { request } = group;
    group.end({ type: 'finished', usage: { promptTokens: request.promptTokens, cachedTokens: group.cachedTokens, outputTokens: group.outputTokens } });
  }

  /** A borrower may be reading: from here on the lease lives by its time. */
  #armLease(group: RequestGroup): void {
    if (group.lease !== 0) this.#leases.arm(group.lease, group.request.leaseTtlMs);
  }

  /** Ends a group's sequences; those in a running pass are released after it. */
  #drop(group: RequestGroup): void {
    this.#armLease(group);
    for (const sequence of group.sequences) {
      if (sequence.state === SequenceState.Finished) continue;
      sequence.state = SequenceState.Finished;
      this.#scheduler.remove(sequence);
      if (!sequence.isInStep) this.#release(sequence);
    }
  }

  #release(sequence: Sequence): void {
    this.#closeSlot(sequence);
    this.#scheduler.releaseBlocks(sequence);
    this.#kick();
  }

  #closeSlot(sequence: Sequence): void {
    if (sequence.slot === -1) return;
    this.#options.runner.closeSequence(sequence.slot);
    this.#slots.free(sequence.slot);
    sequence.slot = -1;
  }

  #fail(error: ErrorData): void {
    this.#failure = error;
    this.#options.log.error('the engine failed', { code: error.code, message: error.message });
    const sequences = [...this.#scheduler.running, ...this.#scheduler.waiting];
    for (const sequence of sequences) {
      sequence.isInStep = false;
      sequence.group.fail(error);
    }
    for (const sequence of sequences) this.#drop(sequence.group);
    this.#checkIdle();
  }

  #openSlot(sequence: Sequence): void {
    const { request } = sequence;
    const { sampling, stop } = request;
    sequence.slot = this.#slots.take();
    this.#options.runner.openSequence({
      slot: sequence.slot,
      choice: sequence.choice,
      temperature: sampling.temperature,
      topP: sampling.topP,
      topK: sampling.topK,
      minP: sampling.minP,
      seedLo: sampling.seedLo,
      seedHi: sampling.seedHi,
      frequencyPenalty: sampling.frequencyPenalty,
      presencePenalty: sampling.presencePenalty,
      repetitionPenalty: sampling.repetitionPenalty,
      biasTokenIds: sampling.biasTokenIds,
      biasValues: sampling.biasValues,
      topLogprobs: sampling.topLogprobs,
      promptTokenIds: sequence.tokens.slice(0, request.promptTokens),
      outputTokenIds: sequence.tokens.slice(request.promptTokens, sequence.length),
      minTokens: stop.minTokens,
      bannedBeforeMinTokens: stop.minTokens > 0 ? Int32Array.from([...this.#eos, ...stop.stopTokenIds]) : new Int32Array(0),
    });
  }

  #checkIdle(): void {
    if (!this.#scheduler.hasWork && !this.#isStepping) this.#onIdle?.();
  }

  #armWatchdog(): void {
    const { clock, stepTimeoutMs, log } = this.#options;
    this.#watchdog = clock.setTimer(stepTimeoutMs, () => {
      this.#watchdog = undefined;
      log.error('a model pass does not end', { code: 'ENGINE_STEP_STUCK', stepTimeoutMs, sequences: this.#batch.length });
      this.#isStepping = false;
      this.#fail({ code: 'ENGINE_STEP_STUCK', message: `a pass has been running for ${stepTimeoutMs} ms`, retryable: true });
    });
  }

  #clearWatchdog(): void {
    if (this.#watchdog !== undefined) this.#options.clock.clearTimer(this.#watchdog);
    this.#watchdog = undefined;
  }

  #buildScheduler(limits: SchedulerLimits): Scheduler {
    return new Scheduler(limits, this.#pool, (preempted) => this.#closeSlot(preempted));
  }

  #buildKv(): EngineKv {
    return new EngineKv({
      pool: this.#pool,
      leases: this.#leases,
      reservations: this.#reservations,
      arena: () => this.#options.runner.arena(),
      register: (blocks, hashes, from, to) => void this.#register(blocks, hashes, from, to),
      flush: () => this.#events.flushRemoved(),
      freed: () => this.#kick(),
    });
  }
}
