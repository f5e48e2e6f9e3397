import type { Clock, EngineSink, ErrorData, InferenceEnd, Logger, TokenBatch, Timer } from '@armature/contracts';

/** One request on its way: its connection, its sink and the clock that watches for silence. */
export class Running {
  readonly abort: AbortController;
  readonly sink: EngineSink;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #idleTimeoutMs: number;
  #hasEnded: boolean;
  #hasOutput: boolean;
  #heardAtMs: number;
  #timer: Timer | undefined;

  constructor(sink: EngineSink, clock: Clock, log: Logger, idleTimeoutMs: number) {
    this.abort = new AbortController();
    this.sink = sink;
    this.#clock = clock;
    this.#log = log;
    this.#idleTimeoutMs = idleTimeoutMs;
    this.#hasEnded = false;
    this.#hasOutput = false;
    this.#heardAtMs = 0;
    this.#timer = undefined;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** A token is out: the request cannot begin anew. */
  get hasOutput(): boolean {
    return this.#hasOutput;
  }

  /** Begins to watch: the connection is closed after `idleTimeoutMs` without `heard`. */
  watch(): void {
    this.#heardAtMs = this.#clock.nowMs();
    if (this.#idleTimeoutMs > 0) this.#arm(this.#idleTimeoutMs);
  }

  /** A whole event has come. Bytes alone do not count: a server that trickles them is silent too. */
  heard(): void {
    this.#heardAtMs = this.#clock.nowMs();
  }

  unwatch(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  /** A sink that throws loses its request, and harms nobody else. */
  tokens(batch: TokenBatch): void {
    if (this.#hasEnded) return;
    this.#hasOutput = true;
    try {
      this.sink.tokens(batch);
    } catch (error) {
      this.#sinkFailed(error);
    }
  }

  prefilled(handover: Parameters<NonNullable<EngineSink['prefilled']>>[0]): void {
    if (this.#hasEnded) return;
    try {
      this.sink.prefilled?.(handover);
    } catch (error) {
      this.#sinkFailed(error);
    }
  }

  end(end: InferenceEnd): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    try {
      this.sink.end(end);
    } catch (error) {
      this.#log.error('the sink of a request threw', { error: String(error) });
    }
  }

  /** Closes the connection, which aborts the request in vLLM, and ends the request here. */
  stop(end: InferenceEnd): void {
    this.abort.abort();
    this.end(end);
  }

  #sinkFailed(error: unknown): void {
    this.#log.error('the sink of a request threw', { error: String(error) });
    this.stop({ type: 'failed', error: { code: 'ENGINE_SINK_FAILED', message: 'the receiver of this request failed' } });
  }

  #arm(delayMs: number): void {
    this.#timer = this.#clock.setTimer(delayMs, () => {
      this.#timer = undefined;
      const remainingMs = this.#heardAtMs + this.#idleTimeoutMs - this.#clock.nowMs();
      if (remainingMs > 0) this.#arm(remainingMs);
      else this.stop({ type: 'failed', error: stalled(this.#idleTimeoutMs) });
    });
  }
}

function stalled(idleTimeoutMs: number): ErrorData {
  return {
    code: 'VLLM_STREAM_STALLED',
    message: `vLLM sent nothing for ${idleTimeoutMs} ms`,
    hint: 'see the log of the vLLM server; raise engine.config.idleTimeoutMs if its queue is that long',
    retryable: true,
  };
}
