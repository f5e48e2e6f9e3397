const MAX_DEPTH = 80;
/** Bytes per element by type byte of extension 0x74: Int8 Uint8 Uint8Clamped Int16 Uint16 Int32 Uint32 Float32 Float64 BigInt64 BigUint64. */
const ELEMENT_BYTES = [1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8] as const;

type Width = 1 | 2 | 4;
/** By first byte: values of so many bytes; text and binary, extensions, whose length takes so many bytes. */
const PLAIN_BYTES: Readonly<Record<number, number>> = { 0xc0: 0, 0xc2: 0, 0xc3: 0, 0xca: 4, 0xcb: 8, 0xcc: 1, 0xcd: 2, 0xce: 4, 0xcf: 8, 0xd0: 1, 0xd1: 2, 0xd2: 4, 0xd3: 8 };
const COUNTED: Readonly<Record<number, Width>> = { 0xc4: 1, 0xc5: 2, 0xc6: 4, 0xd9: 1, 0xda: 2, 0xdb: 4 };
const EXTENSIONS: Readonly<Record<number, Width>> = { 0xc7: 1, 0xc8: 2, 0xc9: 4 };

/** Walks one MessagePack value without allocating; a sentence on what is wrong, or undefined when `bytes` is exactly one allowed value. */
export function findInvalid(bytes: Uint8Array): string | undefined {
  const walk = new Walk(bytes);
  walk.value(0);
  if (walk.problem === undefined && walk.offset !== bytes.length) walk.problem = `${bytes.length - walk.offset} bytes follow the value`;
  return walk.problem;
}

class Walk {
  problem: string | undefined = undefined;
  offset = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  value(depth: number): void {
    if (depth > MAX_DEPTH) return this.#fail(`nested deeper than ${MAX_DEPTH} levels`);
    if (this.offset >= this.#bytes.length) return this.#fail('it ends too early');
    const head = this.#bytes[this.offset++];
    if (head <= 0x7f || head >= 0xe0) return;
    if (head <= 0x8f) return this.#map(head & 0x0f, depth);
    if (head <= 0x9f) return this.#array(head & 0x0f, depth);
    if (head <= 0xbf) return this.#skip(head & 0x1f);
    this.#tagged(head, depth);
  }

  #tagged(head: number, depth: number): void {
    const plain = PLAIN_BYTES[head];
    if (plain !== undefined) return this.#skip(plain);
    const text = COUNTED[head];
    if (text !== undefined) return this.#skip(this.#length(text));
    const extension = EXTENSIONS[head];
    if (extension !== undefined) return this.#extension(this.#length(extension));
    if (head >= 0xd4 && head <= 0xd8) return this.#extension(1 << (head - 0xd4));
    if (head === 0xdc || head === 0xdd) return this.#array(this.#length(head === 0xdc ? 2 : 4), depth);
    if (head === 0xde || head === 0xdf) return this.#map(this.#length(head === 0xde ? 2 : 4), depth);
    this.#fail(`byte 0x${head.toString(16)} has no meaning`);
  }

  #length(width: Width): number {
    const at = this.offset;
    this.#skip(width);
    if (this.problem !== undefined) return 0;
    return width === 1 ? this.#bytes[at] : width === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #skip(length: number): void {
    this.offset += length;
    if (this.offset > this.#bytes.length) this.#fail('it ends too early');
  }

  #array(count: number, depth: number): void {
    // Every element takes a byte at least: a count beyond what is left is a lie, found before anything is allocated.
    if (count > this.#bytes.length - this.offset) return this.#fail(`an array of ${count} elements does not fit`);
    for (let i = 0; i < count && this.problem === undefined; i++) this.value(depth + 1);
  }

  #map(count: number, depth: number): void {
    if (count * 2 > this.#bytes.length - this.offset) return this.#fail(`a map of ${count} entries does not fit`);
    for (let i = 0; i < count && this.problem === undefined; i++) {
      const head = this.#bytes[this.offset];
      if (!((head >= 0xa0 && head <= 0xbf) || (head >= 0xd9 && head <= 0xdb))) return this.#fail('a key is not a string');
      const at = this.offset;
      this.value(depth + 1);
      if (this.problem === undefined && this.#isProto(at)) return this.#fail('key "__proto__"');
      if (this.problem === undefined) this.value(depth + 1);
    }
  }

  #isProto(at: number): boolean {
    const end = this.offset;
    if (end - at < 10 || end - at > 14) return false;
    const name = '__proto__';
    for (let i = 0; i < 9; i++) if (this.#bytes[end - 9 + i] !== name.charCodeAt(i)) return false;
    return true;
  }

  #extension(length: number): void {
    if (this.problem !== undefined) return;
    const type = this.#bytes[this.offset];
    const data = this.offset + 1;
    this.#skip(1 + length);
    if (this.problem !== undefined) return;
    if (type === 0x00 && length === 1 && this.#bytes[data] === 0) return; // undefined
    if (type !== 0x74 || length < 1) return this.#fail(`extension 0x${type.toString(16)} is not allowed`);
    const element = ELEMENT_BYTES[this.#bytes[data]];
    if (element === undefined) return this.#fail(`typed array of unknown type ${this.#bytes[data]}`);
    if ((length - 1) % element !== 0) this.#fail(`typed array of ${length - 1} bytes with elements of ${element}`);
  }

  #fail(problem: string): void {
    this.problem ??= problem;
  }
}
