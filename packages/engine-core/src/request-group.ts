import { FinishCode } from '@armature/contracts';
import type { EngineRequest, EngineSink, ErrorData, InferenceEnd, Logger, TokenBatch } from '@armature/contracts';
import type { Sequence } from './sequence.ts';
import type { StepResult } from './model-runner.ts';

const NO_BLOCKS = new Int32Array(0);
/** Rows of a batch that turns out to hold several passes. */
const FIRST_PASSES = 64;

/** A request with all its choices, and the columns its sink is given once per step. */
export class RequestGroup {
  readonly request: EngineRequest;
  readonly sequences: Sequence[];
  /** Choices that have not ended. */
  open: number;
  cachedTokens: number;
  /** `cachedTokens` has been set: at the first admission, not again after a preemption. */
  isAccounted: boolean;
  /** The other choices have been started. */
  isForked: boolean;
  outputTokens: number;
  hasEnded: boolean;
  /** Lease of a prefill leg, 0 = none yet, and the prompt's blocks that it pins. */
  lease: number;
  leaseBlocks: Int32Array;
  /** Prompt tokens that can be read under the lease, and what the sink knows of them (-1 = not told yet). */
  readableTokens: number;
  toldTokens: number;
  /** Something is to be said to the sink after this pass. */
  isTouched: boolean;
  /** Why the request cannot go on, to be said after this pass. */
  error: ErrorData | undefined;
  /** Last KV event that belongs to this request. */
  eventId: number;
  readonly #sink: EngineSink;
  readonly #log: Logger;
  /** Made with the first token: a refused request has no say in its size. */
  #batch: MutableBatch | undefined;
  #rows: number;

  constructor(request: EngineRequest, sink: EngineSink, log: Logger) {
    this.request = request;
    this.sequences = [];
    this.open = request.choices;
    this.cachedTokens = 0;
    this.isAccounted = false;
    this.isForked = request.choices === 1;
    this.outputTokens = 0;
    this.hasEnded = false;
    this.lease = 0;
    this.leaseBlocks = NO_BLOCKS;
    this.readableTokens = 0;
    this.toldTokens = -1;
    this.isTouched = false;
    this.error = undefined;
    this.eventId = 0;
    this.#sink = sink;
    this.#log = log;
    this.#batch = undefined;
    this.#rows = 0;
  }

  /** Prompt tokens found in the prefix cache or delivered by a reservation. The first word counts. */
  account(cachedTokens: number): void {
    if (this.isAccounted) return;
    this.isAccounted = true;
    this.cachedTokens = Math.min(cachedTokens, this.request.promptTokens);
  }

  /** Adds a sampled token to the step's columns. `row` is its row in the runner's result. */
  push(sequence: Sequence, finish: FinishCode, result: StepResult, row: number): void {
    const batch = (this.#batch ??= newBatch(this.request));
    const at = this.#rows++;
    if (at === batch.tokenIds.length) grow(batch);
    batch.tokenIds[at] = result.tokenIds[row];
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

  /** Progress of a prefill leg, then the step's tokens. False: the sink threw and is to hear nothing more but the end. */
  flush(): boolean {
    const rows = this.#rows;
    this.#rows = 0;
    try {
      this.#tellProgress();
      if (rows > 0 && this.#batch !== undefined && !this.hasEnded) {
        this.#batch.count = rows;
        this.#sink.tokens(this.#batch);
      }
      return true;
    } catch (error) {
      this.#complain(error);
      return false;
    }
  }

  /** The one terminal item; later calls do nothing. */
  end(end: InferenceEnd): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    try {
      this.#sink.end(end, this.eventId);
    } catch (error) {
      this.#complain(error);
    }
  }

  fail(error: ErrorData): void {
    this.end({ type: 'failed', error });
  }

  #tellProgress(): void {
    if (this.lease === 0 || this.readableTokens === this.toldTokens || this.hasEnded) return;
    this.toldTokens = this.readableTokens;
    this.#sink.prefilled?.({ lease: this.lease, blocks: this.leaseBlocks, tokens: this.readableTokens, cachedTokens: this.cachedTokens });
  }

  #complain(error: unknown): void {
    this.#log.error('a request sink threw', { code: 'ENGINE_SINK_FAILED', request: this.request.id, error: String(error) });
  }
}

/** Several passes were done at once, as a rule many: no logprobs then. */
function grow(batch: MutableBatch): void {
  const rows = Math.max(FIRST_PASSES, batch.tokenIds.length * 4);
  const tokenIds = new Int32Array(rows);
  tokenIds.set(batch.tokenIds);
  const finish = new Uint8Array(rows).fill(FinishCode.None);
  finish.set(batch.finish);
  batch.tokenIds = tokenIds;
  batch.finish = finish;
  if (batch.choices === undefined) return;
  const choices = new Uint8Array(rows);
  choices.set(batch.choices);
  batch.choices = choices;
}

type MutableBatch = { -readonly [K in keyof TokenBatch]: TokenBatch[K] };

function newBatch(request: EngineRequest): MutableBatch {
  const rows = Math.max(1, request.choices);
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
