/** Growing column of token ids, reused from call to call. */
export class TokenBuffer {
  /** Valid in [0, length); replaced when it grows. */
  ids: Int32Array;
  length: number;

  constructor(capacity = 1024) {
    this.ids = new Int32Array(capacity);
    this.length = 0;
  }

  /** Room for `extra` more ids. */
  reserve(extra: number): void {
    const need = this.length + extra;
    if (need <= this.ids.length) return;
    const grown = new Int32Array(Math.max(need, this.ids.length * 2));
    grown.set(this.ids.subarray(0, this.length));
    this.ids = grown;
  }

  push(id: number): void {
    if (this.length === this.ids.length) this.reserve(1);
    this.ids[this.length++] = id;
  }

  append(ids: Int32Array): void {
    this.reserve(ids.length);
    this.ids.set(ids, this.length);
    this.length += ids.length;
  }

  copy(): Int32Array {
    return this.ids.slice(0, this.length);
  }
}
