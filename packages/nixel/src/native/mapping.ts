import { closeSync, fstatSync, openSync, constants } from 'node:fs';
import { ArmatureError } from '@armature/contracts';
import { Fcntl, libc, MADV_HUGEPAGE, MapFlag, Protection, Seal } from './libc.ts';

interface Range {
  readonly address: number;
  readonly length: number;
}

let alive = 0;
const collected = new FinalizationRegistry<Range>(({ address, length }) => {
  libc().munmap(address, length);
  alive--;
});

/** Address ranges mapped by this process and not given back yet. */
export function mappingsAlive(): number {
  return alive;
}

/**
 * A file mapped into this process, as an ArrayBuffer.
 * `release` frees the memory at once by putting empty pages in its place; the address range itself stays until the garbage collector
 * has found every view over `buffer` dead. So a view used too late reads zeros and never faults.
 */
export class Mapping {
  readonly buffer: ArrayBuffer;
  readonly address: number;
  readonly lengthBytes: number;
  readonly isWritable: boolean;
  #isReleased = false;

  private constructor(address: number, lengthBytes: number, isWritable: boolean) {
    this.address = address;
    this.lengthBytes = lengthBytes;
    this.isWritable = isWritable;
    this.buffer = libc().view(address, lengthBytes);
    alive++;
    collected.register(this.buffer, { address, length: lengthBytes });
  }

  /** Shared mapping of the whole of `fd`, which may be closed afterwards. Throws `TRANSFER_MAPPING_FAILED`. */
  static of(fd: number, lengthBytes: number, isWritable: boolean): Mapping {
    const address = libc().mmap(0, lengthBytes, isWritable ? Protection.ReadWrite : Protection.Read, MapFlag.Shared, fd, 0);
    if (address === -1) throw mappingFailed(`mmap of ${lengthBytes} bytes ended with ${libc().errorName()}`);
    // Fails where the kernel has no huge pages for shared memory; 4 KiB pages then.
    libc().madvise(address, lengthBytes, MADV_HUGEPAGE);
    return new Mapping(address, lengthBytes, isWritable);
  }

  get isReleased(): boolean {
    return this.#isReleased;
  }

  /** Idempotent. No copy of another thread may be running in it. */
  release(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    const flags = MapFlag.Private | MapFlag.Fixed | MapFlag.Anonymous | MapFlag.NoReserve;
    if (libc().mmap(this.address, this.lengthBytes, Protection.ReadWrite, flags, -1, 0) === -1) throw mappingFailed(`mmap over a mapping ended with ${libc().errorName()}`);
  }
}

/** An open memfd of another process. */
export interface PeerFile {
  readonly fd: number;
  /** Names the memory for as long as somebody has it open or mapped. */
  readonly inode: number;
  readonly lengthBytes: number;
}

/**
 * Opens a memfd that another process has open; that process must be pinned meanwhile. The caller closes `fd`.
 * Refuses memory that its owner could truncate: touching what is gone would end this process (SIGBUS). Throws `TRANSFER_MAPPING_FAILED`.
 */
export function openPeerMemory(pid: number, fd: number, isWritable: boolean): PeerFile {
  let opened: number;
  try {
    opened = openSync(`/proc/${pid}/fd/${fd}`, isWritable ? constants.O_RDWR : constants.O_RDONLY);
  } catch (error) {
    throw mappingFailed(`memory of process ${pid} cannot be opened: ${error instanceof Error ? error.message : String(error)}`);
  }
  const seals = libc().fcntl(opened, Fcntl.GetSeals, 0);
  if (seals === -1 || (seals & Seal.Shrink) === 0) {
    closeSync(opened);
    throw mappingFailed(`file descriptor ${fd} of process ${pid} is no memory sealed against shrinking`);
  }
  const { ino, size } = fstatSync(opened);
  return { fd: opened, inode: ino, lengthBytes: size };
}

/** Opens and maps the whole of it. Throws `TRANSFER_MAPPING_FAILED`. */
export function mapPeerMemory(pid: number, fd: number, minimumBytes: number, isWritable: boolean): Mapping {
  const file = openPeerMemory(pid, fd, isWritable);
  try {
    if (file.lengthBytes < minimumBytes) throw mappingFailed(`memory of process ${pid} has ${file.lengthBytes} bytes where ${minimumBytes} were named`);
    return Mapping.of(file.fd, file.lengthBytes, isWritable);
  } finally {
    closeSync(file.fd);
  }
}

export function mappingFailed(found: string): ArmatureError {
  return new ArmatureError('TRANSFER_MAPPING_FAILED', found, { hint: 'run both processes as the same user in one pid namespace, and create the memory with createSharedMemory' });
}
