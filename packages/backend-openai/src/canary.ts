import type { Clock, ErrorData, Logger, Timer } from '@armature/contracts';
import { reasonOf } from './upstream.ts';

export interface CanaryOptions {
  /** Rejects, or throws, when the server does not serve. */
  readonly ask: () => Promise<void>;
  readonly baseUrl: string;
  readonly intervalMs: number;
  /** Failures in a row that make a failure. */
  readonly failures: number;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Asks the server regularly whether it lives. One silence is none: a server that restarts, or pauses, is not lost. */
export class Canary {
  readonly #options: CanaryOptions;
  #failure: ErrorData | undefined;
  #inARow: number;
  #timer: Timer | undefined;
  #isStopped: boolean;

  constructor(options: CanaryOptions) {
    this.#options = options;
    this.#failure = undefined;
    this.#inARow = 0;
    this.#timer = undefined;
    this.#isStopped = false;
  }

  get failure(): ErrorData | undefined {
    return this.#failure;
  }

  start(): void {
    if (this.#isStopped) return;
    this.#timer = this.#options.clock.setTimer(this.#options.intervalMs, () => void this.#ask().finally(() => this.start()));
  }

  stop(): void {
    this.#isStopped = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  /** Never rejects. */
  async #ask(): Promise<void> {
    const { ask, baseUrl, failures, log } = this.#options;
    try {
      await ask();
    } catch (error) {
      if (this.#isStopped) return;
      this.#inARow++;
      log.debug('the server gave no good answer', { baseUrl, reason: reasonOf(error), inARow: this.#inARow });
      if (this.#inARow < failures) return;
      if (this.#failure === undefined) log.warn('the server is lost', { baseUrl, reason: reasonOf(error), failures });
      this.#failure = {
        code: 'OPENAI_UNREACHABLE',
        message: `${baseUrl} gave ${this.#inARow} times no good answer (${reasonOf(error)})`,
        hint: 'see the log of that server',
        retryable: true,
      };
      return;
    }
    if (this.#failure !== undefined) log.info('the server is back', { baseUrl });
    this.#inARow = 0;
    this.#failure = undefined;
  }
}
