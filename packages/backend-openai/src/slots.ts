import type { Running } from './running.ts';

/** Who runs and who waits: at most `limit` choices at once, then a line of at most `maxWaiting` requests, higher priority first. */
export class Slots {
  readonly running: Set<Running>;
  readonly waiting: Running[];
  readonly #limit: number;
  readonly #maxWaiting: number;
  readonly #start: (running: Running) => void;
  #used: number;

  constructor(limit: number, maxWaiting: number, start: (running: Running) => void) {
    this.running = new Set();
    this.waiting = [];
    this.#limit = limit;
    this.#maxWaiting = maxWaiting;
    this.#start = start;
    this.#used = 0;
  }

  get size(): number {
    return this.running.size + this.waiting.length;
  }

  /** Starts it, or lets it wait. False: the line is full. */
  add(running: Running): boolean {
    const { choices, priority } = running.request;
    if (this.waiting.length === 0 && this.#used + choices <= this.#limit) {
      this.#run(running);
      return true;
    }
    if (this.waiting.length >= this.#maxWaiting) return false;
    let at = this.waiting.length;
    while (at > 0 && this.waiting[at - 1].request.priority < priority) at--;
    this.waiting.splice(at, 0, running);
    return true;
  }

  /** One that waits does so no more; one that runs frees its place when its connection is done with (`done`). */
  leave(running: Running): void {
    const at = this.waiting.indexOf(running);
    if (at < 0) return;
    this.waiting.splice(at, 1);
    this.#fill(); // it may have kept a smaller one waiting
  }

  done(running: Running): void {
    if (!this.running.delete(running)) return;
    this.#used -= running.request.choices;
    this.#fill();
  }

  #fill(): void {
    for (let next = this.waiting[0]; next !== undefined && this.#used + next.request.choices <= this.#limit; next = this.waiting[0]) {
      this.waiting.shift();
      this.#run(next);
    }
  }

  #run(running: Running): void {
    this.running.add(running);
    this.#used += running.request.choices;
    this.#start(running);
  }
}
