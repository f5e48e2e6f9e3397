import { randomBytes } from 'node:crypto';
import { ArmatureError } from '@armature/contracts';
import { CudaResult, cudaFailed, cudaUnavailable } from './binding.ts';
import type { CudaDriver, CudaHandle } from './binding.ts';
import { loadCudaDriver } from './koffi-driver.ts';
import { PinTable } from './pins.ts';

/** Primary context of one GPU, shared with everything else in the process that uses the CUDA runtime. */
interface Context {
  readonly handle: CudaHandle;
  users: number;
}

/** Memory of another process, mapped here. */
interface Imported {
  readonly base: bigint;
  readonly ordinal: number;
  users: number;
}

/** What is held now; all zero once everything was closed. */
export interface CudaHeld {
  contexts: number;
  streams: number;
  events: number;
  pins: number;
  imports: number;
  allocations: number;
}

/** The CUDA state of this process: contexts, pinned host memory, memory of other processes, each counted by its users. */
export class CudaRuntime {
  readonly driver: CudaDriver;
  /** Tells memory of this process from that of another: a handle cannot be opened where it was made. Below 2^48. */
  readonly id: number;
  readonly pins: PinTable;
  readonly #contexts = new Map<number, Context>();
  readonly #imports = new Map<string, Imported>();
  /** Base of imported memory, with the handle to give on: it cannot be exported again. */
  readonly #handles = new Map<bigint, Uint8Array>();
  readonly #held = { streams: 0, events: 0, allocations: 0 };
  #uuids: readonly string[] | undefined = undefined;

  constructor(driver: CudaDriver) {
    this.driver = driver;
    this.id = randomBytes(6).readUIntBE(0, 6);
    this.pins = new PinTable(driver);
  }

  held(): CudaHeld {
    return { ...this.#held, contexts: this.#contexts.size, pins: this.pins.size, imports: this.#imports.size };
  }

  /** Retains the GPU's primary context and makes it current. Throws `TRANSFER_CUDA_DEVICE_UNKNOWN`, `TRANSFER_CUDA_FAILED`. */
  retain(ordinal: number): void {
    let context = this.#contexts.get(ordinal);
    if (context === undefined) {
      const count = this.driver.deviceCount();
      if (!Number.isInteger(ordinal) || ordinal < 0 || ordinal >= count) {
        throw new ArmatureError('TRANSFER_CUDA_DEVICE_UNKNOWN', `there is no GPU ${ordinal}, ${count} are visible`, { hint: 'name an ordinal below that; CUDA_VISIBLE_DEVICES decides what is visible' });
      }
      context = { handle: this.driver.retainPrimaryContext(ordinal), users: 0 };
      this.#contexts.set(ordinal, context);
    }
    context.users++;
    this.enter(ordinal);
  }

  release(ordinal: number): void {
    const context = this.#contexts.get(ordinal);
    if (context === undefined || --context.users > 0) return;
    this.#contexts.delete(ordinal);
    this.driver.releasePrimaryContext(ordinal);
  }

  /** Makes a retained context current on this thread. Throws `TRANSFER_CUDA_FAILED`. */
  enter(ordinal: number): void {
    this.#expect('cuCtxSetCurrent', this.tryEnter(ordinal));
  }

  tryEnter(ordinal: number): number {
    const context = this.#contexts.get(ordinal);
    return context === undefined ? CudaResult.InvalidContext : this.driver.setCurrent(context.handle);
  }

  /** The ordinal here of the GPU with this uuid (hex), undefined when it is not visible. */
  ordinalOf(uuid: string): number | undefined {
    const at = this.#allUuids().indexOf(uuid);
    return at < 0 ? undefined : at;
  }

  uuidOf(ordinal: number): string {
    return this.#allUuids()[ordinal] ?? '';
  }

  allocate(ordinal: number, lengthBytes: number): bigint {
    this.enter(ordinal);
    const address = this.driver.allocate(lengthBytes);
    this.#held.allocations++;
    return address;
  }

  free(ordinal: number, address: bigint): void {
    this.enter(ordinal);
    this.#held.allocations--;
    this.driver.free(address);
  }

  createStream(): CudaHandle {
    const stream = this.driver.createStream();
    this.#held.streams++;
    return stream;
  }

  destroyStream(stream: CudaHandle): void {
    this.#held.streams--;
    this.driver.destroyStream(stream);
  }

  createEvent(): CudaHandle {
    const event = this.driver.createEvent();
    this.#held.events++;
    return event;
  }

  destroyEvent(event: CudaHandle): void {
    this.#held.events--;
    this.driver.destroyEvent(event);
  }

  /** For other processes: handle of the allocation at `base`. Throws `TRANSFER_CUDA_FAILED` (memory that cannot be shared). */
  handleOf(base: bigint): Uint8Array {
    return this.#handles.get(base) ?? this.driver.exportHandle(base);
  }

  /** Maps an allocation of another process for the GPU of a retained context; each one once, however many use it. Returns its first address. */
  import(ordinal: number, handle: Uint8Array): bigint {
    const key = importKey(ordinal, handle);
    let imported = this.#imports.get(key);
    if (imported === undefined) {
      this.retain(ordinal);
      try {
        imported = { base: this.driver.openHandle(handle), ordinal, users: 0 };
      } catch (error) {
        this.release(ordinal);
        throw error;
      }
      this.#imports.set(key, imported);
      this.#handles.set(imported.base, handle.slice());
    }
    imported.users++;
    return imported.base;
  }

  /** No copy that uses it may run any more when its last user leaves. */
  closeImport(ordinal: number, handle: Uint8Array): void {
    const key = importKey(ordinal, handle);
    const imported = this.#imports.get(key);
    if (imported === undefined || --imported.users > 0) return;
    this.#imports.delete(key);
    this.#handles.delete(imported.base);
    this.enter(ordinal);
    try {
      this.driver.closeHandle(imported.base);
    } finally {
      this.release(ordinal);
    }
  }

  #allUuids(): readonly string[] {
    return (this.#uuids ??= Array.from({ length: this.driver.deviceCount() }, (_, ordinal) => Buffer.from(this.driver.deviceUuid(ordinal)).toString('hex')));
  }

  #expect(call: string, result: number): void {
    if (result !== CudaResult.Success) throw cudaFailed(call, result, this.driver.errorName(result));
  }
}

function importKey(ordinal: number, handle: Uint8Array): string {
  return `${ordinal}/${Buffer.from(handle.buffer, handle.byteOffset, handle.length).toString('hex')}`;
}

let shared: CudaRuntime | string | undefined;

/** Why GPU memory cannot be used in this process, or undefined. Loads the driver at first use. */
export function cudaMissing(): string | undefined {
  shared ??= open();
  return typeof shared === 'string' ? shared : undefined;
}

/** The one of this process. Throws `TRANSFER_CUDA_UNAVAILABLE`. */
export function cudaRuntime(): CudaRuntime {
  const reason = cudaMissing();
  if (reason !== undefined) throw cudaUnavailable(reason);
  return shared as CudaRuntime;
}

function open(): CudaRuntime | string {
  const driver = loadCudaDriver();
  if (typeof driver === 'string') return driver;
  try {
    if (driver.deviceCount() === 0) return 'the NVIDIA driver shows no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES';
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  return new CudaRuntime(driver);
}
