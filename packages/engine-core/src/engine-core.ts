import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, KvEvent, Logger, PassColumns } from '@armature/contracts';
import { checkRequest } from './check-request.ts';
import { UNSTARTED } from './engine-parts.ts';
import type { KvSizes } from './engine-parts.ts';
import { KvEventLog } from './kv-events.ts';
import { EngineKv } from './kv-face.ts';
import type { ModelRunner } from './model-runner.ts';
import { PassLoop } from './pass-loop.ts';
import { RequestGroup } from './request-group.ts';

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
  /** Passes that the runner may do at once while nothing else happens; their tokens come together, at the end of the last one. Default 1. */
  readonly maxPasses?: number;
  readonly roles?: EngineAbilities['roles'];
  /** Default `prefill`. */
  readonly firstToken?: EngineAbilities['firstToken'];
}

/** An engine without its model: scheduler, paged blocks with prefix cache, KV events, kv face. The runner executes the passes. */
export class EngineCore implements EngineBackend {
  readonly abilities: EngineAbilities;
  readonly #options: EngineCoreOptions;
  readonly #events: KvEventLog;
  #loop: PassLoop;
  #kv: EngineKv;
  #info: EngineInfo | undefined;
  #isDraining: boolean;
  /** Drains that wait for rest. */
  readonly #waiters: Set<() => void>;
  #closing: Promise<void> | undefined;

  constructor(options: EngineCoreOptions) {
    this.#options = options;
    const firstToken = options.firstToken ?? 'prefill';
    this.abilities = { roles: options.roles ?? ['both', 'prefill', 'decode'], roleChange: 'live', firstToken, legs: 'sequential', kvEvents: true, maxTopLogprobs: 20 };
    this.#events = new KvEventLog(options.log);
    this.#loop = this.#buildLoop(UNSTARTED, []);
    this.#kv = this.#buildKv(this.#loop);
    this.#info = undefined;
    this.#isDraining = false;
    this.#waiters = new Set();
    this.#closing = undefined;
  }

  get kv(): EngineKv {
    return this.#kv;
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new ArmatureError('ENGINE_NOT_STARTED', 'the engine has not been started', { hint: 'await start() first' });
    return this.#info;
  }

  async start(): Promise<void> {
    const { runner, maxSequences, maxBatchedTokens } = this.#options;
    await runner.start();
    const { modelFingerprint, vocabSize, blockSize, totalBlocks, eosTokenIds, adapters } = runner.info;
    const maxModelTokens = Math.min(runner.info.maxModelTokens, totalBlocks * blockSize);
    const info = { modelFingerprint, vocabSize, maxModelTokens, blockSize, totalBlocks, maxSequences, maxBatchedTokens, ...(adapters === undefined ? {} : { adapters }) };
    if (this.#loop.isClosed) return; // closed while the model was loading
    this.#info = info;
    this.#loop = this.#buildLoop(info, eosTokenIds);
    this.#kv = this.#buildKv(this.#loop);
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const group = new RequestGroup(request, sink, this.#options.log);
    const refusal = this.#refuse(request);
    if (refusal === undefined) {
      this.#loop.accept(group);
    } else {
      // A refused decode leg still owns its reservation.
      if (request.kvSource?.type === 'reservation') this.#kv.release(request.kvSource.reservation);
      group.fail(refusal);
    }
    return group;
  }

  cancel(handle: EngineHandle): void {
    const group = handle as RequestGroup;
    if (group.hasEnded) return;
    this.#loop.drop(group);
    group.end({ type: 'cancelled' });
    this.#checkRest();
  }

  load(): EngineLoad {
    const { scheduler, kv } = this.#loop;
    return {
      running: scheduler.running.length,
      waiting: scheduler.waiting.length,
      prefillTokens: scheduler.prefillTokens,
      usedBlocks: kv.pool.usedBlocks,
      freeBlocks: kv.pool.freeBlocks,
      totalBlocks: kv.pool.totalBlocks,
      preemptions: scheduler.preemptions,
    };
  }

  takePasses(): PassColumns {
    return this.#loop.history.take();
  }

  onKvEvent(listener: (event: KvEvent) => void): void {
    this.#events.listen(listener);
  }

  snapshot(): readonly KvEvent[] {
    return this.#events.snapshot(this.#loop.kv.pool);
  }

  failure(): ErrorData | undefined {
    return this.#loop.failure;
  }

  /** Forgets every block that no request uses; returns how many. */
  resetPrefixCache(): number {
    const cleared = this.#loop.kv.pool.clearInactive();
    this.#events.flushRemoved();
    return cleared;
  }

  /** Waits until nothing runs and no borrower reads, at most `deadlineMs`. */
  async drain(deadlineMs: number): Promise<void> {
    this.#isDraining = true;
    if (this.#loop.isResting) return;
    const { clock } = this.#options;
    await new Promise<void>((resolve) => {
      const end = (): void => {
        clock.clearTimer(timer);
        this.#waiters.delete(end);
        resolve();
      };
      const timer = clock.setTimer(deadlineMs, end);
      this.#waiters.add(end);
    });
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#loop.close();
    try {
      await this.#options.runner.close();
    } finally {
      this.#loop.closed();
    }
  }

  #refuse(request: EngineRequest): ErrorData | undefined {
    const { failure, isClosed, scheduler } = this.#loop;
    if (failure !== undefined) return failure;
    if (isClosed || this.#info === undefined) return { code: 'ENGINE_CLOSED', message: 'the engine is not running', retryable: true };
    if (this.#isDraining) return { code: 'ENGINE_DRAINING', message: 'the engine takes no new requests', retryable: true };
    const { maxWaiting } = this.#options;
    if (scheduler.waiting.length >= maxWaiting) {
      return { code: 'ENGINE_OVERLOADED', message: `${maxWaiting} requests are waiting already`, hint: 'retry later, or add workers', retryable: true };
    }
    return checkRequest(request, this.#info, this.abilities);
  }

  #checkRest(): void {
    if (this.#waiters.size > 0 && this.#loop.isResting) for (const end of this.#waiters) end();
  }

  #buildLoop(sizes: KvSizes, eosTokenIds: readonly number[]): PassLoop {
    const { runner, clock, log, stepTimeoutMs, maxPasses = 1 } = this.#options;
    const samplesPrefill = this.abilities.firstToken === 'prefill';
    const onRest = (): void => this.#checkRest();
    return new PassLoop({ runner, clock, log, events: this.#events, sizes, stepTimeoutMs, maxPasses, eos: new Set(eosTokenIds), samplesPrefill, onRest });
  }

  #buildKv(loop: PassLoop): EngineKv {
    return new EngineKv({
      ...loop.kv,
      events: this.#events,
      arena: () => this.#options.runner.arena(),
      canReserve: () => loop.failure === undefined && !loop.isClosed,
      onFreed: () => {
        loop.kick();
        this.#checkRest();
      },
    });
  }
}
