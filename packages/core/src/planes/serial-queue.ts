/** Runs jobs one at a time in the order they were pushed, also when a job pushes more; never recurses. */
export class SerialQueue {
  readonly #onError: (error: unknown) => void;
  #jobs: (() => void)[] = [];
  #next = 0;
  #isDraining = false;

  constructor(onError: (error: unknown) => void) {
    this.#onError = onError;
  }

  get length(): number {
    return this.#jobs.length - this.#next;
  }

  push(job: () => void): void {
    this.#jobs.push(job);
  }

  /** Runs up to `limit` jobs; inside a job it does nothing, because the drain that runs the job goes on. */
  drain(limit = Infinity): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    for (let done = 0; this.#next < this.#jobs.length && done < limit; done++) {
      const job = this.#jobs[this.#next++] as () => void;
      try {
        job();
      } catch (error) {
        this.#onError(error);
      }
    }
    this.#jobs = this.#next === this.#jobs.length ? [] : this.#jobs.slice(this.#next);
    this.#next = 0;
    this.#isDraining = false;
  }
}
