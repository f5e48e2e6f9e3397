import { ArmatureError } from '@armature/contracts';
import type { DescriptorColumns } from '@armature/contracts';

/** How KV blocks lie in a segment: block `b` is `pieces` runs of `pieceBytes` at `b * blockStrideBytes + p * pieceStrideBytes`. A `KvArena` has this shape. */
export interface BlockLayout {
  readonly blockStrideBytes: number;
  readonly pieces: number;
  readonly pieceBytes: number;
  readonly pieceStrideBytes: number;
}

/** Empty columns with room for `count` rows. */
export function allocateDescriptors(count: number): DescriptorColumns {
  return { count, segments: new Int32Array(count), offsets: new Float64Array(count), lengths: new Int32Array(count) };
}

/** Columns from rows; for tests and small lists. */
export function descriptors(rows: readonly { readonly segment: number; readonly offset: number; readonly length: number }[]): DescriptorColumns {
  const columns = allocateDescriptors(rows.length);
  rows.forEach((row, i) => {
    columns.segments[i] = row.segment;
    columns.offsets[i] = row.offset;
    columns.lengths[i] = row.length;
  });
  return columns;
}

/** Descriptors of whole blocks, in the order of `blocks`: `blocks.length * layout.pieces` rows, the pieces of one block together. */
export function blockDescriptors(segment: number, layout: BlockLayout, blocks: Int32Array): DescriptorColumns {
  const columns = allocateDescriptors(blocks.length * layout.pieces);
  const { segments, offsets, lengths } = columns;
  let row = 0;
  for (let i = 0; i < blocks.length; i++) {
    let offset = blocks[i]! * layout.blockStrideBytes;
    for (let p = 0; p < layout.pieces; p++) {
      segments[row] = segment;
      offsets[row] = offset;
      lengths[row] = layout.pieceBytes;
      offset += layout.pieceStrideBytes;
      row++;
    }
  }
  return columns;
}

/** Sum of the lengths. */
export function totalBytes(columns: DescriptorColumns): number {
  let bytes = 0;
  for (let i = 0; i < columns.count; i++) bytes += columns.lengths[i]!;
  return bytes;
}

/** Why the two lists cannot be one transfer, or undefined. */
export function mismatch(local: DescriptorColumns, remote: DescriptorColumns): string | undefined {
  if (local.count !== remote.count) return `${local.count} local and ${remote.count} remote descriptors`;
  for (const columns of [local, remote]) {
    const { count, segments, offsets, lengths } = columns;
    if (segments.length < count || offsets.length < count || lengths.length < count) return 'columns shorter than their count';
    for (let i = 0; i < count; i++) {
      if (lengths[i]! < 0) return `descriptor ${i} has length ${lengths[i]}`;
      if (!Number.isSafeInteger(offsets[i]) || offsets[i]! < 0) return `descriptor ${i} has offset ${offsets[i]}`;
    }
  }
  for (let i = 0; i < local.count; i++) {
    if (local.lengths[i] !== remote.lengths[i]) return `descriptor ${i} is ${local.lengths[i]} bytes here and ${remote.lengths[i]} bytes there`;
  }
  return undefined;
}

/** Throws `TRANSFER_DESCRIPTOR_INVALID` for the first row outside its segment. `lengthOf` gives a segment's length, undefined when unknown. */
export function assertInside(columns: DescriptorColumns, side: string, lengthOf: (segment: number) => number | undefined): void {
  for (let i = 0; i < columns.count; i++) {
    const length = lengthOf(columns.segments[i]!);
    const end = columns.offsets[i]! + columns.lengths[i]!;
    if (length !== undefined && end <= length) continue;
    const found = length === undefined ? 'which is not registered' : `of ${length} bytes`;
    throw new ArmatureError('TRANSFER_DESCRIPTOR_INVALID', `${side} descriptor ${i} names bytes ${columns.offsets[i]} to ${end} of segment ${columns.segments[i]}, ${found}`, {
      hint: 'register the memory, exchange metadata again, and keep descriptors inside it',
      details: { side, row: i },
    });
  }
}

const MAX_JOINED_BYTES = 0x4000_0000;

/** Rows of one transfer, joined. */
export interface JoinedRows {
  readonly local: DescriptorColumns;
  readonly remote: DescriptorColumns;
  readonly bytes: number;
}

/**
 * Joins neighbouring rows that continue each other on both sides and drops empty ones, in place: the columns are the caller's own.
 * Fewer pieces, the same bytes. Lengths are read from `local`; `remote.lengths` may be the same array.
 */
export function joinRows(local: DescriptorColumns, remote: DescriptorColumns): JoinedRows {
  const { segments: sa, offsets: oa, lengths } = local;
  const { segments: sb, offsets: ob } = remote;
  const count = local.count;
  let rows = 0;
  let bytes = 0;
  let endA = -1;
  let endB = -1;
  for (let i = 0; i < count; i++) {
    const length = lengths[i]!;
    if (length === 0) continue;
    bytes += length;
    const offsetA = oa[i]!;
    const offsetB = ob[i]!;
    const last = rows - 1;
    if (offsetA === endA && offsetB === endB && sa[last] === sa[i] && sb[last] === sb[i] && lengths[last]! + length <= MAX_JOINED_BYTES) lengths[last] = lengths[last]! + length;
    else {
      if (rows !== i) {
        sa[rows] = sa[i]!;
        sb[rows] = sb[i]!;
        oa[rows] = offsetA;
        ob[rows] = offsetB;
        lengths[rows] = length;
      }
      rows++;
    }
    endA = offsetA + length;
    endB = offsetB + length;
  }
  if (rows === count && remote.lengths === lengths) return { local, remote, bytes };
  const shared = lengths.subarray(0, rows);
  return {
    local: { count: rows, segments: sa.subarray(0, rows), offsets: oa.subarray(0, rows), lengths: shared },
    remote: { count: rows, segments: sb.subarray(0, rows), offsets: ob.subarray(0, rows), lengths: shared },
    bytes,
  };
}

/** Own copies, so that the caller may reuse its columns. */
export function copyDescriptors(columns: DescriptorColumns): DescriptorColumns {
  const { count, segments, offsets, lengths } = columns;
  return { count, segments: segments.slice(0, count), offsets: offsets.slice(0, count), lengths: lengths.slice(0, count) };
}

/** Rows `from` to `to` as views. */
export function slice(columns: DescriptorColumns, from: number, to: number): DescriptorColumns {
  return {
    count: to - from,
    segments: columns.segments.subarray(from, to),
    offsets: columns.offsets.subarray(from, to),
    lengths: columns.lengths.subarray(from, to),
  };
}
