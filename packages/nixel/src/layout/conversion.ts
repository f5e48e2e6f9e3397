import { ArmatureError } from '@armature/contracts';
import type { Clock, DescriptorColumns } from '@armature/contracts';
import { allocateDescriptors } from '../descriptors.ts';
import { assertSameLayout } from './compare.ts';
import { dimensionSizes, dimensionStrides, headsOf, KV_DIMENSIONS } from './kv-layout.ts';
import type { KvDimension, KvLayout } from './kv-layout.ts';

/** Below this many bytes a piece costs more to describe and copy one by one than to move its block whole and convert it in memory. */
export const MIN_PIECE_BYTES = 128;

/** Blocks of a segment, for descriptors. */
export interface SegmentBlocks {
  readonly segment: number;
  readonly blocks: Int32Array;
}

/** Blocks of memory, for conversion in place. `bytes` begin where the layout begins. */
export interface MemoryBlocks {
  readonly bytes: Uint8Array;
  readonly blocks: Int32Array;
}

interface Loop {
  readonly size: number;
  readonly strideHere: number;
  readonly strideThere: number;
}

/**
 * How the blocks of two layouts correspond: which runs of bytes are the same on both sides, for the KV heads that both ranks hold.
 * Worked out once per pair of layouts, then used for any blocks. Throws `TRANSFER_LAYOUT_MISMATCH` when nothing bridges them.
 */
export class LayoutConversion {
  readonly here: KvLayout;
  readonly there: KvLayout;
  /** KV heads on both sides; 0: the two ranks have nothing in common. */
  readonly heads: number;
  /** Longest run of bytes that is contiguous on both sides. */
  readonly pieceBytes: number;
  readonly piecesPerBlock: number;
  readonly #blockStrideHere: number;
  readonly #blockStrideThere: number;
  readonly #startHere: number;
  readonly #startThere: number;
  /** What is left outside a piece; outermost in `here` first. */
  readonly #loops: readonly Loop[];
  #offsetsHere: Float64Array | undefined = undefined;
  #offsetsThere: Float64Array | undefined = undefined;

  constructor(here: KvLayout, there: KvLayout) {
    assertSameLayout({ name: 'this side', segment: 0, layout: here }, { name: 'the other side', segment: 0, layout: there }, true);
    this.here = here;
    this.there = there;
    const ours = headsOf(here.kvHeads, here.tpSize, here.tpRank);
    const theirs = headsOf(there.kvHeads, there.tpSize, there.tpRank);
    const first = Math.max(ours.first, theirs.first);
    this.heads = Math.max(0, Math.min(ours.first + ours.count, theirs.first + theirs.count) - first);
    const sizes = { ...dimensionSizes(here), head: this.heads };
    const a = dimensionStrides(here);
    const b = dimensionStrides(there);
    this.#blockStrideHere = a.block;
    this.#blockStrideThere = b.block;
    this.#startHere = (first - ours.first) * a.head;
    this.#startThere = (first - theirs.first) * b.head;
    const outside = new Set<KvDimension>(KV_DIMENSIONS.filter((dimension) => dimension !== 'block' && sizes[dimension] !== 1));
    this.pieceBytes = longestRun(here.dtypeBytes, outside, sizes, a, b);
    this.#loops = here.order.filter((dimension) => outside.has(dimension)).map((dimension) => ({ size: sizes[dimension], strideHere: a[dimension], strideThere: b[dimension] }));
    this.piecesPerBlock = this.#loops.reduce((product, { size }) => product * size, 1);
  }

  /** True: moving descriptors one by one is dear; move blocks whole into a `stagingLayout` and convert them in memory. */
  get isScattered(): boolean {
    return this.heads > 0 && this.pieceBytes < MIN_PIECE_BYTES;
  }

  /** Two lists of the same pieces: `blocks.length * piecesPerBlock` rows. A one-sided transfer of them is the conversion. */
  descriptors(here: SegmentBlocks, there: SegmentBlocks): { readonly here: DescriptorColumns; readonly there: DescriptorColumns } {
    this.#checkBlocks(here.blocks, there.blocks);
    const perBlock = this.heads === 0 ? 0 : this.piecesPerBlock;
    const ours = allocateDescriptors(here.blocks.length * perBlock);
    const theirs = allocateDescriptors(here.blocks.length * perBlock);
    if (perBlock === 0) return { here: ours, there: theirs };
    const { offsetsHere, offsetsThere } = this.#offsets();
    ours.segments.fill(here.segment);
    theirs.segments.fill(there.segment);
    ours.lengths.fill(this.pieceBytes);
    theirs.lengths.fill(this.pieceBytes);
    for (let i = 0, row = 0; i < here.blocks.length; i++) {
      const baseHere = here.blocks[i]! * this.#blockStrideHere;
      const baseThere = there.blocks[i]! * this.#blockStrideThere;
      for (let p = 0; p < perBlock; p++, row++) {
        ours.offsets[row] = baseHere + offsetsHere[p]!;
        theirs.offsets[row] = baseThere + offsetsThere[p]!;
      }
    }
    return { here: ours, there: theirs };
  }

