import { loadKoffi, koffiMissing } from '../native/koffi.ts';
import type { Koffi } from '../native/koffi.ts';
import { BATCH_VERSION, CudaResult, cudaFailed, IPC_HANDLE_BYTES, UUID_BYTES } from './binding.ts';
import type { CopyDirection, CopyTables, CudaDriver, CudaHandle } from './binding.ts';
import { BATCH_PROTOTYPE, PROTOTYPES } from './prototypes.ts';

type Call = (...values: unknown[]) => number;
type Calls = Readonly<Record<keyof typeof PROTOTYPES | 'cuIpcOpenMemHandle', Call>>;

const CU_STREAM_NON_BLOCKING = 1;
const CU_EVENT_DISABLE_TIMING = 2;
const CU_MEMHOSTREGISTER_PORTABLE = 1;
const CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS = 1;
const CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9;
const CU_MEMCPY_SRC_ACCESS_ORDER_STREAM = 1;
/** sizeof(CUmemcpyAttributes): order u32, two locations of (type, id), flags u32. */
const ATTRIBUTES_BYTES = 24;

export const CUDA_LIBRARY = 'libcuda.so.1';
const INSTALL =
  'install the NVIDIA driver (Debian, Ubuntu: package libcuda1 or libnvidia-compute-VERSION; RHEL: nvidia-driver-cuda-libs); in a container start it with its GPUs (NVIDIA Container Toolkit, --gpus all)';

/** The driver of this machine (or the file in ARMATURE_CUDA_LIBRARY), initialised; or why there is none and what to do. Never throws. */
export function loadCudaDriver(file: string = process.env['ARMATURE_CUDA_LIBRARY'] || CUDA_LIBRARY): CudaDriver | string {
  const koffi = loadKoffi();
  if (koffi === undefined) return koffiMissing() ?? 'koffi is not there';
  if (process.platform !== 'linux') return `needs Linux, this is ${process.platform}`;
  try {
    return KoffiDriver.load(koffi, file);
  } catch (error) {
    return `${file}: ${error instanceof Error ? error.message : String(error)}; ${INSTALL}`;
  }
}

class KoffiDriver implements CudaDriver {
  readonly file: string;
  readonly version: number;
  readonly hasBatch: boolean;
  readonly #calls: Calls;
  readonly #batch: Call | undefined;
  readonly #koffi: Koffi;
  /** Results of one call; read before the next. */
  readonly #cell = new BigUint64Array(1);
  readonly #second = new BigUint64Array(1);
  readonly #attributes = new Uint8Array(ATTRIBUTES_BYTES);
  readonly #starts = new BigUint64Array(1);

