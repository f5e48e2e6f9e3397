import type { Clock, ErrorData, Random, Timer } from '@armature/contracts';
import type { S3Failure } from './s3-failure.ts';

export interface CircuitOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Failures without a success between them that open it. */
  readonly failuresToOpen: number;
  /** First wait before asking again; doubles up to 32 times this. */
  readonly recheckMs: number;
  /** Asks the store; resolves when it works. */
  readonly check: () => Promise<void>;
  readonly describe: (failure: S3Failure) => ErrorData;
  /** Told when it opens, when the reason changes, and (undefined) when it closes. */
  readonly changed: (problem: ErrorData | undefined) => void;
}

const MAX_DOUBLINGS = 5;

/** Open: the store is not asked at all, but for a check from time to time. */
export class Circuit {
  readonly #options: CircuitOptions;
  #failures: number;
  #problem: ErrorData | undefined;
  #checks: number;
  #timer: Timer | undefined;
  #isChecking: boolean;
  #isClosed: boolean;

  constructor(options: CircuitOptions) {
    this.#options = options;
    this.#failures = 0;
    this.#problem = undefined;
    this.#checks = 0;
    this.#timer = undefined;
    this.#isChecking = false;
    this.#isClosed = false;
  }

  get isOpen(): boolean {
    return this.#problem !== undefined;
  }

  succeeded(): void {
    this.#failures = 0;
    if (this.#problem === undefined) this.#checks = 0;
  }

  failed(failure: S3Failure): void {
    if (failure.code === 'Canceled' || this.isOpen) return;
    this.#failures++;
    if (failure.isDenied || this.#failures >= this.#options.failuresToOpen) this.open(failure);
  }

  /** Nothing came within a deadline that may have been too short: a check with its own time decides. */
  suspect(): void {
    if (this.isOpen || this.#isChecking) return;
    this.#isChecking = true;
    this.#options
      .check()
      .catch((error: S3Failure) => (this.#isClosed ? undefined : this.open(error)))
      .finally(() => (this.#isChecking = false));
  }

  open(failure: S3Failure): void {
    const problem = this.#options.describe(failure);
    const isNews = problem.code !== this.#problem?.code;
    this.#problem = problem;
    if (isNews) this.#options.changed(problem);
    this.#schedule();
  }

  /** No more checks. */
  close(): void {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#isClosed) return;
    const { clock, random, recheckMs } = this.#options;
    // Half fixed, half by chance: many workers that lost the same store do not come back at once.
    const waitMs = recheckMs * 2 ** Math.min(this.#checks++, MAX_DOUBLINGS) * (0.5 + random.next() / 2);
    this.#timer = clock.setTimer(waitMs, () => {
      this.#options.check().then(
        () => this.#recover(),
        (error: S3Failure) => {
          this.#timer = undefined;
          if (!this.#isClosed) this.open(error);
        },
      );
    });
  }

  #recover(): void {
    this.#timer = undefined;
    if (this.#isClosed) return;
    this.#failures = 0;
    this.#problem = undefined;
    this.#options.changed(undefined);
  }
}
