import { totalmem } from 'node:os';
import { ArmatureError } from '@armature/contracts';
import type { KvBlockMover, KvMemory, KvMemoryLayout, Logger, SegmentLocation } from '@armature/contracts';
import { createSharedMemory } from '@armature/nixel';
import type { SharedMemory } from '@armature/nixel';
import { formatSize } from '../size.ts';

/** What the host tier takes from the machine; tests pass other answers. */
export interface HostMachine {
  /** Memory that this process may use at all. */
  memoryBytes(): number;
  createSharedMemory: typeof createSharedMemory;
}

export const thisMachine: HostMachine = {
  memoryBytes: () => {
    // The limit of the container, where there is one; 0 or more than the machine has: none.
    const limit = process.constrainedMemory();
    return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
  },
  createSharedMemory,
};

export interface HostMemoryOptions {
  readonly layout: KvMemoryLayout;
  /** Shown in `/proc/PID/maps`. */
  readonly name: string;
  readonly mover: KvBlockMover;
  readonly log: Logger;
  readonly machine: HostMachine;
  /** Another process of this user fills blocks. Else the kernel refuses others writable mappings. */
  readonly othersWrite: boolean;
}

/**
 * The memory of a host tier, registered: a memfd that peers on this host map read-only, or where that is not to be had plain shared memory, which
 * peers reach by other transports. The CUDA transport pins registered memory for DMA by itself as soon as it has a GPU.
 */
export class HostMemory {
  readonly memory: KvMemory;
  readonly isMapped: boolean;
  readonly #mover: KvBlockMover;
  readonly #shared: SharedMemory | undefined;

  private constructor(memory: KvMemory, mover: KvBlockMover, shared: SharedMemory | undefined) {
    this.memory = memory;
    this.isMapped = shared !== undefined;
    this.#mover = mover;
    this.#shared = shared;
  }

  /** Throws `KVBM_CAPACITY_INVALID`. Pages come into being when they are first written. */
  static allocate(options: HostMemoryOptions): HostMemory {
    const { layout, mover, machine } = options;
    const lengthBytes = layout.blocks * layout.blockStrideBytes;
    const available = machine.memoryBytes();
    if (lengthBytes > available) {
      throw new ArmatureError('KVBM_CAPACITY_INVALID', `a host tier of ${formatSize(lengthBytes)} on a machine, or in a container, of ${formatSize(available)}`, { hint: 'lower the capacity of the host tier' });
    }
    const shared = mapped(options, lengthBytes);
    try {
      const memory = shared === undefined ? { bytes: new Uint8Array(plain(lengthBytes)) } : mappedBytes(shared, lengthBytes);
      return new HostMemory(mover.registerMemory(memory, layout), mover, shared);
    } catch (error) {
      shared?.close();
      throw error;
    }
  }

  get location(): Extract<SegmentLocation, { type: 'shared' }> | undefined {
    return this.#shared?.location();
  }

  /** Throws `TRANSFER_SEGMENT_BUSY` while a transfer uses it; nothing has changed then. */
  close(): void {
    this.#mover.deregister(this.memory);
    this.#shared?.close();
  }
}

function mappedBytes(shared: SharedMemory, lengthBytes: number): { bytes: Uint8Array; location: Extract<SegmentLocation, { type: 'shared' }> } {
  return { bytes: new Uint8Array(shared.buffer, 0, lengthBytes), location: shared.location() };
}

function mapped({ name, log, machine, othersWrite }: HostMemoryOptions, lengthBytes: number): SharedMemory | undefined {
  try {
    return machine.createSharedMemory({ name, lengthBytes, peerAccess: othersWrite ? 'read-write' : 'read' });
  } catch (error) {
    const { code, message } = ArmatureError.from(error);
    log.warn('host tier is plain memory: peers on this host copy over a socket instead of mapping it', { code, reason: message });
    return undefined;
  }
}

function plain(lengthBytes: number): SharedArrayBuffer {
  try {
    return new SharedArrayBuffer(lengthBytes);
  } catch (cause) {
    throw new ArmatureError('KVBM_CAPACITY_INVALID', `${formatSize(lengthBytes)} of host memory could not be allocated`, { hint: 'lower the capacity of the host tier', cause });
  }
}
