// @hot
import { ArmatureError } from '@armature/contracts';

/** What comes next, as far as events tell it apart. */
export const Kind = { Nil: 0, Int: 1, Float: 2, Text: 3, Binary: 4, Array: 5, Map: 6, Other: 7 } as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

const MAX_DEPTH = 32;

/**
 * Reads MessagePack in place: what is wanted goes into numbers and columns, the rest is skipped. A general decoder would make an object for each of the
 * tokens and hashes. Throws `VLLM_EVENT_INVALID` where the bytes end or are not what was asked for.
 */
export class MsgpackCursor {
  #bytes: Uint8Array;
  #view: DataView;
  #at: number;
  /** Words of the last hash read. */
  lo: number;
  hi: number;

  constructor() {
    this.#bytes = new Uint8Array(0);
    this.#view = new DataView(this.#bytes.buffer);
    this.#at = 0;
    this.lo = 0;
    this.hi = 0;
  }

  open(bytes: Uint8Array): void {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#at = 0;
  }

  /** Of the next value; set it back to read again. */
  get at(): number {
    return this.#at;
  }

  set at(at: number) {
    this.#at = at;
  }

  get bytesLeft(): number {
    return this.#bytes.length - this.#at;
  }

  peek(): Kind {
    this.#need(1);
    const tag = this.#bytes[this.#at];
    if (tag <= 0x7f || tag >= 0xe0) return Kind.Int;
    if (tag <= 0x8f) return Kind.Map;
    if (tag <= 0x9f) return Kind.Array;
    if (tag <= 0xbf) return Kind.Text;
    return KINDS[tag - 0xc0];
  }

  /** Consumes a nil; false when something else comes. */
  nil(): boolean {
    if (this.peek() !== Kind.Nil) return false;
    this.#at++;
    return true;
  }

  /** Elements of the array that begins here. */
  array(): number {
    return this.#length(0x90, 0xdc);
  }

  /** Pairs of the map that begins here. */
  map(): number {
    return this.#length(0x80, 0xde);
  }

  float(): number {
    this.#need(1);
    const tag = this.#bytes[this.#at];
    if (tag !== 0xcb && tag !== 0xca) return this.int();
    const size = tag === 0xcb ? 8 : 4;
    this.#need(1 + size);
    const value = tag === 0xcb ? this.#view.getFloat64(this.#at + 1) : this.#view.getFloat32(this.#at + 1);
    this.#at += 1 + size;
    return value;
  }

  /** Within what a double holds exactly, or a little off. */
  int(): number {
    this.word();
    return this.hi * 0x1_0000_0000 + (this.lo >>> 0);
  }

  /** An integer of any width, as two's complement words in `lo` and `hi`. */
  word(): void {
    this.#need(1);
    const at = this.#at;
    const tag = this.#bytes[at];
    if (tag <= 0x7f) return this.#take(1, tag, 0);
    if (tag >= 0xe0) return this.#take(1, tag - 0x100, -1);
    const size = tag >= 0xcc && tag <= 0xcf ? 1 << (tag - 0xcc) : tag >= 0xd0 && tag <= 0xd3 ? 1 << (tag - 0xd0) : 0;
    if (size === 0) this.#fail(`type ${tag} where an integer was expected`);
    this.#need(1 + size);
    const view = this.#view;
    switch (tag) {
      case 0xcc: return this.#take(2, view.getUint8(at + 1), 0);
      case 0xcd: return this.#take(3, view.getUint16(at + 1), 0);
      case 0xce: return this.#take(5, view.getInt32(at + 1), 0);
      case 0xd0: return this.#signed(2, view.getInt8(at + 1));
      case 0xd1: return this.#signed(3, view.getInt16(at + 1));
      case 0xd2: return this.#signed(5, view.getInt32(at + 1));
      default: return this.#take(9, view.getInt32(at + 5), view.getInt32(at + 1));
    }
  }

  /** `count` integers, at most 32 bits of each, into `out`. */
  ints(out: Int32Array, count: number): void {
    const bytes = this.#bytes;
    let at = this.#at;
    for (let i = 0; i < count; i++) {
      const tag = bytes[at];
      if (tag <= 0x7f) {
        out[i] = tag;
        at++;
      } else if (tag === 0xcd && at + 2 < bytes.length) {
        out[i] = (bytes[at + 1] << 8) | bytes[at + 2];
        at += 3;
      } else {
        this.#at = at;
        this.word();
        out[i] = this.lo;
        at = this.#at;
      }
    }
    this.#at = at;
    if (at > bytes.length) this.#fail('an array that goes on beyond the end');
  }

  /** A block's hash into `lo` and `hi`: an integer, or the last 8 bytes of a digest, which are the integer that vLLM would have sent. */
  hash(): void {
    if (this.peek() !== Kind.Binary) return this.word();
    const length = this.#blobLength();
    if (length < 8) this.#fail(`a hash of ${length} bytes`);
    this.#at += length;
    this.hi = this.#view.getInt32(this.#at - 8);
    this.lo = this.#view.getInt32(this.#at - 4);
  }

