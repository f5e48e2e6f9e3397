import { mkdir, open, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { Clock, KvBlockMover, Logger } from '@armature/contracts';
import { readAll, writeAll } from './disk-io.ts';
import type { DiskIo } from './disk-io.ts';
import { openingError } from './errors.ts';
import { FORMAT_VERSION, isBlank, PAGE_BYTES, pagesOf } from './format.ts';
import { geometryFor, slabName, slabsOf, slotsOfSlab } from './geometry.ts';
import type { StoreGeometry } from './geometry.ts';
import { decodeHeader, encodeHeader, isSameStore, recordSeed } from './header.ts';
import type { StoreHeader } from './header.ts';
import { Slabs } from './slabs.ts';
import { isGone, lockStore, readOwner } from './store-lock.ts';
import type { StoreLock } from './store-lock.ts';
import { StoreIndex } from './store-index.ts';

export const INDEX_FILE = 'index.kv';

export interface MediumOptions {
  readonly folder: string;
  readonly modelFingerprint: string;
  readonly layoutFingerprint: string;
  readonly blockBytes: number;
  /** See `KvTierHost.checksum`. */
  readonly checksum: { readonly version: number; readonly pieceBytes: number };
  readonly capacityBytes: number;
  readonly slabBytes: number;
  readonly preallocate: boolean;
  readonly direct: boolean;
  readonly clock: Clock;
  readonly io: DiskIo;
  readonly mover: KvBlockMover;
  readonly log: Logger;
}

/** What was found when the store was opened. */
export interface Recovery {
  /** Why nothing of an earlier content could be kept; undefined: it was kept, or there was none. */
  readonly reset: 'corrupt' | 'older' | 'foreign' | undefined;
  /** Records that were there and were not kept: torn, foreign, or behind the end of a smaller store. */
  readonly dropped: number;
}

interface MediumParts {
  readonly folder: string;
  readonly geometry: StoreGeometry;
  readonly index: StoreIndex;
  readonly slabs: Slabs;
  readonly recovery: Recovery;
  readonly inode: number;
  readonly header: Uint8Array;
  readonly file: FileHandle;
  readonly lock: StoreLock;
}

/** An open store: locked, its records read and checked, its slabs registered. */
export class Medium {
  readonly folder: string;
  readonly geometry: StoreGeometry;
  readonly index: StoreIndex;
  readonly slabs: Slabs;
  readonly recovery: Recovery;
  readonly indexFd: number;
  /** Of the index file: another one under its name means that the store was deleted. */
  readonly inode: number;
  /** The header page as it is in the file. */
  readonly header: Uint8Array;
  readonly #file: FileHandle;
  readonly #lock: StoreLock;

  private constructor(parts: MediumParts) {
    this.folder = parts.folder;
    this.geometry = parts.geometry;
    this.index = parts.index;
    this.slabs = parts.slabs;
    this.recovery = parts.recovery;
    this.indexFd = parts.file.fd;
    this.inode = parts.inode;
    this.header = parts.header;
    this.#file = parts.file;
    this.#lock = parts.lock;
  }

  /** Throws `KVBM_STORE_*`, `KVBM_CAPACITY_*`; `KVBM_DISK_*` (retryable) when it may work later. */
  static async open(options: MediumOptions): Promise<Medium> {
    let file: FileHandle | undefined;
    let lock: StoreLock | undefined;
    try {
      await makeFolder(options.folder);
      file = await openIndex(options.folder);
      lock = await takeLock(options, file.fd);
      return new Medium(await openLocked(options, file, lock));
    } catch (error) {
      lock?.release();
      await file?.close().catch(() => undefined);
      throw openingError(error, options.folder);
    }
  }

  get lockKind(): 'flock' | 'pid-file' {
    return this.#lock.kind;
  }

  /** No copy may be running. The index has been finished, or is left as it is. */
  async close(): Promise<void> {
    await this.slabs.close();
    this.#lock.release();
    await this.#file.close();
  }
}

/** Somebody who only asks whether the store is locked (`inspectStore`) holds it for a moment and names no owner. */
async function takeLock({ folder, clock }: MediumOptions, fd: number): Promise<StoreLock> {
  for (let tries = 1; ; tries++) {
    try {
      return lockStore(folder, fd);
    } catch (error) {
      const owner = readOwner(folder);
      if (tries === 5 || !ArmatureError.is(error) || error.code !== 'KVBM_STORE_LOCKED' || (owner !== undefined && !isGone(owner))) throw error;
      await clock.sleep(20);
    }
  }
}

/** With its parents. (`recursive` of Node never ends where the system makes no folder in an existing one, as in /proc.) */
async function makeFolder(folder: string, withParents = true): Promise<void> {
  try {
    await mkdir(folder, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') {
      if (!(await stat(folder)).isDirectory()) throw error;
    } else if (code === 'ENOENT' && withParents && dirname(folder) !== folder) {
      await makeFolder(dirname(folder));
      await makeFolder(folder, false);
    } else throw error;
  }
}

async function openIndex(folder: string): Promise<FileHandle> {
  const path = join(folder, INDEX_FILE);
  try {
    return await open(path, 'r+');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return open(path, 'a+', 0o600).then(async (made) => {
      await made.close();
      return open(path, 'r+');
    });
  }
}

async function openLocked(options: MediumOptions, file: FileHandle, lock: StoreLock): Promise<MediumParts> {
  const { folder, io, layoutFingerprint, log } = options;
  const found = await readHeader(options, file);
  const slotsPerSlab = found.header?.slotsPerSlab;
  const geometry = geometryFor(options, options.blockBytes, slotsPerSlab);
  const { size, ino } = await file.stat();
  const recordBytes = Math.max(0, size - PAGE_BYTES);
  const generation = ((found.header?.generation ?? 0) + 1) >>> 0;
  const index = new StoreIndex({ slots: geometry.slots, generation, seed: recordSeed(layoutFingerprint), io, fd: file.fd });
  const pages = pagesOf(geometry.slots);
  const lost = found.header === undefined ? await countRecords(io, file.fd, 0, recordBytes) : await countRecords(io, file.fd, pages * PAGE_BYTES, recordBytes);
  if (found.header !== undefined) await readAll(io, file.fd, index.bytes, PAGE_BYTES);
  const torn = index.recover() + (await dropMissing(folder, geometry, index));
  // Records of another store must be gone before this header stands above them.
  if (found.header === undefined) await file.truncate(0);
  const header = encodeHeader(headerOf(options, geometry, generation, found.header));
  await new Promise<void>((resolve, reject) => writeAll(io, file.fd, header, 0, (error) => (error === undefined ? resolve() : reject(error))));
  await file.truncate((1 + pages) * PAGE_BYTES);
  const slabs = await Slabs.open(folder, geometry, options);
  const dropped = lost + torn;
  if (found.reset !== undefined) log.warn('KV store was reset', { code: 'KVBM_STORE_RESET', folder, reason: found.reset, blocks: dropped });
  else if (dropped > 0) log.warn('KV store: blocks were not kept', { code: 'KVBM_STORE_DROPPED', folder, torn, behindEnd: lost });
  return { folder, geometry, index, slabs, recovery: { reset: found.reset, dropped }, inode: ino, header, file, lock };
}

async function readHeader(options: MediumOptions, file: FileHandle): Promise<{ readonly header: StoreHeader | undefined; readonly reset: Recovery['reset'] }> {
  const page = new Uint8Array(PAGE_BYTES);
  const length = await readAll(options.io, file.fd, page, 0);
  const finding = decodeHeader(page.subarray(0, length));
  switch (finding.type) {
    case 'newer':
      throw new ArmatureError('KVBM_STORE_NEWER', `the KV store "${options.folder}" has format ${finding.version}; this version knows ${FORMAT_VERSION}`, { hint: 'use the version of Armature that wrote it, another `path`, or delete the folder' });
    case 'older':
    case 'corrupt':
      return { header: undefined, reset: finding.type };
    case 'none':
      return { header: undefined, reset: undefined };
    case 'current':
      return isOurs(options, finding.header, page) ? { header: finding.header, reset: undefined } : { header: undefined, reset: 'foreign' };
  }
}

function isOurs({ blockBytes, checksum, modelFingerprint, layoutFingerprint }: MediumOptions, header: StoreHeader, page: Uint8Array): boolean {
  if (header.blockBytes !== blockBytes || header.slotsPerSlab === 0 || header.checksumVersion !== checksum.version || header.pieceBytes !== checksum.pieceBytes) return false;
  return isSameStore(page, modelFingerprint, layoutFingerprint);
}

/** Records whose slab is not there, or ends before them: somebody deleted or cut it. */
async function dropMissing(folder: string, geometry: StoreGeometry, index: StoreIndex): Promise<number> {
  let dropped = 0;
  for (let slab = 0; slab < slabsOf(geometry); slab++) {
    const size = await stat(join(folder, slabName(slab))).then(
      (found) => found.size,
      () => 0,
    );
    const slots = slotsOfSlab(geometry, slab);
    for (let slot = Math.min(slots, Math.floor(size / geometry.slotBytes)); slot < slots; slot++) if (index.invalidate(slab * geometry.slotsPerSlab + slot)) dropped++;
  }
  return dropped;
}

/** Slots that are not blank, in records from byte `from` of the record area on. */
async function countRecords(io: DiskIo, fd: number, from: number, to: number): Promise<number> {
  const chunk = new Uint8Array(PAGE_BYTES * 256);
  const words = new Int32Array(chunk.buffer);
  let count = 0;
  for (let at = from; at < to; at += chunk.length) {
    chunk.fill(0);
    await readAll(io, fd, chunk.subarray(0, Math.min(chunk.length, to - at)), PAGE_BYTES + at);
    for (let slot = 0; slot < chunk.length / 64; slot++) if (!isBlank(words, slot)) count++;
  }
  return count;
}

function headerOf(options: MediumOptions, geometry: StoreGeometry, generation: number, before: StoreHeader | undefined): StoreHeader {
  const { version: checksumVersion, pieceBytes } = options.checksum;
  return { ...geometry, pieceBytes, checksumVersion, generation, createdWallMs: before?.createdWallMs ?? options.clock.wallMs(), model: options.modelFingerprint, layout: options.layoutFingerprint };
}
