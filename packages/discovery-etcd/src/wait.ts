import type { ArmatureError, Clock } from '@armature/contracts';

/** What `promise` brings, or `late()` thrown after `ms`. The promise goes on; its later failure is nobody's. */
export function within<T>(clock: Clock, ms: number, promise: Promise<T>, late: () => ArmatureError): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = clock.setTimer(Math.max(0, ms), () => reject(late()));
    promise.then(
      (value) => {
        clock.clearTimer(timer);
        resolve(value);
      },
      (error: unknown) => {
        clock.clearTimer(timer);
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
  });
}

/** Runs `job` over all items, at most `width` at a time. `job` does not throw. */
export async function eachOf<T>(items: readonly T[], width: number, job: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < items.length) await job(items[next++] as T);
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, lane));
}

/** Lets `width` jobs run at a time; the others wait in order. */
export class Slots {
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(width: number) {
    this.#free = width;
  }

  async run<T>(job: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await job();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}
