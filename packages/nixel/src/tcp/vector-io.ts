import type net from 'node:net';
import { loadKoffi } from '../native/koffi.ts';

/** Most (address, length) pairs of one call. */
export const MAX_VECTORS = 1024;

type VectorCall = (fd: number, table: Uint32Array, count: number) => number;

/** readv and writev on a socket's descriptor: one call moves many scattered pieces, with no work per piece in Node. */
export interface VectorIo {
  /** Bytes moved; 0 end of stream, -1 nothing possible now or an error (libuv, which owns the descriptor, will meet it too). */
  readonly readv: VectorCall;
  readonly writev: VectorCall;
  /** Address of a view's first byte: valid while the caller holds the view, so used only within one synchronous call. */
  addressOf(bytes: Uint8Array): number;
}

let bound: VectorIo | undefined;
let isTried = false;

/** Undefined where there is no FFI or no such calls (Windows): payload is then copied through Node's buffers. */
export function vectorIo(): VectorIo | undefined {
  if (!isTried) {
    isTried = true;
    try {
      bound = bind();
    } catch {
      bound = undefined;
    }
  }
  return bound;
}

function bind(): VectorIo | undefined {
  const koffi = process.platform === 'win32' ? undefined : loadKoffi();
  if (koffi === undefined) return undefined;
  const library = koffi.load(null);
  const addresses = new WeakMap<ArrayBufferLike, number>();
  const origin = library.func('memcpy', 'uintptr_t', ['void *', 'uintptr_t', 'size_t']) as unknown as (bytes: Uint8Array, source: number, length: number) => number;
  return {
    readv: library.func('int64_t readv(int fd, void *table, int count)') as unknown as VectorCall,
    writev: library.func('int64_t writev(int fd, void *table, int count)') as unknown as VectorCall,
    addressOf: (bytes) => {
      let address = addresses.get(bytes.buffer);
      if (address === undefined) addresses.set(bytes.buffer, (address = origin(bytes, 0, 0) - bytes.byteOffset));
      return address + bytes.byteOffset;
    },
  };
}

/** The descriptor under a plain socket; undefined for TLS, pipes without one, and closed sockets. */
export function descriptorOf(socket: net.Socket): number | undefined {
  const fd = (socket as { _handle?: { fd?: number } | null })._handle?.fd;
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}

/** One reusable table of (address, length) pairs. Filled and used within one synchronous call; nothing keeps the addresses. */
export class VectorTable {
  readonly words = new Uint32Array(MAX_VECTORS * 4);
  count = 0;
  bytes = 0;

  clear(): void {
    this.count = 0;
    this.bytes = 0;
  }

  add(address: number, length: number): void {
    const at = this.count * 4;
    this.words[at] = address % 0x1_0000_0000;
    this.words[at + 1] = address / 0x1_0000_0000;
    this.words[at + 2] = length;
    this.words[at + 3] = 0;
    this.count++;
    this.bytes += length;
  }
}
