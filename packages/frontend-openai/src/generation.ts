// @hot
import { ArmatureError } from '@armature/contracts';
import type { ErrorData, HttpExchange, Preprocessor } from '@armature/contracts';
import { errorBody, errorHeaders, problemFromError, timedOut } from './api-error.ts';
import type { ApiProblem } from './api-error.ts';
import type { Flushable } from './flusher.ts';
import type { ModelMetrics } from './frontend-metrics.ts';
import { escapeJson } from './json-text.ts';
import type { Choice, Leg } from './leg.ts';
import type { Runtime } from './runtime.ts';
import type { Shape } from './shape.ts';

const REASON = ['', 'stop', 'length', 'content_filter'] as const;

export interface GenerationOptions {
  readonly runtime: Runtime;
  readonly exchange: HttpExchange;
  readonly shape: Shape;
  readonly preprocessor: Preprocessor;
  readonly metrics: ModelMetrics;
  readonly model: string;
  readonly id: string;
  readonly requestId: string;
  readonly traceparent: string;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly topLogprobs: number;
  readonly maxTokens: number;
  readonly receivedAtMs: number;
}

/** One request being answered: takes tokens from its legs and writes JSON, streamed or whole. */
export class Generation implements Flushable {
  dirty = false;
  /** Answered, failed or abandoned: nothing more is written. */
  over = false;
  readonly preprocessor: Preprocessor;
  readonly topLogprobs: number;
  readonly maxTokens: number;
  readonly id: string;
  /** The request id, made unique among the running requests: what the engine and the admin listener call it. Set by `begin`. */
  engineId = '';
  legs: readonly Leg[] = [];
  readonly #options: GenerationOptions;
  readonly #runtime: Runtime;
  readonly #exchange: HttpExchange;
  readonly #stream: boolean;
  readonly #prefix: string;
  readonly #tail: string;
  #headSent = false;
  #openLegs = 0;
  #firstAtMs = -1;
  #lastAtMs = 0;
  #deadline: object | undefined = undefined;

  constructor(options: GenerationOptions) {
    this.#options = options;
    this.#runtime = options.runtime;
    this.#exchange = options.exchange;
    this.#stream = options.stream;
    this.preprocessor = options.preprocessor;
    this.topLogprobs = options.topLogprobs;
    this.maxTokens = options.maxTokens;
    this.id = options.id;
    const created = Math.floor(options.runtime.clock.wallMs() / 1000);
    const object = options.stream ? options.shape.chunkObject : options.shape.object;
    this.#prefix = `{"id":"${options.id}","object":"${object}","created":${created},"model":${JSON.stringify(options.model)},"system_fingerprint":${JSON.stringify(`fp_${options.preprocessor.card.fingerprint.slice(0, 16)}`)},"choices":[`;
    this.#tail = options.includeUsage ? '],"usage":null}\n\n' : ']}\n\n';
  }

