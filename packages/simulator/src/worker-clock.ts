import type { Clock, Timer } from '@armature/contracts';

type State = 'runs' | 'stopped' | 'killed';

/** The clock of one worker's process: while the process is stopped nothing of it runs, once it is killed nothing ever does. */
export class WorkerClock implements Clock {
  readonly #clock: Clock;
  #state: State = 'runs';
  #held: (() => void)[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** SIGSTOP: what becomes due waits. */
  stop(): void {
    if (this.#state === 'runs') this.#state = 'stopped';
  }

  /** SIGCONT: what became due runs now, in order. */
  resume(): void {
    if (this.#state !== 'stopped') return;
    this.#state = 'runs';
    for (const callback of this.#held.splice(0)) this.#clock.defer(() => this.#run(callback));
  }

  /** SIGKILL. */
  kill(): void {
    this.#state = 'killed';
    this.#held = [];
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  wallMs(): number {
    return this.#clock.wallMs();
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    return this.#clock.setTimer(delayMs, () => this.#run(callback));
  }

  clearTimer(timer: Timer): void {
    this.#clock.clearTimer(timer);
  }

  defer(callback: () => void): void {
    this.#clock.defer(() => this.#run(callback));
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return this.#clock.sleep(delayMs, signal);
  }

  #run(callback: () => void): void {
    if (this.#state === 'runs') callback();
    else if (this.#state === 'stopped') this.#held.push(callback);
  }
}
