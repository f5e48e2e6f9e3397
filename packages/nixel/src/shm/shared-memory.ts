import { closeSync } from 'node:fs';
import type { SegmentLocation } from '@armature/contracts';
import { Fcntl, libc, MemfdFlag, Seal } from '../native/libc.ts';
import { Mapping, mappingFailed } from '../native/mapping.ts';
import { startTicks } from '../native/process.ts';

export interface SharedMemoryOptions {
  /** Shown in `/proc/PID/maps`; need not be unique. */
  readonly name: string;
  readonly lengthBytes: number;
  /**
   * What other processes may do with it. `read`: the kernel refuses them writable mappings and writes (F_SEAL_FUTURE_WRITE); only this
   * process changes it. One memory is one grant domain: whoever may read a byte of it could map it all. Default `read-write`.
   */
  readonly peerAccess?: 'read' | 'read-write';
}

const PAGE_BYTES = 4096;

/**
 * Memory that other processes of this user can map: a memfd, sealed against resizing, mapped here for reading and writing.
 * Register `buffer` with the agent together with `location()`. It has no name in the file system; the kernel frees it with its last user.
 */
export class SharedMemory {
  readonly name: string;
  readonly lengthBytes: number;
  readonly peerAccess: 'read' | 'read-write';
  readonly fd: number;
  readonly pid: number;
  readonly startTicks: number;
  readonly #mapping: Mapping;
  #isClosed = false;

  constructor(options: Required<SharedMemoryOptions>, fd: number, mapping: Mapping) {
    this.name = options.name;
    this.lengthBytes = options.lengthBytes;
    this.peerAccess = options.peerAccess;
    this.fd = fd;
    this.pid = process.pid;
    this.startTicks = startTicks(process.pid) ?? 0;
    this.#mapping = mapping;
  }

  /** Longer than `lengthBytes` by up to a page. Views may outlive `close`: see there. */
  get buffer(): ArrayBuffer {
    return this.#mapping.buffer;
  }

  get address(): bigint {
    return BigInt(this.#mapping.address);
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** For a segment that begins `offsetBytes` into this memory. */
  location(offsetBytes = 0): Extract<SegmentLocation, { type: 'shared' }> {
    return { type: 'shared', mapping: { pid: this.pid, startTicks: this.startTicks, fd: this.fd, offsetBytes, address: this.address + BigInt(offsetBytes) } };
  }

  /**
   * Gives the memory back; deregister its segments first. No process can map it any more, those that have it mapped keep it until they let go.
   * Views over `buffer` that are still around here are safe: they see empty private pages, and the address range goes with the last of them. Idempotent.
   */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    closeSync(this.fd);
    this.#mapping.release();
  }
}

/** Throws `TRANSFER_NATIVE_UNAVAILABLE`, `TRANSFER_MAPPING_FAILED`. */
export function createSharedMemory(options: SharedMemoryOptions): SharedMemory {
  const { name, lengthBytes, peerAccess = 'read-write' } = options;
  if (!Number.isSafeInteger(lengthBytes) || lengthBytes <= 0) throw mappingFailed(`${lengthBytes} is no length for shared memory`);
  const mapped = Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES;
  const fd = libc().memfdCreate(name.slice(0, 200), MemfdFlag.CloseOnExec | MemfdFlag.AllowSealing);
  if (fd < 0) throw mappingFailed(`memfd_create ended with ${libc().errorName()}`);
  try {
    if (libc().ftruncate(fd, mapped) !== 0) throw mappingFailed(`ftruncate to ${mapped} bytes ended with ${libc().errorName()}`);
    const mapping = Mapping.of(fd, mapped, true);
    // After the own mapping: that one stays writable.
    const seals = Seal.Shrink | Seal.Grow | Seal.Seal | (peerAccess === 'read' ? Seal.FutureWrite : 0);
    if (libc().fcntl(fd, Fcntl.AddSeals, seals) !== 0) throw mappingFailed(`sealing ended with ${libc().errorName()}`);
    return new SharedMemory({ name, lengthBytes, peerAccess }, fd, mapping);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
