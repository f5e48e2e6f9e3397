import type { Clock, ErrorData, Logger, Timer } from '@armature/contracts';

export interface CanaryOptions {
  /** Between looks, 0 = none. An engine that gave a token meanwhile is not asked. */
  readonly intervalMs: number;
  /** Without a token for so long, the canary's or another request's, the engine is wedged. */
  readonly timeoutMs: number;
  /** One token of output; resolves when it is there. */
  readonly ask: (signal: AbortSignal) => Promise<void>;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Whether the engine makes tokens: /health of a server says only that its HTTP process lives. */
export class Canary {
  readonly #options: CanaryOptions;
  #failure: ErrorData | undefined;
  #heardAtMs: number;
  #timer: Timer | undefined;
  #asked: AbortController | undefined;
  #isClosed: boolean;

  constructor(options: CanaryOptions) {
    this.#options = options;
    this.#failure = undefined;
    this.#heardAtMs = 0;
    this.#timer = undefined;
    this.#asked = undefined;
    this.#isClosed = false;
  }

  get failure(): ErrorData | undefined {
    return this.#failure;
  }

  start(): void {
    this.#heardAtMs = this.#options.clock.nowMs();
    this.#arm();
  }

  /** A token came. */
  heard(): void {
    this.#heardAtMs = this.#options.clock.nowMs();
    if (this.#failure !== undefined) this.#recovered();
  }

  close(): void {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
    this.#asked?.abort();
  }

  #arm(): void {
    const { clock, intervalMs } = this.#options;
    if (this.#isClosed || intervalMs === 0) return;
    this.#timer = clock.setTimer(intervalMs, () => void this.#look().finally(() => this.#arm()));
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const { clock, intervalMs, timeoutMs } = this.#options;
    if (clock.nowMs() - this.#heardAtMs < intervalMs) return;
    const sentAtMs = clock.nowMs();
    const abort = new AbortController();
    this.#asked = abort;
    const timer = clock.setTimer(timeoutMs, () => abort.abort(new Error(`no token within ${timeoutMs} ms`)));
    try {
      await this.#options.ask(abort.signal);
      this.heard();
    } catch (error) {
      // A server that refuses or is gone is the business of the health probe; one that is busy gives tokens to others.
      if (abort.signal.aborted && !this.#isClosed && this.#heardAtMs <= sentAtMs) this.#wedged(String(error));
    } finally {
      clock.clearTimer(timer);
      this.#asked = undefined;
    }
  }

  #wedged(reason: string): void {
    const { log, timeoutMs } = this.#options;
    if (this.#failure === undefined) log.error('TensorRT-LLM takes requests and makes no token', { code: 'TRTLLM_WEDGED', timeoutMs, reason });
    this.#failure = { code: 'TRTLLM_WEDGED', message: `TensorRT-LLM takes requests and made no token for ${timeoutMs} ms`, hint: 'start it again; its log or py-spy dump tells where it hangs. A server that is only slow: raise engine.config.canaryTimeoutMs', retryable: true };
  }

  #recovered(): void {
    this.#failure = undefined;
    this.#options.log.info('TensorRT-LLM makes tokens again');
  }
}
