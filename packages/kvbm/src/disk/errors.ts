import { ArmatureError } from '@armature/contracts';
import type { ErrorData } from '@armature/contracts';

/** The system's code of a failure, 'UNKNOWN' when it has none. */
export function systemCode(error: unknown): string {
  const { code, details } = error as { code?: unknown; details?: { system?: unknown } };
  if (typeof details?.system === 'string') return details.system;
  return typeof code === 'string' ? code : 'UNKNOWN';
}

/** What is wrong with the medium, by the system's code. `where` is the store's folder. */
export function mediumProblem(system: string, where: string): ErrorData {
  switch (system) {
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return { code: 'KVBM_DISK_FULL', message: `no room for the KV store "${where}" (${system})`, hint: 'free space, or give the tier a smaller capacity; it goes on by itself', retryable: true };
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
      return { code: 'KVBM_DISK_DENIED', message: `the KV store "${where}" may not be written (${system})`, hint: 'check how the file system is mounted, and owner and mode of the folder; it goes on by itself', retryable: true };
    case 'ENOENT':
    case 'ESTALE':
    case 'ENOTDIR':
      return { code: 'KVBM_DISK_GONE', message: `the KV store "${where}" is not there any more (${system})`, hint: 'mount the disk again; a deleted folder is made anew, empty', retryable: true };
    case 'SLOW':
      return { code: 'KVBM_DISK_SLOW', message: `the disk of the KV store "${where}" does not keep up: blocks are not stored while its queue is full`, hint: 'use a faster disk, or a policy that stores fewer blocks', retryable: true };
    default:
      return { code: 'KVBM_DISK_FAILED', message: `the disk of the KV store "${where}" fails (${system})`, hint: 'look at the kernel log (dmesg) and the health of the disk; it is tried again', retryable: true };
  }
}

/** Whether waiting may help: a store that fails so opens degraded. Everything else is wrong as configured. */
export function mayPass(error: unknown): boolean {
  return ArmatureError.is(error) ? error.retryable : ['ENOSPC', 'EDQUOT', 'EIO', 'ESTALE'].includes(systemCode(error));
}

/** Of opening. */
export function openingError(error: unknown, folder: string): ArmatureError {
  if (ArmatureError.is(error) && error.code.startsWith('KVBM_')) return error;
  const system = systemCode(error);
  const facts = { cause: error, details: { system, folder } };
  if (mayPass(error)) {
    const problem = mediumProblem(system, folder);
    return new ArmatureError(problem.code, problem.message, { hint: problem.hint ?? '', retryable: true, ...facts });
  }
  const reason = error instanceof Error ? error.message : String(error);
  switch (system) {
    case 'ENOTDIR':
    case 'EEXIST':
    case 'EISDIR':
    case 'ENAMETOOLONG':
    case 'ELOOP':
      return new ArmatureError('KVBM_STORE_PATH_INVALID', `"${folder}" cannot be a folder for KV blocks: ${reason}`, { hint: 'name a folder as `path`; its parents are made', ...facts });
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new ArmatureError('KVBM_STORE_DENIED', `the KV store "${folder}" may not be made or written: ${reason}`, { hint: 'check owner and mode of the folder and how the file system is mounted, or name another `path`', ...facts });
    default:
      return new ArmatureError('KVBM_STORE_FAILED', `the KV store "${folder}" cannot be opened: ${reason}`, { hint: 'see the cause', ...facts });
  }
}
