import type { Clock, ErrorData, PlaneStream } from '@armature/contracts';

/** Legs that a worker runs, and who waits until there are none. */
export class RunningLegs {
  readonly #clock: Clock;
  readonly #streams = new Map<object, PlaneStream>();
  readonly #waiting = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#streams.size;
  }

  add(leg: object, stream: PlaneStream): void {
    this.#streams.set(leg, stream);
  }

  ended(leg: object): void {
    this.#streams.delete(leg);
    if (this.#streams.size === 0) this.wake();
  }

  /** Resolves when no leg runs, after `deadlineMs`, or when woken. */
  idle(deadlineMs: number): Promise<void> {
    if (this.#streams.size === 0 || deadlineMs <= 0) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        this.#clock.clearTimer(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = this.#clock.setTimer(deadlineMs, done);
      this.#waiting.add(done);
    });
  }

  wake(): void {
    for (const done of [...this.#waiting]) done();
  }

  /** Tells every leg to move on; returns how many there were. They end by `ended`, later. */
  moveOn(error: ErrorData): number {
    const streams = [...this.#streams.values()];
    for (const stream of streams) stream.close(error);
    return streams.length;
  }
}
