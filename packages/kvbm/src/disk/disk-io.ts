import type fs from 'node:fs';

/** The system calls for the index file and for looking after the store; blocks travel by the mover. Tests pass failing ones. */
export type DiskIo = Pick<typeof fs, 'read' | 'write' | 'fdatasync' | 'stat' | 'fstat' | 'statfs'>;

export type IoEnded = (error: NodeJS.ErrnoException | undefined) => void;

/** Writes all of `bytes`, continuing short writes. */
export function writeAll(io: DiskIo, fd: number, bytes: Uint8Array, offset: number, done: IoEnded): void {
  io.write(fd, bytes, 0, bytes.length, offset, (error, written) => {
    if (error !== null) done(error);
    else if (written === bytes.length) done(undefined);
    else if (written === 0) done(Object.assign(new Error('nothing was written'), { code: 'EIO' }));
    else writeAll(io, fd, bytes.subarray(written), offset + written, done);
  });
}

/** Fills `bytes` from the file; what lies behind its end stays as it is. Resolves with how many came. */
export async function readAll(io: DiskIo, fd: number, bytes: Uint8Array, offset: number): Promise<number> {
  let at = 0;
  while (at < bytes.length) {
    const length = Math.min(MAX_READ_BYTES, bytes.length - at);
    const from = at;
    const count = await new Promise<number>((resolve, reject) => io.read(fd, bytes, from, length, offset + from, (error, read) => (error === null ? resolve(read) : reject(error))));
    if (count === 0) break;
    at += count;
  }
  return at;
}

const MAX_READ_BYTES = 16 << 20;
