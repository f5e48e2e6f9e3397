import { closeSync, existsSync, openSync, readdirSync, readFileSync, readlinkSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import { Flock, libc, libcMissing } from '@armature/nixel/native';

/** Who has a store open. In the folder as `owner.json`, for people and, where there is no flock, as the lock itself. */
export interface StoreOwner {
  readonly pid: number;
  /** Clock ticks since boot at which the process started: a reused pid is another process. 0 = unknown. */
  readonly startTicks: number;
  /** Boot and process-id namespace; '' where the system does not tell. */
  readonly host: string;
}

export interface StoreLock {
  readonly kind: 'flock' | 'pid-file';
  /** Idempotent. */
  release(): void;
}

export const OWNER_FILE = 'owner.json';

/** Stores this process holds by a pid file: that cannot keep the process itself out. */
const heldHere = new Set<string>();

export function thisProcess(): StoreOwner {
  let host = '';
  try {
    host = `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    // Not Linux: a pid file then holds until somebody deletes it.
  }
  return { pid: process.pid, startTicks: startTicksOf(process.pid), host };
}

/** True only when it is certain: same host, and no such process, or a later one with its number. */
export function isGone(owner: StoreOwner): boolean {
  const here = thisProcess();
  return here.host !== '' && owner.host === here.host && owner.startTicks !== 0 && startTicksOf(owner.pid) !== owner.startTicks;
}

/** Undefined: none is named, or the file is being written. */
export function readOwner(folder: string): StoreOwner | undefined {
  try {
    const found = JSON.parse(readFileSync(join(folder, OWNER_FILE), 'utf8')) as Partial<StoreOwner> | null;
    if (typeof found?.pid !== 'number' || typeof found.startTicks !== 'number' || typeof found.host !== 'string') return undefined;
    return { pid: found.pid, startTicks: found.startTicks, host: found.host };
  } catch {
    return undefined;
  }
}

/**
 * Takes the store for this process: flock on its index file, which the kernel gives back when the process is dead and its last write is over; a file
 * with pid and start time where there is no flock. Throws `KVBM_STORE_LOCKED`, or the system's error.
 */
export function lockStore(folder: string, indexFd: number, isNative = libcMissing() === undefined): StoreLock {
  return isNative ? lockByKernel(folder, indexFd) : lockByFile(folder);
}

/** Whether a process has the store open, as far as can be told without taking it. */
export function isLocked(folder: string, indexFd: number): boolean {
  if (libcMissing() === undefined) {
    if (libc().flock(indexFd, Flock.Exclusive | Flock.NoWait) !== 0) return true;
    libc().flock(indexFd, Flock.Unlock);
    return false;
  }
  const owner = readOwner(folder);
  return owner !== undefined && !isGone(owner);
}

function lockByKernel(folder: string, indexFd: number): StoreLock {
  if (libc().flock(indexFd, Flock.Exclusive | Flock.NoWait) !== 0) {
    const reason = libc().errorName();
    if (!reason.startsWith('EAGAIN')) throw new ArmatureError('KVBM_STORE_FAILED', `the KV store "${folder}" cannot be locked: ${reason}`, { hint: 'use a file system with flock' });
    throw locked(folder, readOwner(folder));
  }
  writeOwner(folder, 'w');
  let isHeld = true;
  return {
    kind: 'flock',
    release: () => {
      if (!isHeld) return;
      isHeld = false;
      removeOwner(folder);
      libc().flock(indexFd, Flock.Unlock);
    },
  };
}

function lockByFile(folder: string): StoreLock {
  if (heldHere.has(folder)) throw locked(folder, thisProcess());
  const owner = readOwner(folder);
  if (owner !== undefined && owner.pid !== process.pid && !isGone(owner)) throw locked(folder, owner);
  if (existsSync(join(folder, OWNER_FILE))) removeOwner(folder);
  try {
    writeOwner(folder, 'wx');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw locked(folder, readOwner(folder));
    throw error;
  }
  heldHere.add(folder);
  return {
    kind: 'pid-file',
    release: () => {
      if (heldHere.delete(folder)) removeOwner(folder);
    },
  };
}

function locked(folder: string, owner: StoreOwner | undefined): ArmatureError {
  const who = owner === undefined ? 'another process' : owner.pid === process.pid ? `this process (pid ${owner.pid})` : `process ${owner.pid}`;
  return new ArmatureError('KVBM_STORE_LOCKED', `the KV store "${folder}" is in use by ${who}`, {
    hint: 'give each worker its own folder, or end that process',
    details: { folder, ...(owner === undefined ? {} : { pid: owner.pid }) },
  });
}

function writeOwner(folder: string, flags: 'w' | 'wx'): void {
  const fd = openSync(join(folder, OWNER_FILE), flags, 0o600);
  try {
    writeSync(fd, `${JSON.stringify(thisProcess())}\n`);
  } finally {
    closeSync(fd);
  }
}

/** Only what says that it is ours, or may be removed because its process is gone. */
function removeOwner(folder: string): void {
  const owner = readOwner(folder);
  if (owner !== undefined && owner.pid !== process.pid && !isGone(owner)) return;
  try {
    unlinkSync(join(folder, OWNER_FILE));
  } catch {
    // Deleted with its folder, or no longer ours to delete.
  }
}

/** Field 22 of /proc/PID/stat. A zombie with threads left counts: their last writes are not over. 0: no such process, or no /proc. */
function startTicksOf(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' && readdirSync(`/proc/${pid}/task`).length < 2) return 0;
    return Number(fields[19]);
  } catch {
    return 0;
  }
}
