import { hashMemory } from './wasm.ts';
import type { U64 } from './words.ts';

/** XXH3_64 of `bytes`. Copies the input into WebAssembly memory; one small object per call. */
export function xxh3(bytes: Uint8Array, seedLo = 0, seedHi = 0): U64 {
  hashMemory.reserve(bytes.length + 16);
  const base = hashMemory.base;
  hashMemory.bytes.set(bytes, base + 16);
  hashMemory.exports.xxh3(base + 16, bytes.length, base, seedLo, seedHi);
  return { lo: hashMemory.words[base >> 2], hi: hashMemory.words[(base >> 2) + 1] };
}
