import fs from 'node:fs';
import { open, readdir, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { KvRecordVisitor } from '@armature/contracts';
import { readAll } from './disk-io.ts';
import { openingError } from './errors.ts';
import { isBlank, PAGE_BYTES, RECORD_WORDS, Word } from './format.ts';
import { slabName } from './geometry.ts';
import { decodeHeader, recordSeed } from './header.ts';
import type { StoreHeader } from './header.ts';
import { INDEX_FILE } from './medium.ts';
import { StoreIndex } from './store-index.ts';
import { isLocked, lockStore, readOwner } from './store-lock.ts';
import type { StoreOwner } from './store-lock.ts';

/** What one store folder is. */
export interface StoreReport {
  readonly folder: string;
  /** `current`: readable. Others hold nothing that this version could use. */
  readonly state: 'current' | 'newer' | 'older' | 'corrupt' | 'empty';
  readonly header: StoreHeader | undefined;
  /** A process has it open: counts are of a moment ago. */
  readonly isRunning: boolean;
  readonly owner: StoreOwner | undefined;
  readonly heldBlocks: number;
  /** Records that are neither complete nor blank. */
  readonly tornRecords: number;
  /** On the disk, holes not counted. */
  readonly usedBytes: number;
}

export interface StoreRecords {
  readonly report: StoreReport;
  /** Complete blocks, in order of their slots. */
  visit(visitor: KvRecordVisitor): void;
}

/** Writes the checksum that a block of this content and hash should have, as two words. */
export type BlockChecksum = (block: Uint8Array, lo: number, hi: number, out: Int32Array) => void;

export interface VerifyReport {
  readonly checked: number;
  readonly corrupt: number;
  /** Hash words of the corrupt ones. */
  readonly corruptHashes: Int32Array;
}

/** Store folders below `path` (`path/<model>/<worker>`), or `path` itself when it is one. Sorted. */
export async function listStores(path: string): Promise<string[]> {
  if (await isStore(path)) return [path];
  const stores: string[] = [];
  for (const model of await folders(path)) for (const worker of await folders(join(path, model))) if (await isStore(join(path, model, worker))) stores.push(join(path, model, worker));
  return stores.sort();
}

/** Reads a store's index, also of one that runs. Throws `KVBM_STORE_MISSING`, or with the code of what prevents reading. */
export async function inspectStore(folder: string): Promise<StoreRecords> {
  const file = await openIndex(folder, 'r');
  try {
    const { report, index } = await examine(folder, file, false);
    return { report, visit: (visitor) => visitRecords(index, visitor) };
  } finally {
    await file.close();
  }
}

/**
 * Reads every block of a stopped store and compares its checksum; corrupt ones are struck out when `repairs`. Throws `KVBM_STORE_LOCKED` (ask the running
 * process instead), `KVBM_STORE_MISSING`, `KVBM_STORE_FOREIGN` (not a store of this format).
 */
export async function verifyStore(folder: string, checksum: BlockChecksum, options: { readonly repairs?: boolean } = {}): Promise<VerifyReport> {
  const file = await openIndex(folder, 'r+');
  let lock: { release(): void } | undefined;
  try {
    lock = lockStore(folder, file.fd);
    const { report, index } = await examine(folder, file, true);
    if (index === undefined || report.header === undefined) throw new ArmatureError('KVBM_STORE_FOREIGN', `"${folder}" holds no store of this format (${report.state})`, { hint: 'armature kv gc removes what cannot be used' });
    const result = await verifyBlocks(folder, report.header, index, checksum);
    if (options.repairs === true && result.corrupt > 0) await new Promise<void>((resolve, reject) => index.flushed((error) => (error === undefined ? resolve() : reject(error))));
    return result;
  } finally {
    lock?.release();
    await file.close();
  }
}

/** What `gcStores` did with one folder. */
export interface GcReport {
  readonly folder: string;
  readonly action: 'removed' | 'cleaned' | 'kept' | 'running' | 'newer';
  readonly freedBytes: number;
  readonly tornRecords: number;
}

/**
 * Removes stores that nobody can use (no readable header, an older format, or not in `keep` where it is given) and strikes out torn records of the others. Running
 * stores and those of a newer version are left alone.
 */
export async function gcStores(path: string, options: { readonly keep?: (report: StoreReport) => boolean; readonly isDryRun?: boolean } = {}): Promise<GcReport[]> {
  const reports: GcReport[] = [];
  for (const folder of await listStores(path)) {
    const file = await openIndex(folder, 'r+');
    try {
      reports.push(await collect(folder, file, options));
    } finally {
      await file.close();
    }
  }
  return reports;
}

async function collect(folder: string, file: FileHandle, { keep, isDryRun = false }: { readonly keep?: (report: StoreReport) => boolean; readonly isDryRun?: boolean }): Promise<GcReport> {
  let lock: { release(): void };
  try {
    lock = lockStore(folder, file.fd);
  } catch (error) {
    if (ArmatureError.is(error) && error.code === 'KVBM_STORE_LOCKED') return { folder, action: 'running', freedBytes: 0, tornRecords: 0 };
    throw error;
  }
  try {
    const { report, index } = await examine(folder, file, true);
    const facts = { folder, tornRecords: report.tornRecords };
    if (report.state === 'newer') return { ...facts, action: 'newer', freedBytes: 0 };
    if (report.state !== 'current' || keep?.(report) === false) {
      if (!isDryRun) await rm(folder, { recursive: true, force: true });
      return { ...facts, action: 'removed', freedBytes: report.usedBytes };
    }
    if (!isDryRun && report.tornRecords > 0) await new Promise<void>((resolve, reject) => index!.flushed((error) => (error === undefined ? resolve() : reject(error))));
    return { ...facts, action: report.tornRecords > 0 ? 'cleaned' : 'kept', freedBytes: 0 };
  } finally {
    lock.release();
  }
}

async function verifyBlocks(folder: string, header: StoreHeader, index: StoreIndex, checksum: BlockChecksum): Promise<VerifyReport> {
  const block = new Uint8Array(header.blockBytes);
  const expected = new Int32Array(2);
  const found = new Int32Array(2);
  const corrupt: number[] = [];
  let checked = 0;
  for (let slab = 0; slab * header.slotsPerSlab < header.slots; slab++) {
    const file = await open(join(folder, slabName(slab)), 'r').catch(() => undefined);
    try {
      for (let slot = slab * header.slotsPerSlab; slot < Math.min(header.slots, (slab + 1) * header.slotsPerSlab); slot++) {
        if (!index.isHeld(slot)) continue;
        const at = slot * RECORD_WORDS + Word.Hash;
        const [lo, hi] = [index.words[at]!, index.words[at + 1]!];
        const length = file === undefined ? 0 : await readAll(fs, file.fd, block, (slot % header.slotsPerSlab) * header.slotBytes).catch(() => 0);
        index.checksum(slot, expected, 0);
        if (length === block.length) checksum(block, lo, hi, found);
        checked++;
        if (length === block.length && found[0] === expected[0] && found[1] === expected[1]) continue;
        corrupt.push(lo, hi);
        index.invalidate(slot);
      }
    } finally {
      await file?.close();
    }
  }
  return { checked, corrupt: corrupt.length / 2, corruptHashes: Int32Array.from(corrupt) };
}

function visitRecords(index: StoreIndex | undefined, visitor: KvRecordVisitor): void {
  if (index === undefined) return;
  for (let slot = 0; slot < index.slots; slot++) {
    if (!index.isHeld(slot)) continue;
    const at = slot * RECORD_WORDS;
    visitor(index.words[at + Word.Hash]!, index.words[at + Word.Hash + 1]!, index.words[at + Word.Parent]!, index.words[at + Word.Parent + 1]!);
  }
}

async function examine(folder: string, file: FileHandle, isOurs: boolean): Promise<{ readonly report: StoreReport; readonly index: StoreIndex | undefined }> {
  const page = new Uint8Array(PAGE_BYTES);
  const length = await readAll(fs, file.fd, page, 0);
  const finding = decodeHeader(page.subarray(0, length));
  const owner = readOwner(folder);
  // Asking for the lock would give up one's own.
  const isRunning = !isOurs && isLocked(folder, file.fd);
  const facts = { folder, owner, isRunning, usedBytes: await usedBytes(folder) };
  if (finding.type !== 'current') {
    return { report: { ...facts, state: finding.type === 'none' ? 'empty' : finding.type, header: undefined, heldBlocks: 0, tornRecords: 0 }, index: undefined };
  }
  const { header } = finding;
  // Never more than the file has: a header may say anything.
  const slots = Math.min(header.slots, Math.floor(Math.max(0, (await file.stat()).size - PAGE_BYTES) / (RECORD_WORDS * 4)));
  const index = new StoreIndex({ slots, generation: header.generation, seed: recordSeed(header.layout), io: fs, fd: file.fd });
  await readAll(fs, file.fd, index.bytes, PAGE_BYTES);
  const tornRecords = index.recover();
  let heldBlocks = 0;
  for (let slot = 0; slot < slots; slot++) if (!isBlank(index.words, slot)) heldBlocks++;
  return { report: { ...facts, state: 'current', header, heldBlocks, tornRecords }, index };
}

async function openIndex(folder: string, flags: 'r' | 'r+'): Promise<FileHandle> {
  try {
    return await open(join(folder, INDEX_FILE), flags);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw new ArmatureError('KVBM_STORE_MISSING', `there is no KV store in "${folder}"`, { hint: 'name the `path` of a disk tier, or a store folder below it' });
    throw openingError(error, folder);
  }
}

async function isStore(folder: string): Promise<boolean> {
  return stat(join(folder, INDEX_FILE)).then(
    (found) => found.isFile(),
    () => false,
  );
}

async function folders(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

async function usedBytes(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder)) {
    const found = await stat(join(folder, name)).catch(() => undefined);
    bytes += (found?.blocks ?? 0) * 512;
  }
  return bytes;
}
