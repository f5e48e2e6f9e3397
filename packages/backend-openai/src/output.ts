import { ArmatureError, FinishCode } from '@armature/contracts';
import type { EngineRequest } from '@armature/contracts';
import type { Dialect } from './dialect.ts';
import type { OutputToken, Rows } from './rows.ts';
import { TextTokens } from './text-tokens.ts';
import type { TextCodec } from './text-codec.ts';
import { finishOf, maxNewTokens, tokenIdOf } from './wire.ts';
import type { ChunkChoice, ChunkLogprobs, CompletionChunk } from './wire.ts';

/** What an output needs to know of its model. */
export interface OutputModel {
  readonly codec: TextCodec;
  readonly eosTokenIds: readonly number[];
  readonly vocabSize: number;
  readonly maxModelTokens: number;
}

/** Tokens of a piece of one choice. */
type Reading = (choice: ChunkChoice) => readonly OutputToken[];

interface ChoiceState {
  readonly read: Reading;
  readonly flush: () => readonly OutputToken[];
  /** The last token, kept from where the limit may have been reached until it is known whether it ends the choice. */
  held: OutputToken | undefined;
  rows: number;
  /** The server has made at most so many tokens. */
  most: number;
  hasEnded: boolean;
}

/**
 * The output of one request: chunks in, rows out, and which choices have ended.
 *
 * Finish codes. With the server's own ids the reason comes with the last token, and a token that reaches the limit is flagged here. With text
 * the reason may come alone. `length`: flags the token that was held for it. `stop`: the end-of-sequence token has no text, so it is added here, as
 * the engine contract wants the token that ends a choice. A reason that comes alone and has no token to flag ends the choice with that token too.
 */
export class Output {
  readonly #request: EngineRequest;
  readonly #model: OutputModel;
  readonly #rows: Rows;
  readonly #fromText: boolean;
  readonly #limit: number;
  readonly #choices: readonly ChoiceState[];
  #openChoices: number;

  constructor(request: EngineRequest, dialect: Dialect, model: OutputModel, rows: Rows) {
    this.#request = request;
    this.#model = model;
    this.#rows = rows;
    this.#fromText = dialect.idsFrom === 'text';
    this.#limit = maxNewTokens(request, model.maxModelTokens);
    this.#choices = Array.from({ length: request.choices }, () => ({ ...this.#reading(dialect), held: undefined, rows: 0, most: 0, hasEnded: false }));
    this.#openChoices = request.choices;
  }

  /** Every choice has its reason to end. */
  get isComplete(): boolean {
    return this.#openChoices === 0;
  }

  /** Rows given out. */
  get tokens(): number {
    return this.#choices.reduce((sum, { rows }) => sum + rows, 0);
  }

  /** Puts the tokens of one chunk into the rows. Throws `OPENAI_STREAM_INVALID`, `OPENAI_FAILED`, `OPENAI_TEXT_NOT_ENCODABLE`. */
  take(chunk: CompletionChunk): void {
    for (const choice of chunk.choices ?? []) {
      const index = choice.index ?? 0;
      const state = this.#choices[index];
      if (state === undefined) throw new ArmatureError('OPENAI_STREAM_INVALID', `the stream brought choice ${String(index)} of ${this.#choices.length}`, { retryable: true });
      if (!state.hasEnded) this.#takeChoice(index, state, choice);
    }
  }

  #takeChoice(index: number, state: ChoiceState, choice: ChunkChoice): void {
    const finish = finishOf(choice.finish_reason);
    const tokens = state.read(choice);
    // Of text: no token has less than one byte of it.
    state.most += this.#fromText ? Buffer.byteLength(choice.text ?? '') : tokens.length;
    for (const token of tokens) this.#next(index, state, token);
    if (finish !== FinishCode.None) {
      for (const token of state.flush()) this.#next(index, state, token);
      this.#end(index, state, finish, choice.stop_reason);
    } else if (state.most < this.#limit) this.#release(index, state);
    else if (!this.#fromText) this.#end(index, state, FinishCode.Length, undefined);
  }

  #next(index: number, state: ChoiceState, token: OutputToken): void {
    this.#release(index, state);
    state.held = token;
  }

