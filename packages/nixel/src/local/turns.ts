import type { Clock } from '@armature/contracts';

/** Work that is done in steps on the event loop. */
export interface Job {
  /** One short step. True: nothing more to do now. Must not throw. */
  step(): boolean;
}

/**
 * Gives the event loop back after `budgetMs` of copying. Running transfers take turns step by step, so that a small one is not behind a large one.
 * One instance per transport: its endpoints share the budget.
 *
 * Why not a thread: over 64 KiB x 256 in one run on two busy cores, memcpy 6.1, turns 5.6, one worker thread with libc memcpy 3.1, two 5.4,
 * koffi's own pool 1.4 GB/s, at the same CPU time (the pool: five times it). A thread pays its wake-up and gains only where a core is idle.
 */
export class Turns {
  readonly #clock: Clock;
  readonly #budgetMs: number;
  readonly #jobs: Job[] = [];
  readonly #turn: () => void;
  #isScheduled = false;
  /** Turns taken. */
  count = 0;

  constructor(clock: Clock, budgetMs: number) {
    this.#clock = clock;
    this.#budgetMs = budgetMs;
    this.#turn = () => this.#run();
  }

  add(job: Job): void {
    this.#jobs.push(job);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#clock.defer(this.#turn);
  }

  #run(): void {
    this.#isScheduled = false;
    this.count++;
    const endMs = this.#clock.nowMs() + this.#budgetMs;
    while (this.#jobs.length > 0) {
      const job = this.#jobs.shift()!;
      if (!job.step()) this.#jobs.push(job);
      if (this.#clock.nowMs() >= endMs) break;
    }
    if (this.#jobs.length > 0) this.#schedule();
  }
}
