/** Of a typical answer: growing costs more than the rest. */
const FIRST_CAPACITY = 128;

/** Output tokens of one choice. */
export class TokenLog {
  #tokens = new Int32Array(0);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(token: number): void {
    if (this.#length === this.#tokens.length) {
      const grown = new Int32Array(Math.max(FIRST_CAPACITY, this.#tokens.length * 2));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.#length++] = token;
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