  text(): string {
    if (this.peek() !== Kind.Text) this.#fail('something else where text was expected');
    const length = this.#blobLength();
    this.#at += length;
    return Buffer.from(this.#bytes.buffer, this.#bytes.byteOffset + this.#at - length, length).toString('utf8');
  }

  /** Which of the known names this text is; -1 = none. Without making a string. */
  name(names: NameTable): number {
    if (this.peek() !== Kind.Text) {
      this.skip();
      return -1;
    }
    const length = this.#blobLength();
    const from = this.#at;
    this.#at += length;
    return names.find(this.#bytes, from, length);
  }

  skip(depth = 0): void {
    if (depth > MAX_DEPTH) this.#fail('values nested deeper than any event');
    const kind = this.peek();
    if (kind === Kind.Array || kind === Kind.Map) {
      const count = kind === Kind.Array ? this.array() : 2 * this.map();
      for (let i = 0; i < count; i++) this.skip(depth + 1);
    } else if (kind === Kind.Text || kind === Kind.Binary) this.#pass(this.#blobLength());
    else if (kind === Kind.Int) this.word();
    else if (kind === Kind.Float) this.float();
    else this.#skipOther();
  }

  #take(size: number, lo: number, hi: number): void {
    this.lo = lo;
    this.hi = hi;
    this.#at += size;
  }

  #signed(size: number, value: number): void {
    this.#take(size, value, value < 0 ? -1 : 0);
  }

  #length(fixed: number, wide: number): number {
    this.#need(1);
    const tag = this.#bytes[this.#at];
    let count = 0;
    if ((tag & 0xf0) === fixed) {
      count = tag & 0x0f;
      this.#at++;
    } else if (tag === wide) {
      this.#need(3);
      count = this.#view.getUint16(this.#at + 1);
      this.#at += 3;
    } else if (tag === wide + 1) {
      this.#need(5);
      count = this.#view.getUint32(this.#at + 1);
      this.#at += 5;
    } else this.#fail(`type ${tag} where ${fixed === 0x90 ? 'an array' : 'a map'} was expected`);
    // Each element has a byte at least: whoever reserves room for them is safe.
    if (count > this.bytesLeft) this.#fail(`${count} elements in ${this.bytesLeft} bytes`);
    return count;
  }

  /** Of text or binary: consumes the header, leaves the bytes, which are all there. */
  #blobLength(): number {
    const tag = this.#bytes[this.#at];
    if (tag >= 0xa0 && tag <= 0xbf) return this.#blob(1, tag & 0x1f);
    const size = tag === 0xd9 || tag === 0xc4 ? 1 : tag === 0xda || tag === 0xc5 ? 2 : 4;
    this.#need(1 + size);
    const length = size === 1 ? this.#view.getUint8(this.#at + 1) : size === 2 ? this.#view.getUint16(this.#at + 1) : this.#view.getUint32(this.#at + 1);
    return this.#blob(1 + size, length);
  }

  #blob(header: number, length: number): number {
    this.#need(header + length);
    this.#at += header;
    return length;
  }

  #skipOther(): void {
    const tag = this.#bytes[this.#at];
    if (tag === 0xc0 || tag === 0xc2 || tag === 0xc3) this.#at++;
    else if (tag >= 0xd4 && tag <= 0xd8) this.#pass(this.#blob(2, 1 << (tag - 0xd4)));
    else if (tag >= 0xc7 && tag <= 0xc9) {
      const size = 1 << (tag - 0xc7);
      this.#need(1 + size);
      const length = size === 1 ? this.#view.getUint8(this.#at + 1) : size === 2 ? this.#view.getUint16(this.#at + 1) : this.#view.getUint32(this.#at + 1);
      this.#pass(this.#blob(2 + size, length));
    } else this.#fail(`byte ${tag}, which MessagePack does not use`);
  }

  #pass(length: number): void {
    this.#at += length;
  }

  #need(bytes: number): void {
    if (this.#at + bytes > this.#bytes.length) this.#fail('the end of the bytes');
  }

  #fail(what: string): never {
    throw new ArmatureError('VLLM_EVENT_INVALID', `a message of KV events holds ${what} at byte ${this.#at}`, { hint: 'is engine.config.kvEvents.endpoint the one of --kv-events-config, with publisher zmq?' });
  }
}

/** 0xc0 to 0xdf. */
const KINDS: readonly Kind[] = [
  Kind.Nil, Kind.Other, Kind.Other, Kind.Other, Kind.Binary, Kind.Binary, Kind.Binary, Kind.Other, Kind.Other, Kind.Other, Kind.Float, Kind.Float, Kind.Int, Kind.Int, Kind.Int, Kind.Int,
  Kind.Int, Kind.Int, Kind.Int, Kind.Int, Kind.Other, Kind.Other, Kind.Other, Kind.Other, Kind.Other, Kind.Text, Kind.Text, Kind.Text, Kind.Array, Kind.Array, Kind.Map, Kind.Map,
];

/** Known names, found by their bytes. */
export class NameTable {
  readonly #names: readonly Uint8Array[];
  readonly #byHash: ReadonlyMap<number, number>;

  /** Throws for names that this hash does not tell apart: at boot. */
  constructor(names: readonly string[]) {
    this.#names = names.map((name) => new TextEncoder().encode(name));
    this.#byHash = new Map(this.#names.map((name, i) => [hashOf(name, 0, name.length), i]));
    if (this.#byHash.size !== names.length) throw new TypeError('two names share a hash');
  }

  find(bytes: Uint8Array, from: number, length: number): number {
    const found = this.#byHash.get(hashOf(bytes, from, length));
    if (found === undefined) return -1;
    const name = this.#names[found];
    if (name.length !== length) return -1;
    for (let i = 0; i < length; i++) if (bytes[from + i] !== name[i]) return -1;
    return found;
  }
}

function hashOf(bytes: Uint8Array, from: number, length: number): number {
  let hash = length;
  for (let i = 0; i < length; i++) hash = (Math.imul(hash, 31) + bytes[from + i]) | 0;
  return hash;
}
