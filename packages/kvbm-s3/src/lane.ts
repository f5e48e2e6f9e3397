/** So many at once, so many waiting, in order. */
export class Lane {
  readonly #limit: number;
  readonly #maxQueued: number;
  readonly #queue: (() => void)[];
  #running: number;
  #idle: (() => void)[];

  constructor(limit: number, maxQueued: number) {
    this.#limit = limit;
    this.#maxQueued = maxQueued;
    this.#queue = [];
    this.#running = 0;
    this.#idle = [];
  }

  /** May be checked before `run`; work that must not be lost (what was accepted already) may go over it. */
  get isFull(): boolean {
    return this.#running >= this.#limit && this.#queue.length >= this.#maxQueued;
  }

  get queued(): number {
    return this.#queue.length;
  }

  /** `work` must not reject. */
  run(work: () => Promise<void>): void {
    const start = (): void => {
      this.#running++;
      void work().finally(() => {
        this.#running--;
        const next = this.#queue.shift();
        if (next !== undefined) next();
        else if (this.#running === 0) for (const wake of this.#idle.splice(0)) wake();
      });
    };
    if (this.#running < this.#limit) start();
    else this.#queue.push(start);
  }

  /** Resolves when nothing runs or waits. */
  whenIdle(): Promise<void> {
    return this.#running === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }
}
