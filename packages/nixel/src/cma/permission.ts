import { readFileSync } from 'node:fs';
import { libc } from '../native/libc.ts';

const CAP_SYS_PTRACE = 19n;

export interface PtraceFacts {
  /** `/proc/sys/kernel/yama/ptrace_scope`; undefined where the kernel has no Yama. */
  readonly scope: string | undefined;
  /** `/proc/self/status`. */
  readonly status: string;
}

/** Why the kernel forbids reading another process of this user, or undefined. Yama: 0 same user, 1 descendants only, 2 administrators, 3 nobody. */
export function ptraceForbidden(facts: PtraceFacts): string | undefined {
  const scope = Number(facts.scope ?? '0');
  if (scope === 0) return undefined;
  const effective = /^CapEff:\s*([0-9a-f]+)/m.exec(facts.status)?.[1];
  const isCapable = effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_SYS_PTRACE) & 1n) === 1n;
  if (scope < 3 && isCapable) return undefined;
  return `kernel.yama.ptrace_scope is ${scope}: set it to 0${scope < 3 ? ', or run with CAP_SYS_PTRACE' : ''}`;
}

/** Tries the call on this process (fails where seccomp or the kernel has it off), then looks at what is allowed between processes. */
export function crossMemoryForbidden(): string | undefined {
  const source = Uint8Array.of(1, 2, 3, 4);
  const target = new Uint8Array(new ArrayBuffer(source.length));
  const held = new Uint8Array(new ArrayBuffer(source.length));
  held.set(source);
  const local = BigUint64Array.of(BigInt(libc().addressOf(target)), 4n);
  const remote = BigUint64Array.of(BigInt(libc().addressOf(held)), 4n);
  if (libc().processVmReadv(process.pid, local, 1, remote, 1, 0) !== source.length || target[3] !== 4) return `process_vm_readv ended with ${libc().errorName()}`;
  return ptraceForbidden({ scope: optional('/proc/sys/kernel/yama/ptrace_scope'), status: optional('/proc/self/status') ?? '' });
}

function optional(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return undefined;
  }
}
