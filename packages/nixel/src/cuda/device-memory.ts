import { ArmatureError } from '@armature/contracts';
import type { SegmentLocation } from '@armature/contracts';
import { checkedAddress, cudaFailed, CudaResult, IPC_HANDLE_BYTES } from './binding.ts';
import type { CopyDirection } from './binding.ts';
import { cudaRuntime } from './runtime.ts';
import type { CudaRuntime } from './runtime.ts';
import type { Pin } from './pins.ts';

/** What another process needs to open device memory of this one. Plain data. */
export interface DeviceMemoryHandle {
  /** CUipcMemHandle, hex. */
  readonly handle: string;
  /** Of the memory within the allocation that the handle names. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Of the GPU, hex: ordinals differ between processes. */
  readonly uuid: string;
}

interface Origin {
  readonly ordinal: number;
  readonly address: bigint;
  readonly lengthBytes: number;
  /** Gives back what the memory came with; a wrapped one: nothing. */
  readonly end: () => void;
}

/**
 * Memory of a GPU: allocated here, allocated by somebody else in this process, or opened from another process. Register it with
 * `agent.register({ location: memory.location(), lengthBytes: memory.lengthBytes })`; deregister before `close`.
 */
export class DeviceMemory {
  readonly ordinal: number;
  /** Device pointer in this process. */
  readonly address: bigint;
  readonly lengthBytes: number;
  readonly #runtime: CudaRuntime;
  readonly #end: () => void;
  #isClosed = false;

  constructor(runtime: CudaRuntime, origin: Origin) {
    this.#runtime = runtime;
    this.ordinal = origin.ordinal;
    this.address = origin.address;
    this.lengthBytes = origin.lengthBytes;
    this.#end = origin.end;
  }

  /** For a segment that begins `offsetBytes` into this memory. */
  location(offsetBytes = 0): Extract<SegmentLocation, { type: 'device' }> {
    return { type: 'device', ordinal: this.ordinal, address: this.address + BigInt(offsetBytes) };
  }

