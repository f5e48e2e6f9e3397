import { ArmatureError, FinishCode } from '@armature/contracts';
import type { EngineRequest, TokenBatch } from '@armature/contracts';
import { finishOf, maxNewTokens, tokenIdOf } from './wire.ts';
import type { ChunkChoice, CompletionChunk } from './wire.ts';

/**
 * The output of one request: chunks in, columns out, and which choices have ended.
 *
 * Finish codes: vLLM sends the reason with the last token. A token that reaches max_tokens or the context length is flagged here, so
 * `length` never depends on a later chunk. A reason that comes alone, after the token it belongs to, flags no row (the token is out, and none is
 * invented): that choice has ended by `stop`, and the request's `end` says so.
 */
export class Output {
  readonly #request: EngineRequest;
  readonly #maxTokens: number;
  readonly #counts: Int32Array;
  readonly #hasEnded: Uint8Array;
  #openChoices: number;
  #tokens: number;

  constructor(request: EngineRequest, maxModelTokens: number) {
    this.#request = request;
    this.#maxTokens = Math.max(1, Math.min(maxNewTokens(request), maxModelTokens - request.tokenIds.length));
    this.#counts = new Int32Array(request.choices);
    this.#hasEnded = new Uint8Array(request.choices);
    this.#openChoices = request.choices;
    this.#tokens = 0;
  }

  /** Every choice has its reason to end. */
  get isComplete(): boolean {
    return this.#openChoices === 0;
  }

  get tokens(): number {
    return this.#tokens;
  }

  /** The tokens of one chunk; undefined when it brings none. Throws `VLLM_STREAM_INVALID`, `VLLM_FAILED`. */
  take(chunk: CompletionChunk): TokenBatch | undefined {
    const choices = chunk.choices ?? [];
    let count = 0;
    for (const choice of choices) count += this.#rowsOf(choice);
    const batch = count === 0 ? undefined : this.#columns(count);
    let row = 0;
    for (const choice of choices) row = this.#fill(choice, batch, row);
    return batch;
  }

  #rowsOf(choice: ChunkChoice): number {
    const index = choice.index ?? 0;
    if (!(Number.isInteger(index) && index >= 0 && index < this.#counts.length)) {
      throw new ArmatureError('VLLM_STREAM_INVALID', `the stream brought choice ${String(index)} of ${this.#counts.length}`, { retryable: true });
    }
    if (choice.token_ids === undefined || choice.token_ids === null) {
      if ((choice.text ?? '') === '') return 0;
      throw new ArmatureError('VLLM_STREAM_INVALID', 'the server sends text without token_ids', { hint: 'vLLM 0.10.2 or newer is needed, and no proxy that drops return_token_ids' });
    }
    return this.#hasEnded[index] === 1 ? 0 : choice.token_ids.length;
  }

  #columns(count: number): TokenBatch {
    const { choices, sampling } = this.#request;
    const topCount = Math.max(0, sampling.topLogprobs);
    return {
      count,
      tokenIds: new Int32Array(count),
      choices: choices > 1 ? new Uint8Array(count) : undefined,
      finish: new Uint8Array(count),
      logprobs: sampling.topLogprobs < 0 ? undefined : new Float32Array(count).fill(NaN),
      topCount,
      topTokenIds: topCount === 0 ? undefined : new Int32Array(count * topCount).fill(-1),
      topLogprobs: topCount === 0 ? undefined : new Float32Array(count * topCount),
    };
  }

  /** Writes the rows of a choice from `row` on; returns the next free row. */
  #fill(choice: ChunkChoice, batch: TokenBatch | undefined, row: number): number {
    const index = choice.index ?? 0;
    if (this.#hasEnded[index] === 1) return row;
    const ids = choice.token_ids ?? [];
    let next = row;
    if (batch !== undefined) {
      for (let i = 0; i < ids.length; i++, next++) {
        batch.tokenIds[next] = ids[i] as number;
        if (batch.choices !== undefined) batch.choices[next] = index;
        if (batch.logprobs !== undefined) fillLogprobs(choice, i, batch, next);
      }
    }
    const before = this.#counts[index] as number;
    this.#counts[index] = before + ids.length;
    this.#tokens += ids.length;
    let finish = finishOf(choice.finish_reason);
    if (finish === FinishCode.None && before + ids.length >= this.#maxTokens) finish = FinishCode.Length;
    if (finish === FinishCode.None) return next;
    if (before + ids.length === 0) throw new ArmatureError('VLLM_FAILED', 'vLLM ended a choice without a token', { retryable: true, hint: 'see the log of the vLLM server' });
    this.#hasEnded[index] = 1;
    this.#openChoices--;
    if (batch !== undefined && ids.length > 0) batch.finish[next - 1] = finish;
    return next;
  }
}

/** vLLM adds the chosen token to the alternatives when it is not among the best: sorted and cut, the best remain. */
function fillLogprobs(choice: ChunkChoice, at: number, batch: TokenBatch, row: number): void {
  const { logprobs, topCount, topTokenIds, topLogprobs } = batch;
  (logprobs as Float32Array)[row] = choice.logprobs?.token_logprobs?.[at] ?? NaN;
  if (topTokenIds === undefined || topLogprobs === undefined) return;
  const best = Object.entries(choice.logprobs?.top_logprobs?.[at] ?? {}).sort(([, a], [, b]) => b - a);
  for (let k = 0; k < Math.min(topCount, best.length); k++) {
    const [name, logprob] = best[k] as [string, number];
    topTokenIds[row * topCount + k] = tokenIdOf(name);
    topLogprobs[row * topCount + k] = logprob;
  }
}
