import { closeSync, readFileSync, readlinkSync } from 'node:fs';
import { libc } from './libc.ts';

/** When a process started, in clock ticks since boot; undefined when there is no such process. A zombie still has one. */
export function startTicks(pid: number): number | undefined {
  try {
    return parseStartTicks(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return undefined;
  }
}

/** Field 22 of `/proc/PID/stat`; the command name before it may hold spaces and brackets. */
export function parseStartTicks(stat: string): number | undefined {
  const ticks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  return Number.isSafeInteger(ticks) && ticks > 0 ? ticks : undefined;
}

/** A process that was checked to be the one meant, held so that no later process of the same pid is taken for it. */
export class PinnedProcess {
  readonly pid: number;
  #pidfd: number;

  private constructor(pid: number, pidfd: number) {
    this.pid = pid;
    this.#pidfd = pidfd;
  }

  /** Undefined when the process has ended or its pid belongs to another one now. */
  static open(pid: number, expectedStartTicks: number): PinnedProcess | undefined {
    const pidfd = libc().pidfdOpen(pid);
    if (pidfd < 0) return undefined;
    const pinned = new PinnedProcess(pid, pidfd);
    // Read after the handle was taken: ticks that match now belong to the process the handle holds, if that still exists.
    if (startTicks(pid) === expectedStartTicks && pinned.exists()) return pinned;
    pinned.close();
    return undefined;
  }

  /** False once the process was reaped: only then can its pid be given to another. */
  exists(): boolean {
    return this.#pidfd >= 0 && libc().pidfdProbe(this.#pidfd) === 0;
  }

  /** Idempotent. */
  close(): void {
    if (this.#pidfd >= 0) closeSync(this.#pidfd);
    this.#pidfd = -1;
  }
}

/** What two processes must have in common to reach each other's memory: kernel, pid and network namespace, user. */
export function localityKey(): string {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  return `${boot}/${readlinkSync('/proc/self/ns/pid')}/${readlinkSync('/proc/self/ns/net')}/uid:${process.geteuid?.() ?? -1}`;
}

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;

/** Pid and user at the other end of a connected Unix socket, as the kernel noted them at connect or listen; undefined when it cannot tell. */
export function peerCredentials(socketFd: number): { readonly pid: number; readonly uid: number } | undefined {
  const value = new Int32Array(3);
  const length = new Int32Array([value.byteLength]);
  if (libc().getsockopt(socketFd, SOL_SOCKET, SO_PEERCRED, value, length) !== 0 || value[0]! <= 0) return undefined;
  return { pid: value[0]!, uid: value[1]! };
}
