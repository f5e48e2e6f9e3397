import { ArmatureError } from '@armature/contracts';
import type { Clock, Timer } from '@armature/contracts';
import { VirtualClock } from '../leaves/virtual-clock.ts';

/** A watchdog of the lifecycle: under virtual time it does not make time pass by itself. */
function setWatchdog(clock: Clock, delayMs: number, callback: () => void): Timer {
  return clock instanceof VirtualClock ? clock.setBackgroundTimer(delayMs, callback) : clock.setTimer(delayMs, callback);
}

export interface Step<T> {
  readonly clock: Clock;
  readonly deadlineMs: number;
  /** For the message: `start of models[0].router (router-policy "kv")`. */
  readonly what: string;
  readonly run: () => T | Promise<T>;
  /** What arrives after the deadline, to be thrown away properly. */
  readonly late?: (value: T) => void;
}

/** Runs one step of the lifecycle. Throws `LIFECYCLE_DEADLINE_EXCEEDED`; what the step throws is passed on. */
export async function runStep<T>(step: Step<T>): Promise<T> {
  const result = step.run();
  if (!isPromise(result)) return result;
  return new Promise<T>((resolve, reject) => {
    let isLate = false;
    const timer = setWatchdog(step.clock, step.deadlineMs, () => {
      isLate = true;
      reject(
        new ArmatureError('LIFECYCLE_DEADLINE_EXCEEDED', `${step.what} did not end within ${Math.round(step.deadlineMs)} ms`, {
          hint: 'look at the log of this component; the deadlines can be raised in the options of boot',
        }),
      );
    });
    result.then(
      (value) => {
        if (isLate) return step.late?.(value);
        step.clock.clearTimer(timer);
        resolve(value);
      },
      (error: unknown) => {
        if (isLate) return;
        step.clock.clearTimer(timer);
        reject(error as Error);
      },
    );
  });
}

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && typeof (value as Promise<T>).then === 'function';
}
