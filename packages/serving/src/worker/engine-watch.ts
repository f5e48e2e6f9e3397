import type { Clock, EngineBackend, ErrorData, Timer } from '@armature/contracts';

const LOOK_MS = 1_000;
/** Well for so long before it is trusted again; doubled with each failure in a row. */
const FIRST_HOLD_MS = 5_000;
const LONGEST_HOLD_MS = 300_000;
/** Trusted for so long without a failure: the next one is the first again. */
const FORGIVEN_MS = 600_000;

export type EngineState =
  | { readonly is: 'well' }
  | { readonly is: 'failed'; readonly failure: ErrorData }
  /** Well again, and not yet trusted. */
  | { readonly is: 'held'; readonly holdMs: number; readonly failure: ErrorData };

export interface EngineWatchOptions {
  readonly engine: Pick<EngineBackend, 'failure'>;
  readonly clock: Clock;
  /** Called after each change of `state`. */
  readonly changed: (state: EngineState) => void;
}

/**
 * Asks an engine every second whether it can serve. A failure counts at once; that it is well again counts after a hold without a failure. An engine
 * that fails again and again is thus trusted ever more seldom: after the n-th failure in a row 5 s · 2^(n−1), at most 5 minutes.
 */
export class EngineWatch {
  readonly #options: EngineWatchOptions;
  #state: EngineState;
  #sinceMs: number;
  #failures: number;
  #timer: Timer | undefined;

  constructor(options: EngineWatchOptions) {
    this.#options = options;
    this.#state = { is: 'well' };
    this.#sinceMs = options.clock.nowMs();
    this.#failures = 0;
    this.#timer = undefined;
  }

  get state(): EngineState {
    return this.#state;
  }

  start(): void {
    const { clock } = this.#options;
    const again = (): void => {
      this.start(); // first: `changed` may stop it
      this.look();
    };
    this.#timer = clock.setBackgroundTimer?.(LOOK_MS, again) ?? clock.setTimer(LOOK_MS, again);
  }

  stop(): void {
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  /** Now, without waiting for the next second. */
  look(): void {
    const state = this.#state;
    const failure = this.#options.engine.failure();
    if (failure !== undefined) {
      if (state.is === 'failed') return;
      if (state.is === 'well') this.#failures = this.#lastedMs() >= FORGIVEN_MS ? 1 : this.#failures + 1;
      this.#become({ is: 'failed', failure });
    } else if (state.is === 'failed') {
      this.#become({ is: 'held', holdMs: Math.min(LONGEST_HOLD_MS, FIRST_HOLD_MS * 2 ** (this.#failures - 1)), failure: state.failure });
    } else if (state.is === 'held' && this.#lastedMs() >= state.holdMs) this.#become({ is: 'well' });
  }

  #lastedMs(): number {
    return this.#options.clock.nowMs() - this.#sinceMs;
  }

  #become(state: EngineState): void {
    this.#state = state;
    this.#sinceMs = this.#options.clock.nowMs();
    this.#options.changed(state);
  }
}
