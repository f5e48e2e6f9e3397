// @hot
import { ArmatureError, FinishCode } from '@armature/contracts';
import type { InferenceEnd, InferenceHandle, TextOutput, TokenBatch, TokenSink } from '@armature/contracts';
import type { Generation } from './generation.ts';
import type { LogprobText } from './logprob-text.ts';

/** One choice of the answer. */
export class Choice {
  readonly index: number;
  readonly output: TextOutput;
  readonly logprobs: LogprobText | undefined;
  /** Streamed: text not yet written. Else all of it. */
  text: string;
  /** Beginning of this choice's stream events, up to the text. */
  head = '';
  outputTokens = 0;
  /** FinishCode; 0 = still running. */
  reason = 0;
  started = false;
  finishSent = false;

  constructor(index: number, output: TextOutput, logprobs: LogprobText | undefined, echo: string) {
    this.index = index;
    this.output = output;
    this.logprobs = logprobs;
    this.text = echo;
  }
}

/** One engine request: all choices of one prompt. */
export class Leg implements TokenSink {
  readonly #generation: Generation;
  readonly choices: readonly Choice[];
  readonly promptTokens: number;
  cachedTokens = 0;
  handle: InferenceHandle | undefined = undefined;
  ended = false;
  #running: number;
  /** A stop string ended a choice that the engine goes on with. */
  #stoppedHere = false;
  #cancelled = false;

  constructor(generation: Generation, choices: readonly Choice[], promptTokens: number) {
    this.#generation = generation;
    this.choices = choices;
    this.promptTokens = promptTokens;
    this.#running = choices.length;
  }

  tokens(batch: TokenBatch): void {
    if (this.ended || this.#generation.over) return;
    try {
      this.#takeAll(batch);
    } catch (error) {
      // One request with a token its tokenizer does not know must not end the engine's step for all others.
      this.ended = true;
      this.cancel();
      this.#generation.fail(ArmatureError.from(error).toData());
    }
  }

  #takeAll(batch: TokenBatch): void {
    const generation = this.#generation;
    const of = batch.choices;
    let taken = 0;
    for (let row = 0; row < batch.count; row++) {
      const choice = this.choices[of === undefined ? 0 : of[row]!];
      if (choice === undefined || choice.reason !== FinishCode.None) continue;
      taken++;
      this.#take(choice, batch, row);
    }
    if (taken === 0) return;
    generation.received(taken);
    if (this.#running === 0 && this.#stoppedHere) {
      // The engine would go on: nobody reads what follows. The answer does not wait for its end.
      // `ended` first: a cancel may call `end` back at once.
      this.ended = true;
      this.#stop();
      generation.legEnded();
    }
  }

  /** Ends the request as answered; its usage tells the cached tokens. */
  #stop(): void {
    const usage = this.handle?.stop?.();
    if (usage === undefined) this.cancel();
    else this.cachedTokens = usage.cachedTokens;
  }

  #take(choice: Choice, batch: TokenBatch, row: number): void {
    const generation = this.#generation;
    const finish = batch.finish[row]!;
    const output = choice.output;
    choice.outputTokens++;
    if (finish !== FinishCode.Stop) {
      // A token that stops (end of sequence, stop token id) is counted and not shown.
      choice.text += output.push(batch.tokenIds[row]!);
      if (choice.logprobs !== undefined && batch.logprobs !== undefined) choice.logprobs.add(generation.preprocessor, batch, row, generation.topLogprobs);
    }
    if (output.matchedStop >= 0) {
      choice.reason = FinishCode.Stop;
      if (finish === FinishCode.None) this.#stoppedHere = true;
    } else if (finish !== FinishCode.None) {
      choice.text += output.finish();
      // What was held back may complete a stop string.
      choice.reason = output.matchedStop >= 0 ? FinishCode.Stop : finish;
    } else return;
    this.#running--;
  }

  end(end: InferenceEnd): void {
    if (this.ended) return;
    const generation = this.#generation;
    if (end.type === 'finished') {
      this.cachedTokens = end.usage.cachedTokens;
      for (let i = 0; i < this.choices.length; i++) {
        const choice = this.choices[i]!;
        if (choice.reason !== FinishCode.None) continue;
        // The engine ended without a finish flag on the last token.
        choice.text += choice.output.finish();
        choice.reason = choice.outputTokens >= generation.maxTokens ? FinishCode.Length : FinishCode.Stop;
      }
      this.#finish();
      return;
    }
    this.ended = true;
    if (generation.over) return;
    if (end.type === 'failed') generation.fail(end.error);
    else generation.fail({ code: 'SERVING_REQUEST_CANCELLED', message: 'the request was cancelled inside the server', retryable: true });
  }

  /** Idempotent; also before `execute` has returned its handle. */
  cancel(): void {
    this.#cancelled = true;
    this.handle?.cancel();
  }

  executed(handle: InferenceHandle): void {
    this.handle = handle;
    if (this.#cancelled) handle.cancel();
  }

  #finish(): void {
    this.ended = true;
    this.#generation.legEnded();
  }
}
