import type { Clock, Timer } from '@armature/contracts';

/** The clock of the machine. Timers keep the process alive, as everywhere in Node. */
export class SystemClock implements Clock {
  nowMs(): number {
    return performance.now();
  }

  wallMs(): number {
    return Date.now();
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    // Node fires a longer delay at once; such a wait has no end that anybody sees.
    return setTimeout(callback, Math.min(Math.max(delayMs, 0), 2_147_483_647));
  }

  clearTimer(timer: Timer): void {
    clearTimeout(timer as NodeJS.Timeout);
  }

  defer(callback: () => void): void {
    setImmediate(callback);
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return sleepOn(this, delayMs, signal);
  }
}

/** `Clock.sleep` in terms of the clock's own timers. */
export function sleepOn(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  if (signal === undefined) return new Promise((resolve) => void clock.setTimer(delayMs, resolve));
  if (signal.aborted) return Promise.reject(signal.reason as Error);
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clock.clearTimer(timer);
      reject(signal.reason as Error);
    };
    const timer = clock.setTimer(delayMs, () => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    });
    signal.addEventListener('abort', onAbort, { once: true });
  });
}
