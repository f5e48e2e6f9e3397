import { ArmatureError } from '@armature/contracts';
import type { Clock, EngineAbilities, EngineBackend, EngineHandle, EngineInfo, EngineLoad, EngineRequest, EngineSink, ErrorData, KvEvent, Logger, Preprocessor } from '@armature/contracts';
import { Canary } from './canary.ts';
import { readCompletion } from './completion-stream.ts';
import type { OpenAiServerConfig } from './config.ts';
import { unsupportedBy } from './dialect.ts';
import type { Dialect } from './dialect.ts';
import { Negotiation } from './negotiation.ts';
import type { ServedModel } from './negotiation.ts';
import { Output } from './output.ts';
import { closedError, refusal, requestProblem, unreachable } from './problems.ts';
import { Running } from './running.ts';
import { Slots } from './slots.ts';
import { TextCodec } from './text-codec.ts';
import { Upstream } from './upstream.ts';
import { completionBody } from './wire.ts';

export interface OpenAiBackendOptions {
  readonly config: OpenAiServerConfig;
  readonly blockSize: number;
  /** Of the same model that the server serves: its facts, and text where the server speaks no token ids. */
  readonly preprocessor: Preprocessor;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What is known once started. */
interface Started {
  readonly info: EngineInfo;
  readonly model: string;
  readonly dialect: Dialect;
  readonly codec: TextCodec;
}

const SAMPLE = 'Hi';
/** Nobody says how many tokens such a server computes at once; vLLM's default. */
const ASSUMED_BATCHED_TOKENS = 8192;

/** Any server with `POST /completions` as an engine: token ids in, token ids out, abort by closing the connection. */
export class OpenAiBackend implements EngineBackend {
  readonly abilities: EngineAbilities = { roles: ['both'], roleChange: 'none', firstToken: 'decode', legs: 'sequential', kvEvents: false, maxTopLogprobs: 20 };
  readonly #options: OpenAiBackendOptions;
  readonly #closing: AbortController;
  readonly #upstream: Upstream;
  readonly #slots: Slots;
  readonly #canary: Canary;
  #started: Started | undefined;
  #isDraining: boolean;
  #onIdle: (() => void) | undefined;

  constructor(options: OpenAiBackendOptions) {
    const { config, clock, log } = options;
    this.#options = options;
    this.#closing = new AbortController();
    this.#upstream = new Upstream(config, clock);
    this.#slots = new Slots(config.maxSequences, config.maxWaiting, (running) => void this.#run(running));
    this.#canary = new Canary({ ask: () => this.#ask(), baseUrl: config.baseUrl, intervalMs: config.probeIntervalMs, failures: config.failuresToLeave, clock, log });
    this.#started = undefined;
    this.#isDraining = false;
    this.#onIdle = undefined;
  }

  get info(): EngineInfo {
    return this.#whenStarted().info;
  }