  private constructor(koffi: Koffi, file: string, calls: Calls, batch: Call | undefined) {
    this.file = file;
    this.#koffi = koffi;
    this.#calls = calls;
    this.#batch = batch;
    new DataView(this.#attributes.buffer).setUint32(0, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM, true);
    this.#checked('cuInit', 0);
    this.#checked('cuDriverGetVersion', this.#cell);
    this.version = this.#int();
    this.hasBatch = batch !== undefined && this.version >= BATCH_VERSION;
  }

  static load(koffi: Koffi, file: string): KoffiDriver {
    const library = koffi.load(file);
    const calls = Object.fromEntries(Object.entries(PROTOTYPES).map(([name, prototype]) => [name, library.func(prototype)]));
    const handle = koffi.struct({ reserved: koffi.array('uint8_t', IPC_HANDLE_BYTES) });
    calls['cuIpcOpenMemHandle'] = library.func('cuIpcOpenMemHandle_v2', 'int', ['void *', handle, 'uint32_t']);
    let batch: Call | undefined;
    try {
      batch = library.func(BATCH_PROTOTYPE) as unknown as Call;
    } catch {
      batch = undefined; // a driver before 12.8
    }
    return new KoffiDriver(koffi, file, calls as unknown as Calls, batch);
  }

  deviceCount(): number {
    this.#checked('cuDeviceGetCount', this.#cell);
    return this.#int();
  }

  deviceName(ordinal: number): string {
    const name = Buffer.alloc(256);
    this.#checked('cuDeviceGetName', name, name.length, this.#device(ordinal));
    return name.toString('utf8', 0, Math.max(0, name.indexOf(0)));
  }

  deviceUuid(ordinal: number): Uint8Array {
    const uuid = new Uint8Array(UUID_BYTES);
    this.#checked('cuDeviceGetUuid', uuid, this.#device(ordinal));
    return uuid;
  }

  retainPrimaryContext(ordinal: number): CudaHandle {
    this.#checked('cuDevicePrimaryCtxRetain', this.#cell, this.#device(ordinal));
    return this.#cell[0]!;
  }

  releasePrimaryContext(ordinal: number): void {
    this.#checked('cuDevicePrimaryCtxRelease', this.#device(ordinal));
  }

  setCurrent(context: CudaHandle): number {
    return this.#calls.cuCtxSetCurrent(context);
  }

  allocate(lengthBytes: number): bigint {
    this.#checked('cuMemAlloc', this.#cell, lengthBytes);
    return this.#cell[0]!;
  }

  free(address: bigint): void {
    this.#checked('cuMemFree', address);
  }

  rangeOf(address: bigint): { base: bigint; lengthBytes: number; ordinal: number } | undefined {
    this.#cell[0] = 0n;
    if (this.#calls.cuPointerGetAttribute(this.#cell, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address) !== CudaResult.Success) return undefined;
    const ordinal = this.#int();
    if (this.#calls.cuMemGetAddressRange(this.#cell, this.#second, address) !== CudaResult.Success) return undefined;
    return { base: this.#cell[0]!, lengthBytes: Number(this.#second[0]!), ordinal };
  }

  pin(address: bigint, lengthBytes: number): void {
    this.#checked('cuMemHostRegister', address, lengthBytes, CU_MEMHOSTREGISTER_PORTABLE);
  }

  unpin(address: bigint): void {
    this.#checked('cuMemHostUnregister', address);
  }

  exportHandle(base: bigint): Uint8Array {
    const handle = new Uint8Array(IPC_HANDLE_BYTES);
    this.#checked('cuIpcGetMemHandle', handle, base);
    return handle;
  }

  openHandle(handle: Uint8Array): bigint {
    this.#checked('cuIpcOpenMemHandle', this.#cell, { reserved: handle }, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    return this.#cell[0]!;
  }

  closeHandle(base: bigint): void {
    this.#checked('cuIpcCloseMemHandle', base);
  }

  createStream(): CudaHandle {
    this.#checked('cuStreamCreate', this.#cell, CU_STREAM_NON_BLOCKING);
    return this.#cell[0]!;
  }

  destroyStream(stream: CudaHandle): void {
    this.#checked('cuStreamDestroy', stream);
  }

  createEvent(): CudaHandle {
    this.#checked('cuEventCreate', this.#cell, CU_EVENT_DISABLE_TIMING);
    return this.#cell[0]!;
  }

  destroyEvent(event: CudaHandle): void {
    this.#checked('cuEventDestroy', event);
  }

  copy(direction: CopyDirection, target: bigint, source: bigint, length: bigint, stream: CudaHandle): number {
    return this.#calls[direction](target, source, length, stream);
  }

  copyBatch({ targets, sources, lengths }: CopyTables, from: number, to: number, stream: CudaHandle): number {
    const part = (column: BigUint64Array): BigUint64Array => column.subarray(from, to);
    return this.#batch!(part(targets), part(sources), part(lengths), to - from, this.#attributes, this.#starts, 1, this.#second, stream);
  }

  record(event: CudaHandle, stream: CudaHandle): number {
    return this.#calls.cuEventRecord(event, stream);
  }

  queryEvent(event: CudaHandle): number {
    return this.#calls.cuEventQuery(event);
  }

  queryStream(stream: CudaHandle): number {
    return this.#calls.cuStreamQuery(stream);
  }

  synchronize(stream: CudaHandle): number {
    return this.#calls.cuStreamSynchronize(stream);
  }

  errorName(result: number): string {
    const name = [''];
    return this.#calls.cuGetErrorName(result, name) === CudaResult.Success ? name[0]! : 'CUDA error';
  }

  addressOf(bytes: Uint8Array): bigint {
    return this.#koffi.address(bytes) as bigint;
  }

  #device(ordinal: number): number {
    this.#checked('cuDeviceGet', this.#cell, ordinal);
    return this.#int();
  }

  /** The first four bytes of the cell, as a C int. */
  #int(): number {
    return Number(BigInt.asIntN(32, this.#cell[0]!));
  }

  #checked(call: keyof Calls, ...values: unknown[]): void {
    const result = this.#calls[call](...values);
    if (result !== CudaResult.Success) throw cudaFailed(call, result, this.errorName(result));
  }
}