  /** Legs run from now on; `timeoutMs` is the whole budget. */
  begin(legs: readonly Leg[], timeoutMs: number): void {
    this.legs = legs;
    this.#openLegs = legs.length;
    if (this.#stream) for (const leg of legs) for (const choice of leg.choices) choice.head = `data: ${this.#prefix}{"index":${choice.index},${this.#options.shape.open}`;
    this.engineId = this.#runtime.claimId(this.#options.requestId);
    this.#runtime.began(this);
    this.#deadline = this.#runtime.clock.setTimer(timeoutMs, () => this.expire());
  }

  /** Called once per batch, after its tokens were taken. */
  received(count: number): void {
    const now = this.#runtime.clock.nowMs();
    const metrics = this.#options.metrics;
    if (this.#firstAtMs < 0) {
      this.#firstAtMs = now;
      metrics.ttft.observe((now - this.#options.receivedAtMs) / 1000);
    } else metrics.itl.observe((now - this.#lastAtMs) / 1000 / count);
    this.#lastAtMs = now;
    if (this.#stream) this.#runtime.flusher.mark(this);
  }

  legEnded(): void {
    if (--this.#openLegs > 0 || this.over) return;
    if (this.#stream) this.#runtime.flusher.mark(this);
    else this.#answer();
  }

  /** One write with everything of this tick. */
  flush(): void {
    if (this.over) return;
    const done = this.#openLegs === 0;
    let text = '';
    const legs = this.legs;
    for (let i = 0; i < legs.length; i++) {
      const choices = legs[i]!.choices;
      for (let k = 0; k < choices.length; k++) text += this.#events(choices[k]!);
    }
    if (done) {
      if (this.#options.includeUsage) text += `data: ${this.#prefix}],"usage":${this.#usage()}}\n\n`;
      text += 'data: [DONE]\n\n';
    }
    if (text === '') return;
    this.#head();
    if (done) {
      this.#exchange.end(text);
      this.#close(200);
    } else if (this.#exchange.write(text) > this.#runtime.config.maxPendingBytes) this.#tooSlow();
  }

  #head(): void {
    if (this.#headSent) return;
    this.#headSent = true;
    this.#exchange.stream(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'x-request-id': this.#options.requestId });
  }

  #events(choice: Choice): string {
    let text = '';
    const shape = this.#options.shape;
    if (!choice.started && (choice.outputTokens > 0 || choice.text !== '' || choice.reason !== 0)) {
      choice.started = true;
      if (shape.first !== '') text = `data: ${this.#prefix}{"index":${choice.index},${shape.first}${this.#tail}`;
    }
    const ending = choice.reason !== 0 && !choice.finishSent;
    if (choice.text !== '') {
      const logprobs = choice.logprobs === undefined ? 'null' : choice.logprobs.take();
      text += `${choice.head}${escapeJson(choice.text)}${shape.middle}${logprobs},"finish_reason":null}${this.#tail}`;
      choice.text = '';
    }
    if (ending) {
      choice.finishSent = true;
      const logprobs = choice.logprobs === undefined ? 'null' : choice.logprobs.take();
      text += `data: ${this.#prefix}{"index":${choice.index},${shape.last}${logprobs},"finish_reason":"${REASON[choice.reason]}"}${this.#tail}`;
    }
    return text;
  }

  #answer(): void {
    const shape = this.#options.shape;
    let text = this.#prefix;
    for (const leg of this.legs) {
      for (const choice of leg.choices) {
        const logprobs = choice.logprobs === undefined ? 'null' : choice.logprobs.take();
        text += `${choice.index === 0 ? '' : ','}{"index":${choice.index},${shape.wholeOpen}${escapeJson(choice.text)}${shape.wholeMiddle}${logprobs},"finish_reason":"${REASON[choice.reason]}"}`;
      }
    }
    text += `],"usage":${this.#usage()}}`;
    this.#exchange.respond(200, { 'content-type': 'application/json', 'x-request-id': this.#options.requestId }, text);
    this.#close(200);
  }

  #usage(): string {
    let prompt = 0;
    let cached = 0;
    let output = 0;
    for (const leg of this.legs) {
      prompt += leg.promptTokens;
      cached += leg.cachedTokens;
      for (const choice of leg.choices) output += choice.outputTokens;
    }
    return `{"prompt_tokens":${prompt},"completion_tokens":${output},"total_tokens":${prompt + output},"prompt_tokens_details":{"cached_tokens":${cached}}}`;
  }

  failed(error: unknown): void {
    this.fail(ArmatureError.from(error).toData());
  }

  /** A leg failed: the whole request does. */
  fail(error: ErrorData): void {
    if (this.over) return;
    this.#runtime.log.debug('request failed', { requestId: this.#options.requestId, id: this.id, code: error.code, reason: error.message });
    const told = problemFromError(error, this.#runtime.config.overloadStatus);
    if (told.status === 500) this.#runtime.log.warn('request failed inside the server', { requestId: this.#options.requestId, code: error.code, reason: error.message });
    this.#refuse(told);
  }

  expire(): void {
    if (!this.over) this.#refuse(timedOut());
  }

  /** The process closes: what is left is ended with an error, not cut. */
  stop(of: ApiProblem): void {
    if (!this.over) this.#refuse(of);
  }

  /** The client has gone. */
  abandon(): void {
    if (this.over) return;
    this.#runtime.metrics.disconnects.inc();
    this.#cancelLegs();
    this.#close(499);
  }

  #tooSlow(): void {
    this.#runtime.metrics.slowClients.inc();
    this.#runtime.log.debug('client too slow, stream cut', { requestId: this.#options.requestId });
    this.#cancelLegs();
    this.#exchange.destroy();
    this.#close(499);
  }

  #refuse(of: ApiProblem): void {
    this.#cancelLegs();
    if (this.#headSent) this.#exchange.end(`data: ${errorBody(of)}\n\n`);
    else this.#exchange.respond(of.status, errorHeaders(of, this.#options.requestId), errorBody(of));
    this.#close(of.status);
  }

  #cancelLegs(): void {
    // `over` first: a cancel may call the sinks back at once.
    this.over = true;
    for (const leg of this.legs) if (!leg.ended) leg.cancel();
  }

  #close(status: number): void {
    this.over = true;
    if (this.#deadline !== undefined) this.#runtime.clock.clearTimer(this.#deadline);
    this.#runtime.ended(this);
    const now = this.#runtime.clock.nowMs();
    const { metrics, receivedAtMs, requestId, traceparent, shape, model } = this.#options;
    let output = 0;
    let cached = 0;
    for (const leg of this.legs) {
      cached += leg.cachedTokens;
      for (const choice of leg.choices) output += choice.outputTokens;
    }
    metrics.e2e.observe((now - receivedAtMs) / 1000);
    metrics.outputTokens.inc(output);
    metrics.outputLength.observe(output);
    if (cached > 0) metrics.cachedTokens.inc(cached);
    this.#runtime.metrics.answered(shape.route, status);
    if (!this.#runtime.debug) return;
    this.#runtime.log.debug('request answered', {
      requestId,
      id: this.id,
      trace: traceparent,
      model,
      status,
      outputTokens: output,
      cachedTokens: cached,
      ttftMs: this.#firstAtMs < 0 ? undefined : this.#firstAtMs - receivedAtMs,
      durationMs: now - receivedAtMs,
    });
  }
}
