import { open, readdir, rm, stat, statfs, truncate } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { KvBlockMover, KvMemory } from '@armature/contracts';
import { openFile } from '@armature/nixel';
import type { OpenFile } from '@armature/nixel';
import { libc, libcMissing } from '@armature/nixel/native';
import { isSlabName, slabName, slabsOf, slotsOfSlab } from './geometry.ts';
import type { StoreGeometry } from './geometry.ts';

/** Reserved per call: on file systems that clear reserved blocks (tmpfs) each call takes milliseconds. */
const RESERVE_BYTES = 64 << 20;

interface Slab {
  readonly file: OpenFile;
  readonly memory: KvMemory;
  /** The same slab cut into pieces like the memory on the other side. */
  readonly views: Map<string, KvMemory>;
}

/** The files that hold the blocks, open and registered with the worker's agent. */
export class Slabs {
  readonly geometry: StoreGeometry;
  readonly #mover: KvBlockMover;
  readonly #slabs: readonly Slab[];

  private constructor(geometry: StoreGeometry, mover: KvBlockMover, slabs: readonly Slab[]) {
    this.geometry = geometry;
    this.#mover = mover;
    this.#slabs = slabs;
  }

  /**
   * Makes files longer, shorter or new as the geometry says, and removes slabs behind its end. Nothing is reserved unless all fits. Throws
   * the system's error.
   */
  static async open(folder: string, geometry: StoreGeometry, options: { readonly mover: KvBlockMover; readonly preallocate: boolean; readonly direct: boolean }): Promise<Slabs> {
    await removeSurplus(folder, geometry);
    await assertRoom(folder, geometry, options.preallocate);
    const slabs: Slab[] = [];
    try {
      for (let slab = 0; slab < slabsOf(geometry); slab++) {
        const path = join(folder, slabName(slab));
        const blocks = slotsOfSlab(geometry, slab);
        const lengthBytes = blocks * geometry.slotBytes;
        const isReserved = options.preallocate && (await reserve(path, lengthBytes));
        const file = await openFile({ path, lengthBytes, mode: 'create', direct: options.direct, preallocate: options.preallocate && !isReserved });
        const layout = { blocks, blockStrideBytes: geometry.slotBytes, pieces: 1, pieceBytes: geometry.blockBytes, pieceStrideBytes: geometry.blockBytes };
        slabs.push({ file, memory: options.mover.registerFile(file.location, lengthBytes, layout), views: new Map() });
      }
    } catch (error) {
      await new Slabs(geometry, options.mover, slabs).close();
      throw error;
    }
    return new Slabs(geometry, options.mover, slabs);
  }

  get isDirect(): boolean {
    return this.#slabs.every(({ file }) => file.location.direct);
  }

  /** The slab as memory for copies from or to `other`. Throws `KVBM_LAYOUT_INVALID` for blocks of another length. */
  memory(slab: number, other: KvMemory): KvMemory {
    const { memory, views } = this.#slabs[slab]!;
    if (other.pieces === 1 && other.pieceBytes === memory.pieceBytes) return memory;
    if (other.pieces * other.pieceBytes !== memory.pieceBytes) {
      throw new ArmatureError('KVBM_LAYOUT_INVALID', `blocks of ${other.pieces} × ${other.pieceBytes} bytes do not fit a store of ${memory.pieceBytes} bytes a block`, { hint: 'pass memory of the layout the tier was opened with' });
    }
    const key = `${other.pieces}`;
    let view = views.get(key);
    if (view === undefined) {
      view = this.#mover.view(memory, { blocks: memory.blocks, blockStrideBytes: memory.blockStrideBytes, pieces: other.pieces, pieceBytes: other.pieceBytes, pieceStrideBytes: other.pieceBytes });
      views.set(key, view);
    }
    return view;
  }

  /** For diagnosis: the open file of a slot, and where it begins. */
  place(slot: number): { readonly fd: number; readonly offset: number } {
    const { slotsPerSlab, slotBytes } = this.geometry;
    return { fd: this.#slabs[Math.floor(slot / slotsPerSlab)]!.file.location.fd, offset: (slot % slotsPerSlab) * slotBytes };
  }

  /** No copy may be running. */
  async close(): Promise<void> {
    for (const { memory } of this.#slabs) this.#mover.deregister(memory);
    for (const { file } of this.#slabs) await file.close();
  }
}

async function removeSurplus(folder: string, geometry: StoreGeometry): Promise<void> {
  const slabs = slabsOf(geometry);
  for (const name of await readdir(folder)) {
    if (!isSlabName(name)) continue;
    const slab = Number(name.slice('slab-'.length));
    const path = join(folder, name);
    if (slab >= slabs) await rm(path, { force: true });
    else if ((await stat(path)).size > slotsOfSlab(geometry, slab) * geometry.slotBytes) await truncate(path, slotsOfSlab(geometry, slab) * geometry.slotBytes);
  }
}

/** Throws `KVBM_CAPACITY_OVER_DEVICE`: the file system that `folder` is or will be on can never hold so much. */
export async function assertDevice(folder: string, geometry: StoreGeometry): Promise<void> {
  const found = await statfs(folder).catch(() => undefined);
  if (found === undefined) {
    if (dirname(folder) !== folder) await assertDevice(dirname(folder), geometry);
    return;
  }
  const wanted = geometry.slots * geometry.slotBytes;
  const deviceBytes = found.blocks * found.bsize;
  if (deviceBytes === 0 || wanted <= deviceBytes) return;
  throw new ArmatureError('KVBM_CAPACITY_OVER_DEVICE', `${wanted} bytes of KV blocks are asked of a file system of ${deviceBytes} bytes ("${folder}")`, { hint: 'give the disk tier a capacity that its disk can hold' });
}

async function assertRoom(folder: string, geometry: StoreGeometry, preallocate: boolean): Promise<void> {
  const { blocks, bavail, bsize } = await statfs(folder);
  // A size of 0 is a file system that does not tell.
  if (!preallocate || blocks === 0) return;
  let allocated = 0;
  for (const name of await readdir(folder)) if (isSlabName(name)) allocated += (await stat(join(folder, name))).blocks * 512;
  const missing = geometry.slots * geometry.slotBytes - allocated;
  if (missing > bavail * bsize) throw Object.assign(new Error(`${missing} bytes more are needed, ${bavail * bsize} are free`), { code: 'ENOSPC' });
}

/** False: the file system cannot, or there is no way to ask; zeros are written instead. */
async function reserve(path: string, lengthBytes: number): Promise<boolean> {
  if (libcMissing() !== undefined) return false;
  const file = await open(path, 'a', 0o600);
  try {
    for (let at = 0; at < lengthBytes; at += RESERVE_BYTES) {
      if (libc().fallocate(file.fd, 0, at, Math.min(RESERVE_BYTES, lengthBytes - at)) !== 0) {
        const code = libc().errorName().split(' ')[0]!;
        if (code === 'EOPNOTSUPP' || code === 'ENOSYS') return false;
        throw Object.assign(new Error(`fallocate of "${path}": ${code}`), { code });
      }
      await file.stat(); // a turn for everybody else: fallocate is synchronous
    }
    return true;
  } finally {
    await file.close();
  }
}
