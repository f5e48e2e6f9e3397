import type { Clock, Timer } from '@armature/contracts';

/** Real time, for tests and benchmarks of this package. */
export const realClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  setTimer: (delayMs, callback) => setTimeout(callback, delayMs),
  clearTimer: (timer: Timer) => clearTimeout(timer as NodeJS.Timeout),
  defer: (callback) => void setImmediate(callback),
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};
