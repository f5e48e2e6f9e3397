import type { Clock, EngineRequest, EngineSink, InferenceEnd, Logger, PrefillHandover, Timer } from '@armature/contracts';
import { Rows } from './rows.ts';

/** One request on its way: its connections, its sink and the clock that watches for silence. */
export class Running {
  readonly request: EngineRequest;
  readonly abort: AbortController;
  readonly rows: Rows;
  readonly #sink: EngineSink;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #idleTimeoutMs: number;
  #hasEnded: boolean;
  /** Rows given to the sink. */
  #delivered: number;
  #heardAtMs: number;
  #timer: Timer | undefined;

  constructor(request: EngineRequest, sink: EngineSink, { clock, log, idleTimeoutMs }: { clock: Clock; log: Logger; idleTimeoutMs: number }) {
    this.request = request;
    this.abort = new AbortController();
    this.rows = new Rows(request);
    this.#sink = sink;
    this.#clock = clock;
    this.#log = log;
    this.#idleTimeoutMs = idleTimeoutMs;
    this.#hasEnded = false;
    this.#delivered = 0;
    this.#heardAtMs = 0;
    this.#timer = undefined;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Tokens whose KV the server holds for it, as far as known here. */
  get tokens(): number {
    return this.request.tokenIds.length + this.#delivered;
  }

  /** Prompt tokens not known to be computed. A decode leg computes none. */
  get prefillTokens(): number {
    return this.#delivered === 0 && this.request.leg !== 'decode' ? this.request.tokenIds.length : 0;
  }

  /** Begins to watch: the connections are closed after `idleTimeoutMs` without `heard`. */
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

  /** Hands the rows on. A sink that throws loses its request, and harms nobody else. */
  deliver(): void {
    if (this.#hasEnded || this.rows.count === 0) return;
    const batch = this.rows.take();
    this.#delivered += batch.count;
    this.#call(() => this.#sink.tokens(batch));
  }

  prefilled(handover: PrefillHandover): void {
    if (!this.#hasEnded) this.#call(() => this.#sink.prefilled?.(handover));
  }

  end(end: InferenceEnd, eventId?: number): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    try {
      this.#sink.end(end, eventId);
    } catch (error) {
      this.#log.error('the sink of a request threw', { code: 'ENGINE_SINK_FAILED', request: this.request.id, error: String(error) });
    }
  }

  /** Closes the connections, which aborts the request in the server, and ends the request here. */
  stop(end: InferenceEnd): void {
    this.abort.abort();
    this.end(end);
  }

  #call(sink: () => void): void {
    try {
      sink();
    } catch (error) {
      this.#log.error('the sink of a request threw', { code: 'ENGINE_SINK_FAILED', request: this.request.id, error: String(error) });
      this.stop({ type: 'failed', error: { code: 'ENGINE_SINK_FAILED', message: 'the receiver of this request failed' } });
    }
  }

  #arm(delayMs: number): void {
    this.#timer = this.#clock.setTimer(delayMs, () => {
      this.#timer = undefined;
      const remainingMs = this.#heardAtMs + this.#idleTimeoutMs - this.#clock.nowMs();
      if (remainingMs > 0) this.#arm(remainingMs);
      else {
        const hint = 'see the log of the TensorRT-LLM server; raise engine.config.idleTimeoutMs if its queue is that long';
        this.stop({ type: 'failed', error: { code: 'TRTLLM_STREAM_STALLED', message: `TensorRT-LLM sent nothing whole for ${this.#idleTimeoutMs} ms`, hint, retryable: true } });
      }
    });
  }
}