  /** Waits for the server, and finds out how to speak to it. Throws what `Negotiation` throws, `ENGINE_CLOSED`. */
  async start(): Promise<void> {
    const { preprocessor, config, clock, log } = this.#options;
    const codec = new TextCodec(preprocessor);
    const sample = { tokenIds: codec.encode(SAMPLE), text: SAMPLE };
    const negotiation = new Negotiation({ config, upstream: this.#upstream, clock, log, card: preprocessor.card, sample, signal: this.#closing.signal });
    const model = await negotiation.model();
    const dialect = await negotiation.dialect(model);
    this.#closing.signal.throwIfAborted();
    this.#started = { info: this.#infoOf(model), model: model.id, dialect, codec };
    this.#canary.start();
  }

  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const { clock, log, config } = this.#options;
    const running = new Running(request, sink, { clock, log, idleTimeoutMs: config.idleTimeoutMs });
    const refused = this.#refusalOf(request);
    if (refused !== undefined) running.end({ type: 'failed', error: refused });
    else if (!this.#slots.add(running)) {
      running.end({ type: 'failed', error: { code: 'ENGINE_OVERLOADED', message: `${config.maxWaiting} requests wait already for a place at the server`, retryable: true, hint: 'add workers, or raise maxSequences if the server takes more' } });
    }
    return running;
  }

  cancel(handle: EngineHandle): void {
    const running = handle as Running;
    if (running.hasEnded) return;
    running.stop({ type: 'cancelled' });
    this.#slots.leave(running);
  }

  /** From own counters: what others send to the same server does not show. */
  load(): EngineLoad {
    const { running, waiting } = this.#slots;
    const { blockSize = 1, totalBlocks = 0 } = this.#started?.info ?? {};
    let blocks = 0;
    let prefillTokens = 0;
    for (const one of running) {
      blocks += Math.ceil(one.tokens / blockSize);
      prefillTokens += one.prefillTokens;
    }
    for (const one of waiting) prefillTokens += one.prefillTokens;
    const usedBlocks = Math.min(totalBlocks, blocks);
    return { running: running.size, waiting: waiting.length, prefillTokens, usedBlocks, freeBlocks: totalBlocks - usedBlocks, totalBlocks, preemptions: 0 };
  }

  onKvEvent(_listener: (event: KvEvent) => void): void {
    // abilities.kvEvents is false: such servers do not tell.
  }

  snapshot(): readonly KvEvent[] {
    return [];
  }

  failure(): ErrorData | undefined {
    return this.#canary.failure;
  }

  async drain(deadlineMs: number): Promise<void> {
    this.#isDraining = true;
    if (this.#slots.size === 0) return;
    const { clock } = this.#options;
    await new Promise<void>((resolve) => {
      const timer = clock.setTimer(deadlineMs, resolve);
      this.#onIdle = () => {
        clock.clearTimer(timer);
        resolve();
      };
    });
    this.#onIdle = undefined;
  }

  async close(): Promise<void> {
    this.#closing.abort(new ArmatureError(closedError.code, closedError.message));
    this.#canary.stop();
    const { running, waiting } = this.#slots;
    for (const one of [...waiting.splice(0), ...running]) one.stop({ type: 'failed', error: closedError });
    await this.#upstream.close();
  }

  #infoOf(model: ServedModel): EngineInfo {
    const { preprocessor, blockSize, config } = this.#options;
    const { card } = preprocessor;
    const limits = [card.maxModelTokens, model.maxModelTokens, config.maxModelTokens].filter((limit) => limit > 0);
    const maxModelTokens = Math.min(...limits);
    return {
      modelFingerprint: card.fingerprint,
      vocabSize: card.vocabSize,
      maxModelTokens,
      blockSize,
      totalBlocks: config.totalBlocks > 0 ? config.totalBlocks : config.maxSequences * Math.ceil(maxModelTokens / blockSize),
      maxSequences: config.maxSequences,
      maxBatchedTokens: ASSUMED_BATCHED_TOKENS,
    };
  }

  #refusalOf(request: EngineRequest): ErrorData | undefined {
    if (this.#closing.signal.aborted) return closedError;
    if (this.#isDraining) return { code: 'ENGINE_DRAINING', message: 'the engine takes no new requests', retryable: true };
    if (this.#started === undefined) return { code: 'ENGINE_NOT_STARTED', message: 'the backend has not been started', hint: 'await start() first' };
    const { info, dialect } = this.#started;
    const problem = requestProblem(request, { ...info, maxTopLogprobs: this.abilities.maxTopLogprobs });
    return problem ?? unsupportedBy(dialect, request, this.#options.preprocessor.card.defaults) ?? this.#canary.failure;
  }

  /** From the request's turn until its connection is done with. Never rejects. */
  async #run(running: Running): Promise<void> {
    running.watch();
    try {
      await this.#complete(running);
    } catch (error) {
      // The connection may still bring something that nobody wants.
      running.stop({ type: 'failed', error: (ArmatureError.is(error) ? error : unreachable(this.#options.config.baseUrl, error)).toData() });
    } finally {
      running.unwatch();
      this.#slots.done(running);
      if (this.#slots.size === 0) this.#onIdle?.();
    }
  }

  async #complete(running: Running): Promise<void> {
    const { info, model, dialect, codec } = this.#whenStarted();
    const { request } = running;
    const { card } = this.#options.preprocessor;
    const prompt = dialect.promptAs === 'tokens' ? [...request.tokenIds] : codec.promptText(request.tokenIds);
    const output = new Output(request, dialect, { codec, eosTokenIds: card.eosTokenIds, vocabSize: info.vocabSize, maxModelTokens: info.maxModelTokens }, running.rows);
    const body = completionBody(request, { model, prompt, maxModelTokens: info.maxModelTokens, dialect });
    const answer = await this.#upstream.post('/completions', request.id, body, running.abort.signal);
    await readCompletion(answer, running, output);
  }

  /** The canary's question. */
  async #ask(): Promise<void> {
    const { config } = this.#options;
    const { model, dialect, codec } = this.#whenStarted();
    const prompt = dialect.promptAs === 'tokens' ? codec.encode(SAMPLE) : SAMPLE;
    const isCompletion = config.canary === 'completion';
    const { status, text } = await this.#upstream.ask(isCompletion ? '/completions' : '/models', config.probeTimeoutMs, isCompletion ? { model, prompt, max_tokens: 1 } : undefined);
    // Too busy for one token more is alive.
    if (status !== 200 && status !== 429) throw refusal(status, text);
  }

  #whenStarted(): Started {
    if (this.#started === undefined) throw new ArmatureError('ENGINE_NOT_STARTED', 'the backend has not been started', { hint: 'await start() first' });
    return this.#started;
  }
}
