import type { TokenBatch } from '@armature/contracts';

/** Output tokens of a single-choice request, kept so that another worker can go on. */
export class TokenLog {
  readonly #isKept: boolean;
  #tokens = new Int32Array(0);
  #length = 0;

  constructor(isKept: boolean) {
    this.#isKept = isKept;
  }

  get length(): number {
    return this.#length;
  }

  /** Whether everything delivered is in the log. */
  get isComplete(): boolean {
    return this.#isKept;
  }

  push(batch: TokenBatch): void {
    if (!this.#isKept) return;
    if (this.#length + batch.count > this.#tokens.length) {
      const grown = new Int32Array(Math.max(32, this.#tokens.length * 2, this.#length + batch.count));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    for (let i = 0; i < batch.count; i++) this.#tokens[this.#length++] = batch.tokenIds[i];
  }

  /** `prompt` followed by the log; `prompt` itself while the log is empty. */
  append(prompt: Int32Array): Int32Array {
    if (this.#length === 0) return prompt;
    const all = new Int32Array(prompt.length + this.#length);
    all.set(prompt);
    all.set(this.#tokens.subarray(0, this.#length), prompt.length);
    return all;
  }
}
