import type { Clock } from '@armature/contracts';

/** How long a medium was busy, counting what runs at the same time once. */
export class BusyMeter {
  readonly #clock: Clock;
  readonly #report: (blocks: number, bytes: number, milliseconds: number) => void;
  #running: number;
  #countedToMs: number;

  constructor(clock: Clock, report: (blocks: number, bytes: number, milliseconds: number) => void) {
    this.#clock = clock;
    this.#report = report;
    this.#running = 0;
    this.#countedToMs = 0;
  }

  begin(): void {
    if (this.#running++ === 0) this.#countedToMs = this.#clock.nowMs();
  }

  /** Nothing moved: the time goes to the next that moves something, or is forgotten when nothing else runs. */
  end(blocks: number, bytes: number): void {
    this.#running--;
    if (blocks === 0) return;
    const nowMs = this.#clock.nowMs();
    this.#report(blocks, bytes, nowMs - this.#countedToMs);
    this.#countedToMs = nowMs;
  }
}