  /** For another process of this host. Throws `TRANSFER_CUDA_FAILED` (memory of cuMemCreate has no handle), `TRANSFER_CUDA_ADDRESS_INVALID`. */
  exportHandle(): DeviceMemoryHandle {
    this.#runtime.enter(this.ordinal);
    const range = this.#runtime.driver.rangeOf(this.address);
    if (range === undefined) throw notDeviceMemory(this.address, this.ordinal);
    const handle = Buffer.from(this.#runtime.handleOf(range.base)).toString('hex');
    return { handle, offsetBytes: Number(this.address - range.base), lengthBytes: this.lengthBytes, uuid: this.#runtime.uuidOf(this.ordinal) };
  }

  /** Blocks until copied: for setting up and checking, transfers are the agent's. */
  write(offsetBytes: number, bytes: Uint8Array): void {
    this.#copy('toDevice', offsetBytes, bytes);
  }

  /** As `write`. */
  read(offsetBytes: number, into: Uint8Array): void {
    this.#copy('fromDevice', offsetBytes, into);
  }

  /** Frees what was allocated, closes what was opened, leaves what was wrapped. Peers must have let go of it (leases). Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#end();
  }

  #copy(direction: CopyDirection, offsetBytes: number, bytes: Uint8Array): void {
    if (!(offsetBytes >= 0 && offsetBytes + bytes.length <= this.lengthBytes) || this.#isClosed) {
      throw new ArmatureError('TRANSFER_CUDA_RANGE_INVALID', `bytes ${offsetBytes} to ${offsetBytes + bytes.length} of ${this.#isClosed ? 'closed ' : ''}device memory of ${this.lengthBytes}`, { hint: 'stay inside the memory' });
    }
    if (bytes.length === 0) return;
    const { driver } = this.#runtime;
    this.#runtime.enter(this.ordinal);
    const device = this.address + BigInt(offsetBytes);
    const host = driver.addressOf(bytes);
    const [target, source] = direction === 'toDevice' ? [device, host] : [host, device];
    const result = driver.copy(direction, target, source, BigInt(bytes.length), 0n);
    const ended = result === CudaResult.Success ? driver.synchronize(0n) : result;
    if (ended !== CudaResult.Success) throw cudaFailed('cuMemcpy', ended, driver.errorName(ended));
  }
}

/** New device memory. Throws `TRANSFER_CUDA_UNAVAILABLE`, `TRANSFER_CUDA_DEVICE_UNKNOWN`, `TRANSFER_CUDA_NO_MEMORY`. */
export function allocateDeviceMemory({ ordinal, lengthBytes }: { readonly ordinal: number; readonly lengthBytes: number }, runtime: CudaRuntime = cudaRuntime()): DeviceMemory {
  return retained(runtime, ordinal, () => {
    const address = runtime.allocate(ordinal, lengthBytes);
    return { ordinal, address, lengthBytes, end: () => runtime.free(ordinal, address) };
  });
}

/** Device memory that somebody else in this process allocated and frees (an engine's KV cache). Throws `TRANSFER_CUDA_ADDRESS_INVALID`. */
export function wrapDeviceMemory(memory: { readonly ordinal: number; readonly address: bigint; readonly lengthBytes: number }, runtime: CudaRuntime = cudaRuntime()): DeviceMemory {
  const { ordinal, lengthBytes } = memory;
  const address = checkedAddress(memory.address, lengthBytes);
  return retained(runtime, ordinal, () => {
    const range = runtime.driver.rangeOf(address);
    if (range?.ordinal !== ordinal || address + BigInt(lengthBytes) > range.base + BigInt(range.lengthBytes)) throw notDeviceMemory(address, ordinal);
    return { ordinal, address, lengthBytes, end: () => undefined };
  });
}

/** Device memory of another process (vLLM's KV cache, exported there). Throws `TRANSFER_CUDA_DEVICE_UNKNOWN`, `TRANSFER_CUDA_FAILED`. */
export function openDeviceMemory(memory: DeviceMemoryHandle & { readonly ordinal?: number }, runtime: CudaRuntime = cudaRuntime()): DeviceMemory {
  const handle = Buffer.from(memory.handle, 'hex');
  const ordinal = memory.ordinal ?? runtime.ordinalOf(memory.uuid) ?? -1;
  if (handle.length !== IPC_HANDLE_BYTES || memory.handle.length !== 2 * IPC_HANDLE_BYTES) {
    throw new ArmatureError('TRANSFER_CUDA_HANDLE_INVALID', `an IPC handle of ${handle.length} bytes`, { hint: 'pass what exportHandle() gave, 64 bytes as hex' });
  }
  return retained(runtime, ordinal, () => {
    const base = runtime.import(ordinal, handle);
    const end = (): void => runtime.closeImport(ordinal, handle);
    const range = runtime.driver.rangeOf(base);
    if (range !== undefined && memory.offsetBytes + memory.lengthBytes > range.lengthBytes) {
      end();
      throw notDeviceMemory(base + BigInt(memory.offsetBytes), ordinal);
    }
    return { ordinal, address: base + BigInt(memory.offsetBytes), lengthBytes: memory.lengthBytes, end };
  });
}

/** Pins host memory for fast copies; a transport does so itself for registered segments. Undefined: overlaps pages that are pinned already. */
export function pinMemory(bytes: Uint8Array, ordinal = 0, runtime: CudaRuntime = cudaRuntime()): Pin | undefined {
  runtime.retain(ordinal);
  const pin = runtime.pins.pin(bytes);
  if (pin === undefined) runtime.release(ordinal);
  return pin === undefined ? undefined : { address: pin.address, release: once(() => (pin.release(), runtime.release(ordinal))) };
}

function once(end: () => void): () => void {
  let isOver = false;
  return () => {
    if (isOver) return;
    isOver = true;
    end();
  };
}

function retained(runtime: CudaRuntime, ordinal: number, make: () => Origin): DeviceMemory {
  runtime.retain(ordinal);
  try {
    const origin = make();
    const end = (): void => {
      try {
        origin.end();
      } finally {
        runtime.release(ordinal);
      }
    };
    return new DeviceMemory(runtime, { ...origin, end });
  } catch (error) {
    runtime.release(ordinal);
    throw error;
  }
}

function notDeviceMemory(address: bigint, ordinal: number): ArmatureError {
  return new ArmatureError('TRANSFER_CUDA_ADDRESS_INVALID', `0x${address.toString(16)} is no memory of GPU ${ordinal} in this process, or ends before the given length`, {
    hint: 'pass pointer and length of one allocation; a pointer of another process must come as an IPC handle',
  });
}
