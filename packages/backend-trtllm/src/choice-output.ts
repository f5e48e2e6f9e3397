import { ArmatureError, FinishCode } from '@armature/contracts';
import type { EngineRequest } from '@armature/contracts';
import { generatedBefore, maxNewTokens } from './completion.ts';
import type { CompletionChoice } from './completion.ts';
import type { JsonValue } from './lossless-json.ts';
import { failed, streamInvalid } from './problems.ts';
import type { OutputToken, Rows } from './rows.ts';

/** What an output needs to know of its model. */
export interface OutputModel {
  readonly maxModelTokens: number;
  readonly vocabSize: number;
  readonly eosTokenIds: ReadonlySet<number>;
}

/**
 * The output of one choice: pieces of an answer in, rows out.
 *
 * Where it ends is decided here, by stop tokens, end of sequence and limits, so that it does not depend on how an engine version reports them; what
 * the server says ends it too. An end-of-sequence token that the server kept to itself is added: the contract wants the token that ends a choice.
 * On a decode leg the first token is the context server's, delivered already: it is checked and dropped.
 */
export class ChoiceOutput {
  readonly #request: EngineRequest;
  readonly #choice: number;
  readonly #model: OutputModel;
  readonly #rows: Rows;
  readonly #maxTokens: number;
  readonly #minTokens: number;
  #delivered: number | undefined;
  #tokens: number;
  #hasEnded: boolean;

  /** `choice`: its number in the request, for the rows. */
  constructor(request: EngineRequest, choice: number, model: OutputModel, rows: Rows) {
    this.#request = request;
    this.#choice = choice;
    this.#model = model;
    this.#rows = rows;
    this.#maxTokens = maxNewTokens(request, model.maxModelTokens);
    this.#minTokens = request.stop.minTokens - generatedBefore(request);
    this.#delivered = request.leg === 'decode' ? request.firstTokens?.[choice] : undefined;
    this.#tokens = 0;
    this.#hasEnded = false;
  }

  /** It has its reason to end. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Output tokens, the context server's included. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Throws `TRTLLM_STREAM_INVALID`, `TRTLLM_FAILED`, `TRTLLM_HANDOVER_MISMATCH`. */
  take(choice: CompletionChoice): void {
    const { tokenIds, finishReason } = choice;
    // The server's reason belongs to the last token of its piece. A context server ends every request after one token: no reason to end the choice.
    const isCut = finishReason === 'length' && this.#request.leg === 'prefill';
    const last = finishReason === 'length' && !isCut ? FinishCode.Length : FinishCode.None;
    for (let i = 0; i < tokenIds.length && !this.#hasEnded; i++) this.#token(tokenIds[i], choice, i, i === tokenIds.length - 1 ? last : FinishCode.None);
    if (this.#hasEnded || finishReason === undefined || finishReason === 'not_finished') return;
    if (finishReason === 'stop') this.#hiddenEnd(choice.stopReason);
    else if (this.#tokens === 0) throw failed(`"${finishReason}" without a token`);
    this.#hasEnded = !isCut;
  }

  #token(id: number, choice: CompletionChoice, at: number, last: FinishCode): void {
    if (!(Number.isInteger(id) && id >= 0 && id < this.#model.vocabSize)) throw streamInvalid(`the stream brought token ${id}; the vocabulary has ${this.#model.vocabSize}`, 'tokenizer and model do not belong together');
    this.#tokens++;
    if (this.#delivered !== undefined) {
      if (this.#delivered !== id) {
        throw new ArmatureError('TRTLLM_HANDOVER_MISMATCH', `the generation server begins with token ${id}, the context server sampled ${this.#delivered}`, { retryable: true, hint: 'do both servers run the same model and version?' });
      }
      this.#delivered = undefined;
      if (last !== FinishCode.None) this.#hasEnded = true; // the limit was the first token
      return;
    }
    const isLimit = this.#tokens >= this.#maxTokens || last === FinishCode.Length;
    const finish = this.#isStop(id) ? FinishCode.Stop : isLimit ? FinishCode.Length : FinishCode.None;
    this.#rows.push(this.#choice, this.#withLogprobs(id, choice, at), finish);
    this.#hasEnded = finish !== FinishCode.None;
  }

  #isStop(id: number): boolean {
    const { stop } = this.#request;
    return this.#tokens >= this.#minTokens && (stop.stopTokenIds.includes(id) || (!stop.ignoreEos && this.#model.eosTokenIds.has(id)));
  }

  /** The server stopped at a token that it did not send: a stop token it names, else the end of the sequence. */
  #hiddenEnd(stopReason: JsonValue | undefined): void {
    const [eos = -1] = this.#model.eosTokenIds;
    const id = typeof stopReason === 'number' ? stopReason : eos;
    if (id >= 0) {
      this.#tokens++;
      this.#rows.push(this.#choice, { id, logprob: NaN }, FinishCode.Stop);
    } else if (this.#tokens === 0) throw failed('"stop" without a token');
  }

  /** Alternatives are named by text there, which is no token id: they are not asked for. */
  #withLogprobs(id: number, { logprobs }: CompletionChoice, at: number): OutputToken {
    const own = this.#request.sampling.topLogprobs < 0 ? undefined : item(logprobs?.['token_logprobs'], at);
    return { id, logprob: typeof own === 'number' ? own : NaN };
  }
}

function item(list: JsonValue | undefined, at: number): JsonValue | undefined {
  return Array.isArray(list) ? (list as readonly JsonValue[])[at] : undefined;
}
