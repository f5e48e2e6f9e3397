import { loadKoffi, koffiMissing, nativeUnavailable } from './koffi.ts';
import type { Koffi } from './koffi.ts';

/** Addresses and lengths are numbers: user space ends below 2^47 on x86-64 and 2^48 on arm64, doubles hold 2^53. */
export interface Libc {
  mmap(address: number, length: number, protection: number, flags: number, fd: number, offset: number): number;
  munmap(address: number, length: number): number;
  madvise(address: number, length: number, advice: number): number;
  memfdCreate(name: string, flags: number): number;
  ftruncate(fd: number, length: number): number;
  fcntl(fd: number, command: number, value: number): number;
  /** Advisory lock of an open file (`Flock`), given back by the kernel with its last descriptor; -1 with errno. */
  flock(fd: number, operation: number): number;
  /** Reserves a file's blocks and makes it longer if need be (mode 0); -1 with errno, `EOPNOTSUPP` where the file system cannot. */
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  /** Copies within this process; never fails, faults on a wrong address. */
  memcpy(target: number, source: number, length: number): number;
  /** Tables of (address, length) pairs, at most 1,024. Bytes moved (may be short), -1 with errno. */
  processVmReadv: VectorCopy;
  processVmWritev: VectorCopy;
  /** Process handle that no later process of the same pid can take over; -1 with errno. */
  pidfdOpen(pid: number): number;
  /** 0 while the process exists (a zombie does), -1 when it was reaped. */
  pidfdProbe(pidfd: number): number;
  getsockopt(fd: number, level: number, option: number, value: Int32Array, length: Int32Array): number;
  /** Address of the first byte of a view. Stable while its buffer is neither detached nor resized. */
  addressOf(bytes: Uint8Array): number;
  /** The memory at an address as an ArrayBuffer. Nothing keeps the memory mapped: see `Mapping`. */
  view(address: number, length: number): ArrayBuffer;
  /** Of the last failed call, with its name: `EPERM (1)`. */
  errorName(): string;
  errno(): number;
}

export type VectorCopy = (pid: number, local: BigUint64Array, localCount: number, remote: BigUint64Array, remoteCount: number, flags: number) => number;

export const Protection = { None: 0, Read: 1, ReadWrite: 3 } as const;
export const MapFlag = { Shared: 0x01, Private: 0x02, Fixed: 0x10, Anonymous: 0x20, NoReserve: 0x4000 } as const;
export const MADV_HUGEPAGE = 14;
export const MemfdFlag = { CloseOnExec: 1, AllowSealing: 2 } as const;
export const Flock = { Exclusive: 2, NoWait: 4, Unlock: 8 } as const;
export const Fcntl = { AddSeals: 1033, GetSeals: 1034 } as const;
export const Seal = { Seal: 1, Shrink: 2, Grow: 4, FutureWrite: 16 } as const;
/** Most (address, length) pairs of one vector call. */
export const MAX_VECTORS = 1024;

const SYSCALL_PIDFD_SEND_SIGNAL = 424;
const SYSCALL_PIDFD_OPEN = 434;
const NAMES: Readonly<Record<number, string>> = { 1: 'EPERM', 2: 'ENOENT', 3: 'ESRCH', 5: 'EIO', 9: 'EBADF', 11: 'EAGAIN', 12: 'ENOMEM', 13: 'EACCES', 14: 'EFAULT', 16: 'EBUSY', 22: 'EINVAL', 24: 'EMFILE', 27: 'EFBIG', 28: 'ENOSPC', 30: 'EROFS', 38: 'ENOSYS', 95: 'EOPNOTSUPP', 122: 'EDQUOT' };

let bound: Libc | undefined;

/** Why native memory cannot be used here, or undefined. */
export function libcMissing(): string | undefined {
  if (process.platform !== 'linux') return `needs Linux, this is ${process.platform}`;
  if (process.arch !== 'x64' && process.arch !== 'arm64') return `needs x64 or arm64, this is ${process.arch}`;
  const missing = koffiMissing();
  if (missing !== undefined) return missing;
  try {
    libc();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** The C library, bound at first use. Throws `TRANSFER_NATIVE_UNAVAILABLE`. */
export function libc(): Libc {
  if (bound !== undefined) return bound;
  const koffi = loadKoffi();
  if (koffi === undefined || process.platform !== 'linux') throw nativeUnavailable(koffiMissing() ?? `needs Linux, this is ${process.platform}`);
  return (bound = bind(koffi));
}

function bind(koffi: Koffi): Libc {
  // Symbols of the running process: the same C library as Node's own, glibc or musl.
  const library = koffi.load(null);
  const vector = 'int pid, void *local, unsigned long localCount, void *remote, unsigned long remoteCount, unsigned long flags';
  const addressOf = library.func('memcpy', 'uintptr_t', ['void *', 'uintptr_t', 'size_t']) as unknown as (bytes: Uint8Array, source: number, length: number) => number;
  const syscall = library.func('int64_t syscall(int64_t number, int64_t a, int64_t b, int64_t c, int64_t d)') as unknown as (...numbers: number[]) => number;
  const errno = (): number => koffi.errno();
  return {
    mmap: library.func('intptr_t mmap(uintptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)'),
    munmap: library.func('int munmap(uintptr_t address, size_t length)'),
    madvise: library.func('int madvise(uintptr_t address, size_t length, int advice)'),
    memfdCreate: library.func('int memfd_create(const char *name, uint32_t flags)'),
    ftruncate: library.func('int ftruncate(int fd, int64_t length)'),
    fcntl: (() => {
      // Variadic: the third argument travels as one.
      const call = library.func('int fcntl(int fd, int command, ...)') as unknown as (fd: number, command: number, type: string, value: number) => number;
      return (fd: number, command: number, value: number): number => call(fd, command, 'int', value);
    })(),
    flock: library.func('int flock(int fd, int operation)'),
    fallocate: library.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)'),
    memcpy: library.func('uintptr_t memcpy(uintptr_t target, uintptr_t source, size_t length)'),
    processVmReadv: library.func(`int64_t process_vm_readv(${vector})`) as unknown as VectorCopy,
    processVmWritev: library.func(`int64_t process_vm_writev(${vector})`) as unknown as VectorCopy,
    pidfdOpen: (pid) => syscall(SYSCALL_PIDFD_OPEN, pid, 0, 0, 0),
    pidfdProbe: (pidfd) => syscall(SYSCALL_PIDFD_SEND_SIGNAL, pidfd, 0, 0, 0),
    getsockopt: library.func('int getsockopt(int fd, int level, int option, void *value, void *length)'),
    addressOf: (bytes) => (bytes.length === 0 ? 0 : addressOf(bytes, 0, 0)),
    view: (address, length) => koffi.view(BigInt(address), length),
    errno,
    errorName: () => `${NAMES[errno()] ?? 'error'} (${errno()})`,
  };
}
