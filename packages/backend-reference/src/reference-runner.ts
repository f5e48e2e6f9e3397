import { Worker } from 'node:worker_threads';
import { ArmatureError } from '@armature/contracts';
import type { Clock, ErrorData, KvArena, Timer } from '@armature/contracts';
import { arenaOf } from './arena.ts';
import { Checkpoint } from './checkpoint/checkpoint.ts';
import { createMemory } from './kernels.ts';
import type { SharedMemory } from './kernels.ts';
import { bytesPerBlock, planMemory } from './memory-plan.ts';
import type { MemoryPlan } from './memory-plan.ts';
import { StepColumns } from './step-columns.ts';
import { threadEntry } from './thread-entry.ts';
import { STEP } from './thread-protocol.ts';
import type { FromThread, ThreadData, ToThread } from './thread-protocol.ts';
import type { ModelRunner, ModelRunnerInfo, SamplingSetup, StepBatch, StepResult } from '@armature/engine-core';

export interface ReferenceRunnerOptions {
  /** Absolute model folder. */
  readonly folder: string;
  readonly modelName: string;
  readonly blockSize: number;
  /** Size of the KV cache in blocks; or `kvCacheBytes`. */
  readonly totalBlocks?: number;
  readonly kvCacheBytes?: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  /** Ranks that heads and KV arena are split over: 1 (default), 2 or 4. */
  readonly tensorParallel?: number;
  /** Default: what the model was made for. */
  readonly maxModelTokens?: number;
  /** Loading must end by then. */
  readonly startTimeoutMs: number;
  /** A step that takes longer counts as a dead thread. */
  readonly stepTimeoutMs: number;
  readonly closeTimeoutMs: number;
  readonly clock: Clock;
}

type StepDone = Parameters<ModelRunner['step']>[1];

function planFor(options: ReferenceRunnerOptions): MemoryPlan {
  const { shape } = Checkpoint.open(options.folder);
  const tensorParallel = options.tensorParallel ?? 1;
  const blocks = options.totalBlocks ?? Math.floor((options.kvCacheBytes ?? 0) / bytesPerBlock(shape, options.blockSize, tensorParallel));
  const maxModelTokens = options.maxModelTokens ?? shape.maxTokens;
  const plan = planMemory(shape, {
    blockSize: options.blockSize,
    totalBlocks: blocks,
    maxSequences: options.maxSequences,
    maxBatchedTokens: options.maxBatchedTokens,
    maxModelTokens,
    tensorParallel,
  });
  return plan;
}

/** Runs a model in its own thread. Reading headers and planning memory happen in the constructor, loading in `start`. */
export class ReferenceRunner implements ModelRunner {
  readonly info: ModelRunnerInfo & { modelFingerprint: string };
  readonly #options: ReferenceRunnerOptions;
  readonly #plan: MemoryPlan;
  readonly #onStepTimeout: () => void;
  #memory: SharedMemory | undefined;
  #columns: StepColumns | undefined;
  #worker: Worker | undefined;
  #exited: Promise<void>;
  #done: StepDone | undefined;
  #stepTimer: Timer | undefined;
  #failure: ArmatureError | undefined;
  #closing: boolean;
  #onFailure: ((error: ArmatureError) => void) | undefined;

  /** Throws `ENGINE_MODEL_*`, `ENGINE_CONFIG_INVALID` and `ENGINE_MEMORY_LIMIT`. */
  constructor(options: ReferenceRunnerOptions) {
    this.#options = options;
    this.#plan = planFor(options);
    const { shape, limits } = this.#plan;
    this.info = {
      modelFingerprint: '',
      vocabSize: shape.vocabSize,
      maxModelTokens: limits.maxModelTokens,
      eosTokenIds: shape.eosTokenIds,
      blockSize: limits.blockSize,
      totalBlocks: limits.totalBlocks,
    };
    this.#onStepTimeout = () => this.#fail(new ArmatureError('ENGINE_STEP_TIMEOUT', `a step took longer than ${options.stepTimeoutMs} ms`, { hint: 'lower maxBatchedTokens or raise stepTimeoutMs', retryable: true }));
    this.#memory = undefined;
    this.#columns = undefined;
    this.#worker = undefined;
    this.#exited = Promise.resolve();
    this.#done = undefined;
    this.#stepTimer = undefined;
    this.#failure = undefined;
    this.#closing = false;
    this.#onFailure = undefined;
  }

