import { ArmatureError } from '@armature/contracts';
import type { Clock, ErrorData, Logger, Timer } from '@armature/contracts';
import { parseMetrics } from './metrics.ts';
import type { VllmMetrics } from './metrics.ts';
import type { VllmProcess } from './serve/vllm-process.ts';
import { reasonOf } from './vllm-http.ts';
import type { VllmAnswer, VllmHttp } from './vllm-http.ts';

export interface ServerWatchOptions {
  readonly http: VllmHttp;
  readonly config: { readonly baseUrl: string; readonly startTimeoutMs: number; readonly probeIntervalMs: number; readonly probeTimeoutMs: number };
  /** Whose samples of /metrics count; undefined: those of all ranks. */
  readonly engine: number | undefined;
  readonly process: VllmProcess | undefined;
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
  #metrics: VllmMetrics;
  #failure: ErrorData | undefined;
  #timer: Timer | undefined;

  constructor(options: ServerWatchOptions) {
    this.#options = options;
    this.#closing = new AbortController();
    this.#metrics = parseMetrics('');
    this.#failure = undefined;
    this.#timer = undefined;
  }

  /** As of the last probe. */
  get metrics(): VllmMetrics {
    return this.#metrics;
  }

  get failure(): ErrorData | undefined {
    return this.#failure;
  }

  get isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Throws `VLLM_UNREACHABLE`, `VLLM_EXITED`, `VLLM_START_FAILED`, `ENGINE_CLOSED`. */
  async waitUntilHealthy(): Promise<void> {
    const { http, config, clock, process } = this.#options;
    const deadline = clock.nowMs() + config.startTimeoutMs;
    let last = 'no answer';
    for (;;) {
      this.throwIfClosed();
      if (process?.problem !== undefined) throw ArmatureError.fromData(process.problem);
      const leftMs = deadline - clock.nowMs();
      try {
        const { ok, status } = await http.get('/health', Math.min(config.probeTimeoutMs, Math.max(RETRY_MS, leftMs)));
        if (ok) return;
        last = `status ${status}`;
      } catch (error) {
        last = reasonOf(error);
      }
      this.throwIfClosed();
      const waitMs = Math.min(RETRY_MS, deadline - clock.nowMs());
      if (waitMs <= 0) break;
      await clock.sleep(waitMs, this.#closing.signal);
    }
    throw new ArmatureError('VLLM_UNREACHABLE', `vLLM at ${config.baseUrl} is not healthy after ${config.startTimeoutMs} ms (${last})`, {
      hint: process === undefined ? 'start it with `vllm serve MODEL`, or correct engine.config.baseUrl' : 'its log says what it is doing; if it only needs longer, raise engine.config.startTimeoutMs',
    });
  }

  /** A GET of the start. Throws `VLLM_UNREACHABLE`, `ENGINE_CLOSED`. */
  async answer(path: string): Promise<VllmAnswer> {
    const { http, config } = this.#options;
    try {
      return await http.get(path, config.probeTimeoutMs);
    } catch (error) {
      this.throwIfClosed();
      throw new ArmatureError('VLLM_UNREACHABLE', `${config.baseUrl}${path}: ${reasonOf(error)}`, { hint: 'see the log of the vLLM server', cause: error });
    }
  }

  /** The first reading of /metrics. Throws as `answer`. */
  async readMetrics(): Promise<VllmMetrics> {
    this.#metrics = parseMetrics((await this.answer('/metrics')).text, this.#options.engine);
    return this.#metrics;
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
    const { http, config, log, process, recovered, engine } = this.#options;
    try {
      const { ok, status } = await http.get('/health', config.probeTimeoutMs);
      if (!ok) throw new Error(`status ${status}`);
      process?.served();
    } catch (error) {
      if (this.isClosed) return;
      if (this.#failure === undefined) log.warn('vLLM is not healthy', { baseUrl: config.baseUrl, reason: reasonOf(error) });
      this.#failure = { code: 'VLLM_UNREACHABLE', message: `vLLM at ${config.baseUrl} is not healthy (${reasonOf(error)})`, hint: 'see the log of the vLLM server', retryable: true };
      return;
    }
    if (this.#failure !== undefined) {
      log.info('vLLM is healthy again', { baseUrl: config.baseUrl });
      recovered();
    }
    this.#failure = undefined;
    try {
      const { ok, text } = await http.get('/metrics', config.probeTimeoutMs);
      if (ok) this.#metrics = parseMetrics(text, engine);
    } catch (error) {
      log.debug('vLLM metrics not read', { error: reasonOf(error) });
    }
  }
}
