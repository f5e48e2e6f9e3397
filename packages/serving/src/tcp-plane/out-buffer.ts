import { HEADER_BYTES } from './wire.ts';

const SLAB_BYTES = 64 << 10;
/** Larger bodies are queued as they are instead of copied. */
const COPY_BYTES = 16 << 10;

/** Frames waiting for one socket write, laid out one after the other. Regions given away are never written again. */
export class OutBuffer {
  #slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
  /** Frames of the slab from `#from` to `#to` are not taken yet. */
  #from = 0;
  #to = 0;
  #chunks: Uint8Array[] = [];
  /** Bytes not yet taken. */
  bytes = 0;

  /** A frame whose body of `bodyBytes` the caller writes at once into `slab` from `at` on. */
  begin(type: number, stream: number, bodyBytes: number): { readonly slab: Buffer; readonly at: number } {
    const at = this.#reserve(HEADER_BYTES + bodyBytes);
    this.#writeHeader(at, type, stream, bodyBytes);
    return { slab: this.#slab, at: at + HEADER_BYTES };
  }

  /** A whole frame. `body` is copied when small; else it must not change any more. */
  append(type: number, stream: number, body: Uint8Array): void {
    if (body.length > COPY_BYTES) {
      this.#writeHeader(this.#reserve(HEADER_BYTES), type, stream, body.length);
      this.#seal();
      this.#chunks.push(body);
      this.bytes += body.length;
      return;
    }
    const { slab, at } = this.begin(type, stream, body.length);
    slab.set(body, at);
  }

  /** Everything so far, in order. */
  take(): readonly Uint8Array[] {
    this.#seal();
    const chunks = this.#chunks;
    this.#chunks = [];
    this.bytes = 0;
    return chunks;
  }

  #reserve(bytes: number): number {
    if (this.#slab.length - this.#to < bytes) {
      this.#seal();
      this.#slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, bytes));
      this.#from = this.#to = 0;
    }
    const at = this.#to;
    this.#to += bytes;
    this.bytes += bytes;
    return at;
  }

  #writeHeader(at: number, type: number, stream: number, bodyBytes: number): void {
    this.#slab.writeUInt32LE(bodyBytes + HEADER_BYTES - 4, at);
    this.#slab[at + 4] = type;
    this.#slab.writeUInt32LE(stream, at + 5);
  }

  #seal(): void {
    if (this.#to > this.#from) this.#chunks.push(this.#slab.subarray(this.#from, this.#to));
    this.#from = this.#to;
  }
}
