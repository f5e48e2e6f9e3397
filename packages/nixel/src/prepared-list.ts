// @hot
import { ArmatureError } from '@armature/contracts';
import type { DescriptorColumns } from '@armature/contracts';
import type { BlockLayout } from './descriptors.ts';
import type { Path, Peer } from './peers.ts';

/** Pieces of memory by number: rows, or the blocks of a strided segment (nothing is kept per block). */
export type ListSource =
  | { readonly descriptors: DescriptorColumns; /** An index names this many rows. Default 1. */ readonly rowsPerIndex?: number }
  | { readonly segment: number; readonly layout: BlockLayout; readonly blocks: number };

/** A validated list of memory, local or a peer's. Requests pick from it by index. */
export interface PreparedList {
  /** Undefined: own memory. */
  readonly peer: string | undefined;
  /** Indices go from 0 to here. */
  readonly count: number;
  readonly rowsPerIndex: number;
}

/** The agent's side of a list. */
export abstract class IndexedList implements PreparedList {
  readonly owner: Peer | undefined;
  /** Of the owner (or of the own segments) when the list was checked. */
  readonly epoch: number;
  readonly count: number;
  readonly rowsPerIndex: number;
  /** The one segment of all rows, -1: several. */
  readonly uniformSegment: number;
  /** The list it was last used with, and the paths found for that: requests of the same two lists do not search again. */
  partner: IndexedList | undefined;
  paths: readonly Path[];

  constructor(owner: Peer | undefined, epoch: number, shape: { readonly count: number; readonly rowsPerIndex: number; readonly uniformSegment: number }) {
    this.owner = owner;
    this.epoch = epoch;
    this.count = shape.count;
    this.rowsPerIndex = shape.rowsPerIndex;
    this.uniformSegment = shape.uniformSegment;
    this.partner = undefined;
    this.paths = [];
  }

  get peer(): string | undefined {
    return this.owner?.name;
  }

  /** Writes `indices.length * rowsPerIndex` rows. `lengths` is written, or when `compares` compared: false at the first difference. */
  abstract fill(indices: Int32Array, columns: DescriptorColumns, compares: boolean): boolean;
}

export function badIndex(index: number, count: number): ArmatureError {
  return new ArmatureError('TRANSFER_DESCRIPTOR_INVALID', `index ${index} of a list of ${count}`, { hint: 'pick indices of the prepared list' });
}

/** Any rows. */
export class RowList extends IndexedList {
  readonly #rows: DescriptorColumns;

  constructor(owner: Peer | undefined, epoch: number, rows: DescriptorColumns, rowsPerIndex: number) {
    super(owner, epoch, { count: rows.count / rowsPerIndex, rowsPerIndex, uniformSegment: uniform(rows) });
    this.#rows = rows;
  }

  fill(indices: Int32Array, columns: DescriptorColumns, compares: boolean): boolean {
    const { segments, offsets, lengths } = columns;
    const rows = this.#rows;
    const per = this.rowsPerIndex;
    let at = 0;
    for (let i = 0; i < indices.length; i++) {
      const index = indices[i]!;
      if (index < 0 || index >= this.count) throw badIndex(index, this.count);
      for (let row = index * per, end = row + per; row < end; row++, at++) {
        segments[at] = rows.segments[row]!;
        offsets[at] = rows.offsets[row]!;
        if (!compares) lengths[at] = rows.lengths[row]!;
        else if (lengths[at] !== rows.lengths[row]) return false;
      }
    }
    return true;
  }
}

/** Blocks at regular distances in one segment. */
export class StridedList extends IndexedList {
  readonly #layout: BlockLayout;

  constructor(owner: Peer | undefined, epoch: number, segment: number, layout: BlockLayout, blocks: number) {
    super(owner, epoch, { count: blocks, rowsPerIndex: layout.pieces, uniformSegment: segment });
    this.#layout = layout;
  }

  fill(indices: Int32Array, columns: DescriptorColumns, compares: boolean): boolean {
    const { segments, offsets, lengths } = columns;
    const { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = this.#layout;
    let at = 0;
    for (let i = 0; i < indices.length; i++) {
      const index = indices[i]!;
      if (index < 0 || index >= this.count) throw badIndex(index, this.count);
      let offset = index * blockStrideBytes;
      for (let p = 0; p < pieces; p++, at++) {
        offsets[at] = offset;
        if (!compares) lengths[at] = pieceBytes;
        else if (lengths[at] !== pieceBytes) return false;
        offset += pieceStrideBytes;
      }
    }
    segments.fill(this.uniformSegment, 0, at);
    return true;
  }
}

function uniform({ count, segments }: DescriptorColumns): number {
  if (count === 0) return -1;
  for (let i = 1; i < count; i++) if (segments[i] !== segments[0]) return -1;
  return segments[0]!;
}

/** Columns of both sides of one request: two allocations' worth of views over one buffer, lengths shared. */
export function allocatePair(rows: number): { local: DescriptorColumns; remote: DescriptorColumns } {
  const buffer = new ArrayBuffer(rows * 28);
  const lengths = new Int32Array(buffer, rows * 16, rows);
  return {
    local: { count: rows, segments: new Int32Array(buffer, rows * 20, rows), offsets: new Float64Array(buffer, 0, rows), lengths },
    remote: { count: rows, segments: new Int32Array(buffer, rows * 24, rows), offsets: new Float64Array(buffer, rows * 8, rows), lengths },
  };
}