  async start(): Promise<void> {
    const entry = await threadEntry();
    const memory = createMemory(this.#plan.pages);
    this.#memory = memory;
    this.#columns = new StepColumns(this.#plan, memory.buffer);
    const data: ThreadData = { folder: this.#options.folder, plan: this.#plan, memory };
    const worker = new Worker(entry, { workerData: data, name: `reference ${this.#options.modelName}` });
    this.#worker = worker;
    this.#exited = new Promise((resolve) => worker.once('exit', () => resolve()));
    try {
      this.info.modelFingerprint = await this.#loaded(worker);
    } catch (error) {
      await worker.terminate();
      throw error;
    }
  }

  /** Why no step can run any more, or undefined. */
  failure(): ArmatureError | undefined {
    return this.#failure;
  }

  /** Called once when the thread dies outside `close`. */
  onFailure(listener: (error: ArmatureError) => void): void {
    this.#onFailure = listener;
  }

  openSequence(setup: SamplingSetup): void {
    // Only a repetition penalty reads the prompt; without it nobody copies it between threads.
    const needsPrompt = setup.repetitionPenalty !== 1;
    this.#post({ type: 'open', setup: needsPrompt ? setup : { ...setup, promptTokenIds: EMPTY } });
  }

  closeSequence(slot: number): void {
    this.#post({ type: 'close', slot });
  }

  step(batch: StepBatch, done: StepDone): void {
    if (this.#done !== undefined) throw new ArmatureError('ENGINE_STEP_INVALID', 'a step was posted before the last one was done', { hint: 'wait for done()' });
    const columns = this.#columns;
    let refused = this.#failure;
    try {
      if (columns === undefined) refused ??= notStarted();
      else if (refused === undefined) columns.write(batch);
    } catch (error) {
      refused = ArmatureError.from(error, 'ENGINE_STEP_INVALID');
    }
    if (refused !== undefined) {
      const error = refused.toData();
      this.#options.clock.defer(() => done(undefined, error));
      return;
    }
    this.#done = done;
    this.#stepTimer = this.#options.clock.setTimer(this.#options.stepTimeoutMs, this.#onStepTimeout);
    this.#post(STEP);
  }

  arena(): KvArena {
    if (this.#memory === undefined) throw notStarted();
    return arenaOf(this.#plan, this.#memory, this.info.modelFingerprint);
  }

  /** Ends the thread after the step it computes, by force at the deadline. Idempotent. */
  async close(): Promise<void> {
    const worker = this.#worker;
    if (worker === undefined || this.#closing) return this.#exited;
    this.#closing = true;
    this.#post({ type: 'end' });
    const timer = this.#options.clock.setTimer(this.#options.closeTimeoutMs, () => void worker.terminate());
    await this.#exited;
    this.#options.clock.clearTimer(timer);
    this.#finishStep(undefined, new ArmatureError('ENGINE_CLOSED', 'the engine was closed during a step', { retryable: true }).toData());
  }

  #post(message: ToThread): void {
    this.#worker?.postMessage(message);
  }

  /** Fingerprint of the model once the thread has loaded it. */
  #loaded(worker: Worker): Promise<string> {
    const { clock, startTimeoutMs } = this.#options;
    return new Promise((resolve, reject) => {
      const timer = clock.setTimer(startTimeoutMs, () => reject(new ArmatureError('ENGINE_START_TIMEOUT', `the model was not loaded within ${startTimeoutMs} ms`, { hint: 'raise startTimeoutMs' })));
      worker.on('message', (message: FromThread) => {
        if (message.type === 'stepped') this.#stepped(message.error);
        else {
          clock.clearTimer(timer);
          if (message.type === 'loaded') resolve(message.fingerprint);
          else reject(ArmatureError.fromData(message.error));
        }
      });
      const died = (error: ArmatureError): void => {
        clock.clearTimer(timer);
        reject(error);
        this.#fail(error);
      };
      worker.on('error', (error) => died(new ArmatureError('ENGINE_THREAD_DIED', `the model thread failed: ${error.message}`, { hint: 'the worker must be restarted', retryable: true, cause: error })));
      worker.on('exit', (code) => {
        if (!this.#closing) died(new ArmatureError('ENGINE_THREAD_DIED', `the model thread ended with code ${code}`, { hint: 'the worker must be restarted', retryable: true }));
      });
    });
  }

  #stepped(error: ErrorData | undefined): void {
    this.#finishStep(error === undefined ? this.#columns!.result : undefined, error);
  }

  #fail(error: ArmatureError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    void this.#worker?.terminate();
    this.#finishStep(undefined, error.toData());
    this.#onFailure?.(error);
  }

  #finishStep(result: StepResult | undefined, error: ErrorData | undefined): void {
    const done = this.#done;
    if (done === undefined) return;
    this.#done = undefined;
    this.#options.clock.clearTimer(this.#stepTimer!);
    this.#stepTimer = undefined;
    done(result, error);
  }
}

const EMPTY = new Int32Array(0);

function notStarted(): ArmatureError {
  return new ArmatureError('ENGINE_NOT_STARTED', 'the model runner was not started', { hint: 'await start() first' });
}
