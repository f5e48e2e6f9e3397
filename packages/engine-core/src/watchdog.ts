import type { Clock, Timer } from '@armature/contracts';

/** Calls back when a pass does not end in time. */
export class Watchdog {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #fired: () => void;
  #timer: Timer | undefined;

  constructor(clock: Clock, timeoutMs: number, onStuck: () => void) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#fired = () => {
      this.#timer = undefined;
      onStuck();
    };
  }

  arm(): void {
    this.#timer = this.#clock.setTimer(this.#timeoutMs, this.#fired);
  }

  disarm(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}
