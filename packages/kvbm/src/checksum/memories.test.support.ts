import type { KvMemory } from '@armature/contracts';
import type { WasmMemory } from './wasm.ts';

declare const WebAssembly: { Memory: new (descriptor: { initial: number; maximum?: number; shared?: boolean }) => WasmMemory };

export interface Shape {
  readonly blocks: number;
  readonly pieces: number;
  readonly pieceBytes: number;
  /** Block-major: pieces of a block next to each other. Piece-major (layer-major): far apart, as in an engine's arena. */
  readonly isPieceMajor: boolean;
}

export type Kind = 'shared wasm' | 'unshared wasm' | 'array buffer' | 'shared array buffer';

/** Memory of a kind and shape, somewhere in its buffer, filled with bytes that repeat nowhere. */
export function memoryOf(kind: Kind, shape: Shape, seed = 1, offsetBytes = 4096): KvMemory & { readonly bytes: Uint8Array } {
  const { blocks, pieces, pieceBytes, isPieceMajor } = shape;
  const lengthBytes = blocks * pieces * pieceBytes;
  const total = offsetBytes + lengthBytes;
  const pages = Math.ceil(total / 65_536);
  const isWasm = kind === 'shared wasm' || kind === 'unshared wasm';
  const wasm = !isWasm ? undefined : kind === 'shared wasm' ? new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }) : new WebAssembly.Memory({ initial: pages });
  const buffer = wasm?.buffer ?? (kind === 'array buffer' ? new ArrayBuffer(total) : new SharedArrayBuffer(total));
  const bytes = new Uint8Array(buffer, offsetBytes, lengthBytes);
  fill(new Uint8Array(buffer), seed);
  return {
    segment: 0,
    blocks,
    pieces,
    pieceBytes,
    blockStrideBytes: isPieceMajor ? pieceBytes : pieces * pieceBytes,
    pieceStrideBytes: isPieceMajor ? blocks * pieceBytes : pieceBytes,
    bytes,
    ...(wasm === undefined ? {} : { wasm }),
  };
}

/** The same bytes, as memory that is no `WebAssembly.Memory`. */
export function unwrapped(memory: KvMemory): KvMemory {
  const { wasm: _wasm, ...rest } = memory;
  return rest;
}

export function fill(bytes: Uint8Array, seed: number): void {
  let x = (seed * 0x9e3779b1) >>> 0 || 1;
  for (let i = 0; i < bytes.length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes[i] = x >>> 11;
  }
}

/** Where byte `at` of a block's content lies. */
export function addressOf(memory: KvMemory, block: number, at: number): number {
  return block * memory.blockStrideBytes + Math.floor(at / memory.pieceBytes) * memory.pieceStrideBytes + (at % memory.pieceBytes);
}

export function contentOf(memory: KvMemory, block: number): Uint8Array {
  return Uint8Array.from({ length: memory.pieces * memory.pieceBytes }, (_, at) => (memory.bytes as Uint8Array)[addressOf(memory, block, at)]);
}
