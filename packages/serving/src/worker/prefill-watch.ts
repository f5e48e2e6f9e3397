import type { Clock } from '@armature/contracts';

/** Finds the prompts that an engine computes alone: nobody was there when they began, and nobody came before their first token. */
export class PrefillWatch {
  readonly #clock: Clock;
  readonly #observe: (tokens: number, milliseconds: number) => void;
  /** The last leg submitted, while it is alone. */
  #alone: PrefillTiming | undefined = undefined;

  /** `observe`: prompt tokens that were computed, and how long it took. */
  constructor(clock: Clock, observe: (tokens: number, milliseconds: number) => void) {
    this.#clock = clock;
    this.#observe = observe;
  }

  /** A leg is about to be submitted; `isIdle`: the engine has nothing else to do. Undefined: it is not alone. */
  submitted(promptTokens: number, isIdle: boolean): PrefillTiming | undefined {
    this.#alone = isIdle ? new PrefillTiming(this, promptTokens, this.#clock.nowMs()) : undefined;
    return this.#alone;
  }

  /** Milliseconds since it was submitted; -1 = it was not alone. */
  took(timing: PrefillTiming): number {
    if (this.#alone !== timing) return -1;
    this.#alone = undefined;
    return this.#clock.nowMs() - timing.startedAtMs;
  }

  computed(tokens: number, milliseconds: number): void {
    this.#observe(tokens, milliseconds);
  }
}

/** One prompt that is computed alone, so far. */
export class PrefillTiming {
  readonly #watch: PrefillWatch;
  readonly #promptTokens: number;
  readonly startedAtMs: number;
  #tookMs = -1;
  #isComputed = false;

  constructor(watch: PrefillWatch, promptTokens: number, startedAtMs: number) {
    this.#watch = watch;
    this.#promptTokens = promptTokens;
    this.startedAtMs = startedAtMs;
  }

  /** The first token is there. */
  computed(): void {
    if (this.#isComputed) return;
    this.#isComputed = true;
    this.#tookMs = this.#watch.took(this);
  }

  /** The engine has said how much of the prompt it had. */
  ended(cachedTokens: number): void {
    if (this.#tookMs >= 0 && this.#promptTokens > cachedTokens) this.#watch.computed(this.#promptTokens - cachedTokens, this.#tookMs);
  }
}