  /**
   * Copies blocks from there to here in memory. Runs on the caller's thread at 1 to 4 GB/s: `from` and `to` are rows of `blocks`, so that long
   * lists can be done in turns (`convertInTurns`).
   */
  convert(here: MemoryBlocks, there: MemoryBlocks, from = 0, to: number = here.blocks.length): void {
    this.#checkBlocks(here.blocks, there.blocks);
    if (this.heads === 0) return;
    const copy = copier(here.bytes, there.bytes, this.pieceBytes, [this.#startHere, this.#startThere, this.#blockStrideHere, this.#blockStrideThere, ...this.#loops.flatMap((loop) => [loop.strideHere, loop.strideThere])]);
    for (let i = from; i < to; i++) {
      const at = here.blocks[i]! * this.#blockStrideHere + this.#startHere;
      this.#walk(0, at, there.blocks[i]! * this.#blockStrideThere + this.#startThere, copy);
    }
  }

  #walk(depth: number, here: number, there: number, copy: CopyPiece): void {
    const loop = this.#loops[depth];
    if (loop === undefined) {
      copy(here, there, 1, 0, 0);
      return;
    }
    if (depth === this.#loops.length - 1) {
      copy(here, there, loop.size, loop.strideHere, loop.strideThere);
      return;
    }
    for (let i = 0; i < loop.size; i++) this.#walk(depth + 1, here + i * loop.strideHere, there + i * loop.strideThere, copy);
  }

  /** Offsets of a block's pieces, made at first use: descriptors of one pair of layouts share them. */
  #offsets(): { offsetsHere: Float64Array; offsetsThere: Float64Array } {
    if (this.#offsetsHere === undefined || this.#offsetsThere === undefined) {
      const [ours, theirs] = [new Float64Array(this.piecesPerBlock), new Float64Array(this.piecesPerBlock)];
      let at = 0;
      this.#walk(0, this.#startHere, this.#startThere, (here, there, count, strideHere, strideThere) => {
        for (let i = 0; i < count; i++, at++) {
          ours[at] = here + i * strideHere;
          theirs[at] = there + i * strideThere;
        }
      });
      this.#offsetsHere = ours;
      this.#offsetsThere = theirs;
    }
    return { offsetsHere: this.#offsetsHere, offsetsThere: this.#offsetsThere };
  }

  #checkBlocks(here: Int32Array, there: Int32Array): void {
    const wrong = here.length !== there.length ? `${here.length} blocks here and ${there.length} there` : (outside(here, this.here.blocks) ?? outside(there, this.there.blocks));
    if (wrong !== undefined) throw new ArmatureError('TRANSFER_DESCRIPTOR_INVALID', wrong, { hint: 'name as many blocks on both sides, all inside their layouts' });
  }
}

function outside(blocks: Int32Array, limit: number): string | undefined {
  for (let i = 0; i < blocks.length; i++) if (blocks[i]! < 0 || blocks[i]! >= limit) return `block ${blocks[i]} of a layout of ${limit} blocks`;
  return undefined;
}

/** Grows a run over dimensions that continue it on both sides; takes them out of `outside`. */
function longestRun(dtypeBytes: number, outside: Set<KvDimension>, sizes: Record<KvDimension, number>, a: Record<KvDimension, number>, b: Record<KvDimension, number>): number {
  let run = dtypeBytes;
  for (let grown = true; grown; ) {
    grown = false;
    for (const dimension of outside) {
      if (a[dimension] !== run || b[dimension] !== run) continue;
      outside.delete(dimension);
      run *= sizes[dimension];
      grown = true;
    }
  }
  return run;
}

/** Copies `count` pieces, each `stride` bytes after the one before. */
type CopyPiece = (here: number, there: number, count: number, strideHere: number, strideThere: number) => void;

/** By whole runs where they are long, else by the widest element that all offsets are multiples of. */
function copier(here: Uint8Array, there: Uint8Array, pieceBytes: number, offsets: readonly number[]): CopyPiece {
  if (pieceBytes >= 256) {
    return (to, from, count, strideTo, strideFrom) => {
      for (let i = 0; i < count; i++) here.set(there.subarray(from + i * strideFrom, from + i * strideFrom + pieceBytes), to + i * strideTo);
    };
  }
  const divides = (width: number): boolean => [pieceBytes, here.byteOffset, there.byteOffset, ...offsets].every((value) => value % width === 0);
  const width = divides(4) ? 4 : divides(2) ? 2 : 1;
  const View = width === 4 ? Int32Array : width === 2 ? Int16Array : Uint8Array;
  const target = new View(here.buffer as ArrayBuffer, here.byteOffset, Math.floor(here.length / width));
  const source = new View(there.buffer as ArrayBuffer, there.byteOffset, Math.floor(there.length / width));
  const words = pieceBytes / width;
  return (to, from, count, strideTo, strideFrom) => {
    let t = to / width;
    let f = from / width;
    for (let i = 0; i < count; i++, t += strideTo / width, f += strideFrom / width) for (let w = 0; w < words; w++) target[t + w] = source[f + w]!;
  };
}

/** The layout of memory that receives blocks as `there` orders them, but only the heads of `here`: pull into it, then convert from it. */
export function stagingLayout(here: KvLayout, there: KvLayout, blocks: number): KvLayout {
  return { ...here, order: there.order, blocks };
}

/** `there` into `here`, both whole layouts in memory. For short lists; see `convertInTurns`. */
export function convertBlocks(here: MemoryBlocks & { readonly layout: KvLayout }, there: MemoryBlocks & { readonly layout: KvLayout }): void {
  new LayoutConversion(here.layout, there.layout).convert(here, there);
}

const TURN_BYTES = 512 << 10;

/** Like `convert`, at most 512 KiB (or one block) per turn of the event loop. The memory must not change until it resolves. */
export async function convertInTurns(conversion: LayoutConversion, here: MemoryBlocks, there: MemoryBlocks, clock: Clock): Promise<void> {
  const perTurn = Math.max(1, Math.floor(TURN_BYTES / Math.max(1, conversion.pieceBytes * conversion.piecesPerBlock)));
  for (let at = 0; at < here.blocks.length; at += perTurn) {
    if (at > 0) await new Promise<void>((resolve) => clock.defer(resolve));
    conversion.convert(here, there, at, Math.min(at + perTurn, here.blocks.length));
  }
}
