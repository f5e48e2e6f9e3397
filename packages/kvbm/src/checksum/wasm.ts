import { wasmBase64 } from '../generated/checksum-wasm.ts';

/** What a memory of the WebAssembly JavaScript interface looks like; `lib` has no DOM, where TypeScript keeps it. */
export interface WasmMemory {
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
}

declare const WebAssembly: {
  Memory: new (descriptor: { initial: number; maximum: number }) => WasmMemory;
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => { readonly exports: unknown };
};

/** Exports of assembly/checksum.ts. Addresses and lengths in bytes; a running 64-bit hash is kept inside. */
export interface ChecksumExports {
  seed(lo: number, hi: number): void;
  start(lo: number, hi: number, layoutLo: number, layoutHi: number): void;
  runs(address: number, pieces: number, strideBytes: number, runsPerPiece: number, runBytes: number): number;
  high(): number;
  open(): void;
  feed(address: number, blocks: number): void;
  close(address: number, restBytes: number, lengthBytes: number): number;
}

/** End of the import `env.memory`: its type, shared with at least 0 and at most 65,536 pages (4 GiB). Every shared memory fulfils it. */
const SHARED_IMPORT = Buffer.from('066d656d6f7279020300808004', 'hex');
/** As many bytes: not shared, at least 0 pages (as a number of four bytes), without a limit. Every other memory fulfils it. */
const UNSHARED_IMPORT = Buffer.from('066d656d6f7279020080808000', 'hex');

let sharedModule: object | undefined;
let unsharedModule: object | undefined;
const instances = new WeakMap<object, ChecksumExports>();

/** Memory of a fixed size for staging. Not shared: copies into shared memory are made word by word (relaxed atomics). */
export function createMemory(pages: number): WasmMemory {
  return new WebAssembly.Memory({ initial: pages, maximum: pages });
}

/** The code over `memory`, whatever its size; one instance per memory and thread. It only reads: neither constants nor state lie in the memory. */
export function checksumsOver(memory: WasmMemory): ChecksumExports {
  const known = instances.get(memory);
  if (known !== undefined) return known;
  const isShared = memory.buffer instanceof SharedArrayBuffer;
  const module = isShared ? (sharedModule ??= new WebAssembly.Module(checksumCode(true))) : (unsharedModule ??= new WebAssembly.Module(checksumCode(false)));
  const exports = new WebAssembly.Instance(module, { env: { memory } }).exports as ChecksumExports;
  instances.set(memory, exports);
  return exports;
}

/** The module's bytes. Shared and unshared memories are imported under different types; the code is the same. */
export function checksumCode(isShared: boolean): Uint8Array {
  const code = Buffer.from(wasmBase64, 'base64');
  if (!isShared) UNSHARED_IMPORT.copy(code, code.indexOf(SHARED_IMPORT));
  return code;
}
