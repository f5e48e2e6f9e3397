import type { Clock, Timer } from '@armature/contracts';

export interface PollerOptions {
  readonly clock: Clock;
  /** One look at everything. True: something happened. Must not throw. */
  readonly poll: () => boolean;
  /** Whether something is awaited, so that looking often pays. */
  readonly isBusy: () => boolean;
  /** After something happened, looks follow each other without a pause for this long. */
  readonly spinMs: number;
  /** Pause between looks while nothing is awaited and nothing has happened lately. */
  readonly idleMs: number;
}

/** Pause between looks while something is awaited for longer than a spin, or has happened lately. */
const BUSY_MS = 1;
/** Turns of the event loop within one reading of the clock: in virtual time, time passes by timers only. */
const MAX_TURNS_AT_ONCE = 64;
/** What counts as lately. */
const WARM_MS = 50;

/**
 * NIXL completes nothing by itself: requests and notifications are looked at. Looks follow each other turn by turn of the event loop while
 * a result is near, by timers of 1 ms while it is awaited, and by `idleMs` else.
 */
export class Poller {
  readonly #options: PollerOptions;
  #timer: Timer | undefined = undefined;
  #isDeferred = false;
  #isClosed = false;
  #spinUntilMs = -Infinity;
  #lastEventMs = -Infinity;
  #turnMs = -Infinity;
  #turnsAtTurnMs = 0;
  /** Looks so far, for tests and for cost. */
  looks = 0;

  constructor(options: PollerOptions) {
    this.#options = options;
  }

  /** Something was started that should end within `expectedMs`; spins that long at most. */
  wake(expectedMs = 0): void {
    const nowMs = this.#options.clock.nowMs();
    this.#lastEventMs = nowMs;
    this.#spinUntilMs = Math.max(this.#spinUntilMs, nowMs + Math.max(expectedMs, this.#options.spinMs));
    this.#schedule();
  }

  /** Starts looking. Idempotent. */
  start(): void {
    this.#schedule();
  }

  close(): void {
    this.#isClosed = true;
    this.#clear();
  }

  #schedule(): void {
    if (this.#isClosed || this.#isDeferred) return;
    this.#clear();
    const { clock, isBusy, idleMs } = this.#options;
    const nowMs = clock.nowMs();
    if (nowMs !== this.#turnMs) this.#turnsAtTurnMs = 0;
    this.#turnMs = nowMs;
    if (isBusy() && nowMs < this.#spinUntilMs && this.#turnsAtTurnMs++ < MAX_TURNS_AT_ONCE) {
      this.#isDeferred = true;
      clock.defer(this.#deferred);
      return;
    }
    const isWarm = isBusy() || nowMs - this.#lastEventMs < WARM_MS;
    this.#timer = clock.setTimer(isWarm ? BUSY_MS : idleMs, this.#fired);
  }

  readonly #deferred = (): void => {
    this.#isDeferred = false;
    this.#look();
  };

  readonly #fired = (): void => {
    this.#timer = undefined;
    this.#look();
  };

  #look(): void {
    if (this.#isClosed) return;
    this.looks++;
    const happened = this.#options.poll();
    if (happened) {
      const nowMs = this.#options.clock.nowMs();
      this.#lastEventMs = nowMs;
      this.#spinUntilMs = Math.max(this.#spinUntilMs, nowMs + this.#options.spinMs);
    }
    this.#schedule();
  }

  #clear(): void {
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}
