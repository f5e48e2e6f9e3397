import { ArmatureError, TransferStatus } from '@armature/contracts';

/** CUresult, as far as this package tells values apart. */
export const CudaResult = {
  Success: 0,
  InvalidValue: 1,
  OutOfMemory: 2,
  Deinitialized: 4,
  StubLibrary: 34,
  NoDevice: 100,
  InvalidDevice: 101,
  InvalidContext: 201,
  NotReady: 600,
  IllegalAddress: 700,
  AlreadyRegistered: 712,
  NotSupported: 801,
} as const;

/** Context, stream or event. Zero is none (as a stream: the context's default one). */
export type CudaHandle = bigint;

export const IPC_HANDLE_BYTES = 64;
export const UUID_BYTES = 16;
/** First CUDA version with cuMemcpyBatchAsync. */
export const BATCH_VERSION = 12_080;

/** Columns of `count` copies: u64 each, as the driver reads them. No two copies of a call may touch the same target bytes. */
export interface CopyTables {
  readonly targets: BigUint64Array;
  readonly sources: BigUint64Array;
  readonly lengths: BigUint64Array;
}

export type CopyDirection = 'toDevice' | 'fromDevice' | 'onDevice';

/**
 * The calls of the CUDA driver API that this package makes, and nothing else: `libcuda.so.1` in `koffi-driver.ts`, buffers in the tests.
 * The control path throws `TRANSFER_CUDA_FAILED` and its kin; the data path returns the CUresult. The current context is one per
 * thread: all calls are made on the JS thread, after `setCurrent`.
 */
export interface CudaDriver {
  /** For messages. */
  readonly file: string;
  /** cuDriverGetVersion: 1000 x major + 10 x minor. */
  readonly version: number;
  /** cuMemcpyBatchAsync is there. */
  readonly hasBatch: boolean;
  deviceCount(): number;
  deviceName(ordinal: number): string;
  /** Names the same GPU in every process, whatever CUDA_VISIBLE_DEVICES makes of its ordinal. */
  deviceUuid(ordinal: number): Uint8Array;
  retainPrimaryContext(ordinal: number): CudaHandle;
  releasePrimaryContext(ordinal: number): void;
  setCurrent(context: CudaHandle): number;
  allocate(lengthBytes: number): bigint;
  free(address: bigint): void;
  /** The whole allocation that an address lies in, and the ordinal of its GPU; undefined when it is no device memory known here. */
  rangeOf(address: bigint): { readonly base: bigint; readonly lengthBytes: number; readonly ordinal: number } | undefined;
  pin(address: bigint, lengthBytes: number): void;
  unpin(address: bigint): void;
  /** Of the allocation that begins at `base`. */
  exportHandle(base: bigint): Uint8Array;
  openHandle(handle: Uint8Array): bigint;
  closeHandle(base: bigint): void;
  createStream(): CudaHandle;
  destroyStream(stream: CudaHandle): void;
  createEvent(): CudaHandle;
  destroyEvent(event: CudaHandle): void;
  copy(direction: CopyDirection, target: bigint, source: bigint, length: bigint, stream: CudaHandle): number;
  /** Rows `from` to `to` in one call. The caller has looked at `hasBatch`. */
  copyBatch(tables: CopyTables, from: number, to: number, stream: CudaHandle): number;
  record(event: CudaHandle, stream: CudaHandle): number;
  queryEvent(event: CudaHandle): number;
  queryStream(stream: CudaHandle): number;
  /** Blocks. */
  synchronize(stream: CudaHandle): number;
  errorName(result: number): string;
  /** Of the first byte of host memory. */
  addressOf(bytes: Uint8Array): bigint;
}

/** Results after which the context does nothing any more: its work is over, and the process must be restarted to use the GPU again. */
export function isContextLost(result: number): boolean {
  if (result === CudaResult.Deinitialized || result === 214 || result === 220 || result === 226) return true;
  return result >= 700 && result <= 721 && ![701, 704, 705, 708, 712, 713, 720].includes(result);
}

/** What a failed copy becomes on the data path. */
export function statusOf(result: number): TransferStatus {
  if (result === CudaResult.Success) return TransferStatus.Done;
  return result === CudaResult.NotSupported ? TransferStatus.NotSupported : TransferStatus.TransportError;
}

const HINTS: Readonly<Record<number, string>> = {
  [CudaResult.InvalidValue]: 'pass an address and a length inside one allocation of this GPU',
  [CudaResult.OutOfMemory]: 'free memory, or allocate less; for host memory raise ulimit -l',
  [CudaResult.Deinitialized]: 'the process is shutting down: close agents before',
  [CudaResult.StubLibrary]: 'this is the stub of the CUDA toolkit: take it off LD_LIBRARY_PATH and install the NVIDIA driver',
  [CudaResult.NoDevice]: 'check nvidia-smi and CUDA_VISIBLE_DEVICES, and that the container was started with its GPUs',
  [CudaResult.InvalidDevice]: 'name an ordinal below the number of visible GPUs',
  [CudaResult.InvalidContext]: 'memory of this process cannot be opened by handle here: use it by its address',
  [CudaResult.AlreadyRegistered]: 'register memory once, in page-aligned regions that do not overlap',
  [CudaResult.NotSupported]: 'memory of cuMemCreate (PyTorch expandable_segments) has no IPC handle: allocate with cuMemAlloc / cudaMalloc',
  802: 'start nvidia-fabricmanager, then try again',
  803: 'kernel module and libcuda.so.1 are of different versions: reboot, or reinstall the NVIDIA driver',
};

/** A driver call on the control path has failed: `TRANSFER_CUDA_NO_MEMORY` or `TRANSFER_CUDA_FAILED`. */
export function cudaFailed(call: string, result: number, name: string): ArmatureError {
  const details = { call, result, name };
  const hint = HINTS[result] ?? 'see the CUDA driver API for this result, and dmesg for Xid lines of the GPU';
  if (result === CudaResult.OutOfMemory) return new ArmatureError('TRANSFER_CUDA_NO_MEMORY', `${call} ended with ${name} (${result})`, { hint, details });
  return new ArmatureError('TRANSFER_CUDA_FAILED', `${call} ended with ${name} (${result})`, { hint, details });
}

/** `TRANSFER_CUDA_UNAVAILABLE`. */
export function cudaUnavailable(reason: string): ArmatureError {
  return new ArmatureError('TRANSFER_CUDA_UNAVAILABLE', `GPU memory cannot be used here: ${reason}`, { hint: 'install the NVIDIA driver, or leave the cuda transport out' });
}

/** Addresses are handled as doubles where rows are computed. `TRANSFER_CUDA_ADDRESS_INVALID`. */
export function checkedAddress(address: bigint, lengthBytes: number): bigint {
  if (address <= 0n || address + BigInt(lengthBytes) > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new ArmatureError('TRANSFER_CUDA_ADDRESS_INVALID', `${lengthBytes} bytes at ${address} are no device memory`, { hint: 'pass the pointer as the driver or tensor.data_ptr() gave it' });
  }
  return address;
}
