import type { Clock, Logger, Timer } from '@armature/contracts';
import { CudaResult, statusOf } from './binding.ts';
import type { CopyDirection } from './binding.ts';
import { CopyLane } from './copy-lane.ts';
import type { LaneJob } from './lane-job.ts';
import type { CudaCounters } from './counters.ts';
import type { CudaRuntime } from './runtime.ts';

export interface CopyEngineOptions {
  readonly runtime: CudaRuntime;
  readonly clock: Clock;
  readonly log: Logger;
  readonly counters: CudaCounters;
  readonly batch: boolean;
  /** Milliseconds of a turn of the event loop given to driver calls. */
  readonly turnBudgetMs: number;
  /** How long events are looked at turn by turn before timers of 1 ms take over. */
  readonly spinMs: number;
}

const PAUSE_MS = 1;
/** Turns within one reading of the clock: in virtual time, time passes by timers only. */
const MAX_TURNS_AT_ONCE = 64;

/** Copies of one GPU: a stream per direction, so that both directions of the link and the GPU's own memory work at the same time. */
export class CopyEngine {
  readonly ordinal: number;
  readonly #options: CopyEngineOptions;
  readonly #lanes = new Map<CopyDirection, CopyLane>();
  readonly #turn = (): void => this.#run(true);
  #lostResult: number = CudaResult.Success;
  #isDeferred = false;
  #isRunning = false;
  #timer: Timer | undefined = undefined;
  #spentMs = 0;
  #spinUntilMs = -Infinity;
  #turnMs = -Infinity;
  #turnsAtTurnMs = 0;
  #whenIdle: (() => void) | undefined = undefined;

  /** Retains the GPU's context. Throws `TRANSFER_CUDA_DEVICE_UNKNOWN`, `TRANSFER_CUDA_FAILED`. */
  constructor(ordinal: number, options: CopyEngineOptions) {
    this.ordinal = ordinal;
    this.#options = options;
    options.runtime.retain(ordinal);
  }

  /** The context is gone for this process. */
  get isLost(): boolean {
    return this.#lostResult !== CudaResult.Success;
  }

  /** Begins copying, in this call as far as the turn allows. Throws `TRANSFER_CUDA_FAILED` when there is no stream to be had; settles lost ones at once. */
  add(job: LaneJob): void {
    if (this.isLost) {
      job.isStopped = true;
      job.settled(this.#lostResult);
      return;
    }
    this.#lane(job.copies.direction).add(job);
    this.#spin();
    this.#run(false);
  }

  stop(job: LaneJob): void {
    this.#lanes.get(job.copies.direction)?.stop(job);
    this.#wake();
  }

  /** True once nothing is on a stream or waits for one; false after `limitMs`. */
  async drain(limitMs: number): Promise<boolean> {
    const { clock } = this.#options;
    if (this.#isIdle()) return true;
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
      timer = clock.setTimer(limitMs, resolve);
      this.#spin();
      this.#wake();
    });
    if (timer !== undefined) clock.clearTimer(timer);
    this.#clear();
    return this.#isIdle();
  }

  /** Nothing is on a stream. */
  close(): void {
    const { runtime, log } = this.#options;
    this.#clear();
    runtime.tryEnter(this.ordinal);
    for (const lane of this.#lanes.values()) lane.close();
    this.#lanes.clear();
    try {
      runtime.release(this.ordinal);
    } catch (error) {
      log.warn('GPU context was not released', { ordinal: this.ordinal, error: String(error) });
    }
  }

  #lane(direction: CopyDirection): CopyLane {
    let lane = this.#lanes.get(direction);
    if (lane === undefined) {
      const { runtime, clock, counters, batch } = this.#options;
      runtime.enter(this.ordinal);
      lane = new CopyLane({ runtime, clock, counters, batch, lost: (result) => this.#lost(result) });
      this.#lanes.set(direction, lane);
    }
    return lane;
  }

  /** One turn: ends what is over, puts more on the streams while the budget lasts. */
  #run(isTurn: boolean): void {
    if (isTurn) {
      this.#isDeferred = false;
      this.#spentMs = 0;
    }
    if (this.#isRunning) return;
    this.#isRunning = true;
    const { runtime, clock, turnBudgetMs, counters } = this.#options;
    const startMs = clock.nowMs();
    const endMs = startMs + turnBudgetMs - this.#spentMs;
    if (startMs < endMs || isTurn) {
      const entered = runtime.tryEnter(this.ordinal);
      if (entered !== CudaResult.Success) this.#lost(entered);
      let happened = false;
      for (const lane of this.#lanes.values()) happened = lane.poll() || happened;
      if (happened) this.#spin();
      if (this.#submit(endMs)) counters.turns++;
      this.#spentMs += clock.nowMs() - startMs;
    }
    this.#isRunning = false;
    this.#wake();
  }

  #submit(endMs: number): boolean {
    let any = false;
    for (let again = true; again; ) {
      again = false;
      for (const lane of this.#lanes.values()) {
        if (!lane.canSubmit || (any && this.#options.clock.nowMs() >= endMs)) continue;
        lane.submit(endMs);
        any = again = true;
      }
    }
    return any;
  }

  #lost(result: number): void {
    if (this.isLost) return;
    const { log, runtime } = this.#options;
    this.#lostResult = result;
    log.error('GPU context is lost: restart the process to use this GPU again', { code: 'TRANSFER_CUDA_CONTEXT_LOST', ordinal: this.ordinal, cuda: runtime.driver.errorName(result), status: statusOf(result) });
    for (const lane of this.#lanes.values()) lane.abandon(result);
  }

  #isIdle(): boolean {
    for (const lane of this.#lanes.values()) if (!lane.isIdle) return false;
    return true;
  }

  #spin(): void {
    this.#spinUntilMs = Math.max(this.#spinUntilMs, this.#options.clock.nowMs() + this.#options.spinMs);
  }

  /** Turn by turn while there is something to submit or a result is near, by timers after that, not at all when idle. */
  #wake(): void {
    if (this.#isIdle()) {
      this.#clear();
      this.#whenIdle?.();
      return;
    }
    if (this.#isDeferred) return;
    this.#clear();
    const { clock } = this.#options;
    const nowMs = clock.nowMs();
    if (nowMs !== this.#turnMs) this.#turnsAtTurnMs = 0;
    this.#turnMs = nowMs;
    const canSubmit = [...this.#lanes.values()].some((lane) => lane.canSubmit);
    if (canSubmit || (nowMs < this.#spinUntilMs && this.#turnsAtTurnMs++ < MAX_TURNS_AT_ONCE)) {
      this.#isDeferred = true;
      clock.defer(this.#turn);
    } else this.#timer = clock.setTimer(PAUSE_MS, () => ((this.#timer = undefined), this.#run(true)));
  }

  #clear(): void {
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}
