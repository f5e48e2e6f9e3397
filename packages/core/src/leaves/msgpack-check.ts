const MAX_DEPTH = 80;
/** Bytes per element by type byte of extension 0x74: Int8 Uint8 Uint8Clamped Int16 Uint16 Int32 Uint32 Float32 Float64 BigInt64 BigUint64. */
const ELEMENT_BYTES = [1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8] as const;

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
    switch (head) {
      case 0xc0: case 0xc2: case 0xc3: return;
      case 0xc4: case 0xd9: return this.#skip(this.#length(1));
      case 0xc5: case 0xda: return this.#skip(this.#length(2));
      case 0xc6: case 0xdb: return this.#skip(this.#length(4));
      case 0xc7: return this.#extension(this.#length(1));
      case 0xc8: return this.#extension(this.#length(2));
      case 0xc9: return this.#extension(this.#length(4));
      case 0xcc: case 0xd0: return this.#skip(1);
      case 0xcd: case 0xd1: return this.#skip(2);
      case 0xca: case 0xce: case 0xd2: return this.#skip(4);
      case 0xcb: case 0xcf: case 0xd3: return this.#skip(8);
      case 0xd4: return this.#extension(1);
      case 0xd5: return this.#extension(2);
      case 0xd6: return this.#extension(4);
      case 0xd7: return this.#extension(8);
      case 0xd8: return this.#extension(16);
      case 0xdc: return this.#array(this.#length(2), depth);
      case 0xdd: return this.#array(this.#length(4), depth);
      case 0xde: return this.#map(this.#length(2), depth);
      case 0xdf: return this.#map(this.#length(4), depth);
      default: return this.#fail(`byte 0x${head.toString(16)} has no meaning`);
    }
  }

  #length(width: 1 | 2 | 4): number {
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
