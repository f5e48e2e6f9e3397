import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { ArmatureError } from '@armature/contracts';
import type { SegmentLocation } from '@armature/contracts';

export interface OpenFileOptions {
  readonly path: string;
  readonly lengthBytes: number;
  /** `read`: the file must be there, nothing writes it. `write`: it must be there. `create`: made, and made longer, when needed. Default `read`. */
  readonly mode?: 'read' | 'write' | 'create';
  /** Ask for O_DIRECT. Default true; `direct` says whether the file system gave it. */
  readonly direct?: boolean;
  /** With `create`: write the missing bytes now, so that the disk cannot fill up later. Default true. */
  readonly preallocate?: boolean;
}

/** For `Agent.register({ location, lengthBytes })`. Close it after `deregister`. */
export interface OpenFile {
  readonly location: Extract<SegmentLocation, { type: 'file' }>;
  readonly lengthBytes: number;
  close(): Promise<void>;
}

const FILL_BYTES = 1 << 20;

/** Throws `TRANSFER_FILE_MISSING`, `TRANSFER_FILE_DENIED`, `TRANSFER_FILE_FULL`, `TRANSFER_FILE_SHORT`, `TRANSFER_FILE_FAILED`. */
export async function openFile(options: OpenFileOptions): Promise<OpenFile> {
  const { path, lengthBytes, mode = 'read', direct = true, preallocate = true } = options;
  const flags = { read: constants.O_RDONLY, write: constants.O_RDWR, create: constants.O_RDWR | constants.O_CREAT }[mode];
  let file: FileHandle | undefined;
  try {
    file = await open(path, flags, 0o600);
    const { size } = await file.stat();
    if (size < lengthBytes && mode !== 'create') {
      throw new ArmatureError('TRANSFER_FILE_SHORT', `"${path}" has ${size} bytes, the segment ${lengthBytes}`, { hint: 'register what is there, or open it with mode create' });
    }
    if (size < lengthBytes) await grow(file, { from: size, to: lengthBytes, preallocate });
    const opened = file;
    return { location: { type: 'file', path, fd: file.fd, direct: direct && (await takesDirect(path, flags)) }, lengthBytes, close: () => opened.close() };
  } catch (error) {
    await file?.close().catch(() => undefined);
    throw coded(error, path);
  }
}

async function grow(file: FileHandle, { from, to, preallocate }: { from: number; to: number; preallocate: boolean }): Promise<void> {
  await file.truncate(to);
  if (!preallocate) return;
  const zeros = Buffer.alloc(Math.min(FILL_BYTES, to - from));
  try {
    for (let at = from; at < to; ) at += (await file.write(zeros, 0, Math.min(zeros.length, to - at), at)).bytesWritten;
  } catch (error) {
    await file.truncate(from);
    throw error;
  }
}

async function takesDirect(path: string, flags: number): Promise<boolean> {
  if (constants.O_DIRECT === undefined) return false;
  try {
    await (await open(path, (flags & ~constants.O_CREAT) | constants.O_DIRECT)).close();
    return true;
  } catch {
    return false;
  }
}

function coded(error: unknown, path: string): ArmatureError {
  if (ArmatureError.is(error)) return error;
  const { code: system = '', message } = error as NodeJS.ErrnoException;
  const facts = { cause: error, details: { system } };
  switch (system) {
    case 'ENOENT':
      return new ArmatureError('TRANSFER_FILE_MISSING', `there is no file "${path}": ${message}`, { hint: 'create the file first, or open it with mode create', ...facts });
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new ArmatureError('TRANSFER_FILE_DENIED', `"${path}" may not be opened: ${message}`, { hint: 'check the owner and mode of the file, its folder, and how the file system is mounted', ...facts });
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return new ArmatureError('TRANSFER_FILE_FULL', `no room for "${path}": ${message}`, { hint: 'free space, raise the quota or ulimit -f, or register less', ...facts });
    default:
      return new ArmatureError('TRANSFER_FILE_FAILED', `"${path}" cannot be opened for transfers: ${message}`, { hint: 'see the cause', ...facts });
  }
}
