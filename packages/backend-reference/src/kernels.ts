import { wasmBase64 } from './generated/kernels-wasm.ts';
import type { MemoryPlan } from './memory-plan.ts';

/** What a shared memory of the WebAssembly JavaScript interface looks like; `lib` has no DOM, where TypeScript keeps it. */
export interface SharedMemory {
  readonly buffer: SharedArrayBuffer;
}

declare const WebAssembly: {
  Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => SharedMemory;
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => { readonly exports: unknown };
};

/** Exports of assembly/index.ts. Addresses and strides in bytes. */
export interface Kernels {
  configure(heads: number, kvHeads: number, headDim: number, blockSize: number, arena: number, blockBytes: number, scale: number): void;
  embed(tokens: number, rows: number, table: number, k: number, panel: number, out: number, outStride: number): void;
  rmsnorm(x: number, xStride: number, rows: number, weight: number, n: number, eps: number, out: number, outStride: number): void;
  matmul(x: number, xStride: number, rows: number, w: number, k: number, outs: number, y: number, yStride: number, add: number): void;
  addBias(y: number, yStride: number, rows: number, bias: number, n: number): void;
  siluMultiply(gateUp: number, stride: number, rows: number, n: number): void;
  ropeStore(
    qkv: number,
    qkvStride: number,
    rows: number,
    positions: number,
    blocks: number,
    layerOffset: number,
    q: number,
    qStride: number,
    table: number,
  ): void;
  attention(q: number, qStride: number, rows: number, context: number, blocks: number, layerOffset: number, scores: number): void;
  argmax(values: number, count: number): number;
  sumExponentials(values: number, count: number, highest: number): number;
  exponentials(values: number, count: number, highest: number, out: number): void;
}

/** Memory of a fixed size: it never grows, so views and registrations stay valid. */
export function createMemory(pages: number): SharedMemory {
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

function compile(): object {
  return new WebAssembly.Module(Buffer.from(wasmBase64, 'base64'));
}

export function instantiateKernels(memory: SharedMemory, module: object = compile()): Kernels {
  return new WebAssembly.Instance(module, { env: { memory } }).exports as Kernels;
}

/** Kernels over `memory`, one instance per rank, told the rank's heads and arena. */
export function kernelsFor(plan: MemoryPlan, memory: SharedMemory): readonly Kernels[] {
  const module = compile();
  const { shape, limits, rankBlockBytes } = plan;
  const scale = Math.fround(1 / Math.sqrt(shape.headDim));
  return plan.ranks.map(({ heads, kvHeads }, rank) => {
    const kernels = instantiateKernels(memory, module);
    kernels.configure(heads, kvHeads, shape.headDim, limits.blockSize, plan.rankArenas[rank]!, rankBlockBytes, scale);
    return kernels;
  });
}
