import type { EngineRequest, FinishCode, TokenBatch } from '@armature/contracts';

/** One output token before it becomes a row. */
export interface OutputToken {
  readonly id: number;
  readonly logprob: number;
}

const FIRST_ROWS = 8;

/** The columns of a batch, used again for every batch of a request. */
export class Rows {
  readonly #hasChoices: boolean;
  readonly #hasLogprobs: boolean;
  #count: number;
  #tokenIds: Int32Array;
  #choices: Uint8Array;
  #finish: Uint8Array;
  #logprobs: Float32Array;

  constructor({ choices, sampling }: Pick<EngineRequest, 'choices' | 'sampling'>) {
    this.#hasChoices = choices > 1;
    this.#hasLogprobs = sampling.topLogprobs >= 0;
    this.#count = 0;
    this.#tokenIds = new Int32Array(FIRST_ROWS);
    this.#choices = new Uint8Array(FIRST_ROWS);
    this.#finish = new Uint8Array(FIRST_ROWS);
    this.#logprobs = new Float32Array(this.#hasLogprobs ? FIRST_ROWS : 0);
  }

  get count(): number {
    return this.#count;
  }

  push(choice: number, token: OutputToken, finish: FinishCode): void {
    const row = this.#count++;
    if (row >= this.#tokenIds.length) this.#grow();
    this.#tokenIds[row] = token.id;
    this.#choices[row] = choice;
    this.#finish[row] = finish;
    if (this.#hasLogprobs) this.#logprobs[row] = token.logprob;
  }

  /** What was pushed since the last call, as views: valid until the next `push`. */
  take(): TokenBatch {
    const count = this.#count;
    this.#count = 0;
    return {
      count,
      tokenIds: this.#tokenIds.subarray(0, count),
      choices: this.#hasChoices ? this.#choices.subarray(0, count) : undefined,
      finish: this.#finish.subarray(0, count),
      logprobs: this.#hasLogprobs ? this.#logprobs.subarray(0, count) : undefined,
      topCount: 0,
      topTokenIds: undefined,
      topLogprobs: undefined,
    };
  }

  #grow(): void {
    this.#tokenIds = doubled(this.#tokenIds);
    this.#choices = doubled(this.#choices);
    this.#finish = doubled(this.#finish);
    this.#logprobs = doubled(this.#logprobs);
  }
}

function doubled<T extends Int32Array | Uint8Array | Float32Array>(column: T): T {
  const wider = new (column.constructor as new (length: number) => T)(column.length * 2);
  wider.set(column);
  return wider;
}
