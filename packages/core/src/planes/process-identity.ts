import { readFileSync, readlinkSync } from 'node:fs';

/** Which process on which host. Plain data. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Boot and process-id namespace; '' where the system does not tell. Equal: the other's pid means the same here. */
  readonly host: string;
  /** Clock ticks since boot at which the process started: a reused pid is another process. 0 = unknown. */
  readonly startTicks: number;
}

export function processIdentity(pid = process.pid): ProcessIdentity {
  return { pid, host: hostIdentity(), startTicks: startTicksOf(pid) };
}

/** True only when it is certain: same host, and no such process, or a later one with its number. */
export function isProcessGone(process: ProcessIdentity, here: ProcessIdentity): boolean {
  if (here.host === '' || process.host !== here.host || process.startTicks === 0) return false;
  return startTicksOf(process.pid) !== process.startTicks;
}

function hostIdentity(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return '';
  }
}

/** Field 22 of /proc/PID/stat, after the name in brackets, which may hold anything. 0: no such process (or a zombie), or no /proc. */
function startTicksOf(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const rest = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return rest[0] === 'Z' ? 0 : Number(rest[19]);
  } catch {
    return 0;
  }
}
