import { wasmBase64 } from './generated/xxh3-wasm.ts';

interface HashExports {
  readonly memory: { readonly buffer: ArrayBuffer; grow(pages: number): number };
  heapBase(): number;
  xxh3(source: number, lengthBytes: number, out: number, seedLo: number, seedHi: number): void;
  chain(
    source: number,
    blockBytes: number,
    blocks: number,
    blockHashes: number,
    sequenceHashes: number,
    continues: number,
    seedLo: number,
    seedHi: number,
  ): void;
}
// `lib` has no DOM, where TypeScript keeps these declarations.
declare const WebAssembly: {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object) => { readonly exports: unknown };
};

const PAGE_BYTES = 65536;

/**
 * The module instance of this thread and the views on its memory. Views are replaced when the memory grows, so read them
 * from the object after `reserve`.
 */
export class HashMemory {
  readonly exports: HashExports;
  /** Byte offset where scratch starts, a multiple of 16. */
  readonly base: number;
  words: Int32Array;
  bytes: Uint8Array;

  constructor() {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(Buffer.from(wasmBase64, 'base64')));
    this.exports = instance.exports as HashExports;
    this.base = this.exports.heapBase();
    this.words = new Int32Array(this.exports.memory.buffer);
    this.bytes = new Uint8Array(this.exports.memory.buffer);
  }

  /** Makes `lengthBytes` of scratch from `base` addressable. */
  reserve(lengthBytes: number): void {
    const missing = this.base + lengthBytes - this.bytes.length;
    if (missing <= 0) return;
    // Doubling keeps the number of grows, each of which detaches all views, logarithmic.
    this.exports.memory.grow(Math.ceil(Math.max(missing, this.bytes.length) / PAGE_BYTES));
    this.words = new Int32Array(this.exports.memory.buffer);
    this.bytes = new Uint8Array(this.exports.memory.buffer);
  }
}

/** One per thread; calls are synchronous and never nest, so all hashing shares its scratch. */
export const hashMemory: HashMemory = new HashMemory();
