import { FinishCode } from '@armature/contracts';
import type { EngineRequest, EngineSink, ErrorData, InferenceEnd, Logger, TokenBatch } from '@armature/contracts';
import type { Sequence } from './sequence.ts';
import type { StepResult } from './model-runner.ts';

/** A request with all its choices, and the columns its sink is given once per step. */
export class RequestGroup {
  readonly request: EngineRequest;
  readonly sequences: Sequence[];
  /** Choices that have not ended. */
  open: number;
  cachedTokens: number;
  outputTokens: number;
  hasEnded: boolean;
  /** Lease of a prefill leg, 0 = none yet. */
  lease: number;
  /** Last KV event that belongs to this request. */
  eventId: number;
  readonly #sink: EngineSink;
  readonly #log: Logger;
  readonly #batch: MutableBatch;
  #rows: number;

  constructor(request: EngineRequest, sink: EngineSink, log: Logger) {
    this.request = request;
    this.sequences = [];
    this.open = request.choices;
    this.cachedTokens = 0;
    this.outputTokens = 0;
    this.hasEnded = false;
    this.lease = 0;
    this.eventId = 0;
    this.#sink = sink;
    this.#log = log;
    this.#batch = newBatch(request);
    this.#rows = 0;
  }

  get hasRows(): boolean {
    return this.#rows > 0;
  }

  /** Adds a sampled token to the step's columns. `row` is its row in the runner's result. */
  push(sequence: Sequence, token: number, finish: FinishCode, result: StepResult, row: number): void {
    const batch = this.#batch;
    const at = this.#rows++;
    batch.tokenIds[at] = token;
    batch.finish[at] = finish;
    if (batch.choices !== undefined) batch.choices[at] = sequence.choice;
    if (batch.logprobs !== undefined) {
      batch.logprobs[at] = result.logprobs[row];
      const from = row * result.maxTopLogprobs;
      for (let k = 0; k < batch.topCount; k++) {
        (batch.topTokenIds as Int32Array)[at * batch.topCount + k] = result.topTokenIds[from + k];
        (batch.topLogprobs as Float32Array)[at * batch.topCount + k] = result.topLogprobs[from + k];
      }
    }
    this.outputTokens++;
  }

  /** Gives the step's tokens to the sink. A sink that throws is logged and hears nothing more but the end. */
  flush(): void {
    if (this.#rows === 0) return;
    this.#batch.count = this.#rows;
    this.#rows = 0;
    if (this.hasEnded) return;
    this.#guard(() => this.#sink.tokens(this.#batch));
  }

  prefilled(blocks: Int32Array, tokens: number): void {
    if (this.hasEnded || this.#sink.prefilled === undefined) return;
    this.#guard(() => this.#sink.prefilled?.({ lease: this.lease, blocks, tokens, cachedTokens: this.cachedTokens }));
  }

  /** The one terminal item; later calls do nothing. */
  end(end: InferenceEnd): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    this.#guard(() => this.#sink.end(end, this.eventId));
  }

  fail(error: ErrorData): void {
    this.end({ type: 'failed', error });
  }

  #guard(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#log.error('a request sink threw', { code: 'ENGINE_SINK_FAILED', request: this.request.id, error: String(error) });
    }
  }
}

type MutableBatch = { -readonly [K in keyof TokenBatch]: TokenBatch[K] };

function newBatch(request: EngineRequest): MutableBatch {
  const rows = request.choices;
  const top = Math.max(0, request.sampling.topLogprobs);
  const wantsLogprobs = request.sampling.topLogprobs >= 0;
  return {
    count: 0,
    tokenIds: new Int32Array(rows),
    choices: rows > 1 ? new Uint8Array(rows) : undefined,
    finish: new Uint8Array(rows).fill(FinishCode.None),
    logprobs: wantsLogprobs ? new Float32Array(rows) : undefined,
    topCount: top,
    topTokenIds: wantsLogprobs && top > 0 ? new Int32Array(rows * top) : undefined,
    topLogprobs: wantsLogprobs && top > 0 ? new Float32Array(rows * top) : undefined,
  };
}