  #release(index: number, state: ChoiceState, finish: FinishCode = FinishCode.None): void {
    if (state.held === undefined) return;
    this.#rows.push(index, state.held, finish);
    state.rows++;
    state.held = undefined;
  }

  #end(index: number, state: ChoiceState, finish: FinishCode, stopReason: unknown): void {
    const needsToken = state.held === undefined || (this.#fromText && finish === FinishCode.Stop);
    if (needsToken) {
      const id = this.#fromText ? this.#endToken(stopReason) : -1;
      if (id >= 0) {
        this.#release(index, state);
        state.held = { id, logprob: NaN, tops: undefined };
      } else if (state.rows === 0 && state.held === undefined) {
        throw new ArmatureError('OPENAI_FAILED', 'the server ended a choice without a token', { retryable: true, hint: 'see the log of that server' });
      } else if (this.#fromText) this.#release(index, state); // the request's end says the reason
    }
    this.#release(index, state, finish);
    state.hasEnded = true;
    this.#openChoices--;
  }

  /** The token without text that ended a choice. */
  #endToken(stopReason: unknown): number {
    const { stopTokenIds, ignoreEos } = this.#request.stop;
    if (typeof stopReason === 'number' && Number.isInteger(stopReason) && stopReason >= 0 && stopReason < this.#model.vocabSize) return stopReason;
    if (ignoreEos && stopTokenIds.length > 0) return stopTokenIds[0];
    return this.#model.eosTokenIds[0] ?? -1;
  }

  #reading(dialect: Dialect): Pick<ChoiceState, 'read' | 'flush'> {
    const { tokenIds, promptTokens, sampling } = this.#request;
    const { codec, vocabSize } = this.#model;
    if (dialect.idsFrom === 'text') return textReading(new TextTokens(codec, tokenIds.subarray(promptTokens)), codec, sampling.topLogprobs);
    const read = dialect.idsFrom === 'ids' ? readIds : readLogprobIds;
    return { read: (choice) => read(choice, sampling.topLogprobs, vocabSize), flush: () => [] };
  }
}

function readIds(choice: ChunkChoice, topLogprobs: number, vocabSize: number): readonly OutputToken[] {
  const ids = choice.token_ids;
  if (ids !== undefined && ids !== null) return ids.map((id, i) => tokenOf(checkedId(id, vocabSize), choice.logprobs, i, topLogprobs, tokenIdOf));
  if ((choice.text ?? '') === '') return [];
  throw new ArmatureError('OPENAI_STREAM_INVALID', 'the server sent text without token_ids, which it gave at start', { retryable: true, hint: 'do several kinds of servers answer at this address?' });
}

function readLogprobIds(choice: ChunkChoice, topLogprobs: number, vocabSize: number): readonly OutputToken[] {
  const names = choice.logprobs?.tokens ?? [];
  if (names.length === 0 && (choice.text ?? '') !== '') throw new ArmatureError('OPENAI_STREAM_INVALID', 'the server sent text without the logprobs that name its tokens', { retryable: true });
  return names.map((name, i) => tokenOf(checkedId(tokenIdOf(name), vocabSize), choice.logprobs, i, topLogprobs, tokenIdOf));
}

function checkedId(id: number, vocabSize: number): number {
  if (Number.isInteger(id) && id >= 0 && id < vocabSize) return id;
  throw new ArmatureError('OPENAI_STREAM_INVALID', `the server sent token ${String(id)}; the vocabulary has ${vocabSize}`, { hint: 'is models[].source the model that the server serves?' });
}

/** `at`: which token of the chunk. Servers add the chosen token to the alternatives when it is not among the best: sorted and cut, the best remain. */
function tokenOf(id: number, logprobs: ChunkLogprobs | null | undefined, at: number, topLogprobs: number, idOf: (name: string) => number): OutputToken {
  const logprob = logprobs?.token_logprobs?.[at] ?? NaN;
  if (topLogprobs <= 0) return { id, logprob, tops: undefined };
  const tops = Object.entries(logprobs?.top_logprobs?.[at] ?? {})
    .sort(([, a], [, b]) => b - a)
    .slice(0, topLogprobs)
    .map(([name, value]) => [idOf(name), value] as const)
    .filter(([token]) => token >= 0);
  return { id, logprob, tops };
}

/**
 * Text, piece by piece; with logprobs the server's tokens are the pieces. A piece that is several tokens here has its logprob on the first and 0 on
 * the others, one that is held back hands it on: the sum over the rows is the server's.
 */
function textReading(tokens: TextTokens, codec: TextCodec, topLogprobs: number): Pick<ChoiceState, 'read' | 'flush'> {
  const idOf = (name: string): number => codec.tokenIdOf(name);
  let carried = 0;
  const rowsOf = (ids: readonly number[], from: ChunkLogprobs | null | undefined, at: number): OutputToken[] =>
    ids.map((id, i) => {
      if (i > 0) return { id, logprob: 0, tops: undefined };
      const token = { ...tokenOf(id, from, at, topLogprobs, idOf), logprob: carried };
      carried = 0;
      return token;
    });
  return {
    read: ({ text, logprobs }) => {
      const whole = text ?? '';
      if (topLogprobs < 0) return rowsOf(tokens.push(whole), undefined, 0);
      const values = logprobs?.token_logprobs ?? [];
      const pieces = logprobs?.tokens ?? [];
      if (pieces.join('') !== whole) {
        // Parts of characters have no text of their own: one piece then.
        for (const value of values) carried += value ?? NaN;
        return rowsOf(tokens.push(whole), undefined, 0);
      }
      return pieces.flatMap((piece, i) => {
        carried += values[i] ?? NaN;
        return rowsOf(tokens.push(piece), logprobs, i);
      });
    },
    flush: () => rowsOf(tokens.finish(), undefined, 0),
  };
}
