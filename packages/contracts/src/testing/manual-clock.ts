import type { Clock, Timer } from '../context.ts';

interface Entry {
  readonly dueMs: number;
  callback: (() => void) | undefined;
}

/** Time that passes only in `elapse`. Callbacks run in order of due time and then of registration; deferred ones before any timer. */
export class ManualClock implements Clock {
  #nowMs = 0;
  readonly #timers: Entry[] = [];
  readonly #deferred: (() => void)[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  /** Timers that have neither fired nor been cleared. */
  get pendingTimers(): number {
    return this.#timers.length;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const entry: Entry = { dueMs: this.#nowMs + Math.max(0, delayMs), callback };
    let at = this.#timers.length;
    while (at > 0 && (this.#timers[at - 1] as Entry).dueMs > entry.dueMs) at--;
    this.#timers.splice(at, 0, entry);
    return entry;
  }

  clearTimer(timer: Timer): void {
    const at = this.#timers.indexOf(timer as Entry);
    if (at !== -1) this.#timers.splice(at, 1);
  }

  defer(callback: () => void): void {
    this.#deferred.push(callback);
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => void this.setTimer(delayMs, resolve));
  }

  /** Runs everything that is due within `ms`, promise reactions in between; the clock then stands `ms` later. */
  async elapse(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    await settlePromises();
    for (;;) {
      const deferred = this.#deferred.shift();
      if (deferred !== undefined) {
        deferred();
      } else {
        const timer = this.#timers[0];
        if (timer === undefined || timer.dueMs > untilMs) break;
        this.#timers.shift();
        this.#nowMs = Math.max(this.#nowMs, timer.dueMs);
        timer.callback?.();
      }
      await settlePromises();
    }
    this.#nowMs = untilMs;
  }
}

/** A few rounds: enough for chains of awaits on resolved promises. */
async function settlePromises(): Promise<void> {
  for (let i = 0; i < 4; i++) await undefined;
}
