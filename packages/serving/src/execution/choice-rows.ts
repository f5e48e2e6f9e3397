import type { TokenBatch } from '@armature/contracts';

/** Batches of a leg that computes one choice of several, told as rows of that choice. One object for all batches: valid until the next. */
export class ChoiceRows {
  readonly #choice: number;
  #choices: Uint8Array;
  readonly #batch: { -readonly [K in keyof TokenBatch]: TokenBatch[K] };

  constructor(choice: number) {
    this.#choice = choice;
    this.#choices = new Uint8Array(1).fill(choice);
    this.#batch = { count: 0, tokenIds: new Int32Array(0), choices: this.#choices, finish: new Uint8Array(0), logprobs: undefined, topCount: 0, topTokenIds: undefined, topLogprobs: undefined };
  }

  of(rows: TokenBatch): TokenBatch {
    if (rows.count > this.#choices.length) this.#choices = new Uint8Array(rows.count).fill(this.#choice);
    const batch = this.#batch;
    batch.count = rows.count;
    batch.tokenIds = rows.tokenIds;
    batch.choices = this.#choices;
    batch.finish = rows.finish;
    batch.logprobs = rows.logprobs;
    batch.topCount = rows.topCount;
    batch.topTokenIds = rows.topTokenIds;
    batch.topLogprobs = rows.topLogprobs;
    return batch;
  }
}
