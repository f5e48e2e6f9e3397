import { ArmatureError } from '@armature/contracts';
import type { Clock, ErrorData, Logger, Timer } from '@armature/contracts';
import type { ChildServer } from './child-server.ts';
import { reasonOf } from './http.ts';
import type { Answer, Http } from './http.ts';
import { parseIterations } from './load.ts';
import type { IterationStats } from './load.ts';

export interface ServerWatchOptions {
  readonly http: Http;
  readonly config: { readonly baseUrl: string; readonly startTimeoutMs: number; readonly probeIntervalMs: number; readonly probeTimeoutMs: number; readonly failuresToLeave: number };
  readonly process: ChildServer | undefined;
  readonly clock: Clock;
  readonly log: Logger;
  /** It is healthy after it was not. */
  readonly recovered: () => void;
}

const RETRY_MS = 250;

/** Follows /health and /metrics of one server, from its start on. */
export class ServerWatch {
  readonly #options: ServerWatchOptions;
  readonly #closing: AbortController;
  #stats: IterationStats | undefined;
  #failure: ErrorData | undefined;
  #failures: number;
  #timer: Timer | undefined;

  constructor(options: ServerWatchOptions) {
    this.#options = options;
    this.#closing = new AbortController();
    this.#stats = undefined;
    this.#failure = undefined;
    this.#failures = 0;
    this.#timer = undefined;
  }

  /** Of the newest iteration that was read; undefined: none yet, or the server keeps no statistics. */
  get stats(): IterationStats | undefined {
    return this.#stats;
  }

  get failure(): ErrorData | undefined {
    return this.#failure;
  }

  get isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Throws `TRTLLM_UNREACHABLE`, `TRTLLM_START_FAILED`, `TRTLLM_EXITED`, `ENGINE_CLOSED`. */
  async waitUntilHealthy(): Promise<void> {
    const { http, config, clock, process } = this.#options;
    const deadline = clock.nowMs() + config.startTimeoutMs;
    let last = 'no answer';
    for (;;) {
      this.throwIfClosed();
      if (process?.problem !== undefined) throw ArmatureError.fromData(process.problem);
      try {
        const { status } = await http.ask({ path: '/health', timeoutMs: Math.min(config.probeTimeoutMs, Math.max(RETRY_MS, deadline - clock.nowMs())) });
        if (status === 200) return;
        last = `status ${status}`;
      } catch (error) {
        last = reasonOf(error);
      }
      this.throwIfClosed();
      const waitMs = Math.min(RETRY_MS, deadline - clock.nowMs());
      if (waitMs <= 0) break;
      await clock.sleep(waitMs, this.#closing.signal);
    }
    const hint = process === undefined ? 'start it with `trtllm-serve MODEL`, or correct engine.config.baseUrl' : 'its log says what it is doing; if it only needs longer, raise engine.config.startTimeoutMs';
    throw new ArmatureError('TRTLLM_UNREACHABLE', `TensorRT-LLM at ${config.baseUrl} is not healthy after ${config.startTimeoutMs} ms (${last})`, { retryable: true, hint });
  }

  /** A GET of the start. Throws `TRTLLM_UNREACHABLE`, `ENGINE_CLOSED`. */
  async answer(path: string): Promise<Answer> {
    const { http, config } = this.#options;
    try {
      return await http.ask({ path, timeoutMs: config.probeTimeoutMs });
    } catch (error) {
      this.throwIfClosed();
      throw new ArmatureError('TRTLLM_UNREACHABLE', `${config.baseUrl}${path}: ${reasonOf(error)}`, { retryable: true, hint: 'see the log of the TensorRT-LLM server', cause: error });
    }
  }

  /** Never rejects: statistics are a help. */
  async readMetrics(): Promise<void> {
    const { http, config, log } = this.#options;
    try {
      const { status, text } = await http.ask({ path: '/metrics', timeoutMs: config.probeTimeoutMs });
      // Reading empties the list: nothing new means as before.
      if (status === 200) this.#stats = parseIterations(text) ?? this.#stats;
    } catch (error) {
      log.debug('TensorRT-LLM metrics not read', { error: reasonOf(error) });
    }
  }

  /** Begins to probe. */
  follow(): void {
    if (this.isClosed) return;
    this.#timer = this.#options.clock.setTimer(this.#options.config.probeIntervalMs, () => {
      void this.#probe().finally(() => this.follow());
    });
  }

  throwIfClosed(): void {
    if (this.isClosed) throw new ArmatureError('ENGINE_CLOSED', 'the engine was closed');
  }

  close(): void {
    this.#closing.abort(new ArmatureError('ENGINE_CLOSED', 'the engine was closed'));
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  /** Never rejects. */
  async #probe(): Promise<void> {
    const { http, config, log, process, recovered } = this.#options;
    try {
      const { status } = await http.ask({ path: '/health', timeoutMs: config.probeTimeoutMs });
      if (status !== 200) throw new Error(`status ${status}`);
      process?.served();
    } catch (error) {
      if (!this.isClosed) this.#failed(reasonOf(error));
      return;
    }
    this.#failures = 0;
    if (this.#failure !== undefined) {
      log.info('TensorRT-LLM is healthy again', { baseUrl: config.baseUrl });
      this.#stats = undefined;
      this.#failure = undefined;
      recovered();
    }
    await this.readMetrics();
  }

  #failed(reason: string): void {
    const { config, log } = this.#options;
    if (++this.#failures < config.failuresToLeave || this.#failure !== undefined) return;
    log.warn('TensorRT-LLM is not healthy', { baseUrl: config.baseUrl, reason, failures: this.#failures });
    this.#failure = { code: 'TRTLLM_UNREACHABLE', message: `TensorRT-LLM at ${config.baseUrl} is not healthy (${reason})`, hint: 'see the log of the TensorRT-LLM server', retryable: true };
  }
}
