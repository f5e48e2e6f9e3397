import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns } from '@armature/contracts';
import type { Pieces } from '../local/pieces.ts';
import type { CopyDirection, CopyTables } from './binding.ts';
import type { Pin } from './pins.ts';

/** Memory that is held while copies run: pinned pages, an opened allocation. */
export type Hold = Pick<Pin, 'release'>;

/** Where the segments of one side lie, and on which GPU; host memory has none. */
export interface Side {
  readonly columns: DescriptorColumns;
  /** Address of a segment's first byte. */
  readonly bases: ReadonlyMap<number, bigint>;
}

export interface CompileOptions {
  readonly direction: CopyDirection;
  /** GPU in whose context they run. */
  readonly ordinal: number;
  readonly target: Side;
  readonly source: Side;
  /** Host memory that is not pinned. */
  readonly isStaged: boolean;
  /** Taken for each run of the copies. */
  readonly hold: () => Hold[];
}

/**
 * The driver stages copies of unpinned memory and may do that on this thread, for device to host the whole of it. In pieces of this
 * length (about 50 us) the event loop stays responsive.
 */
export const STAGED_PIECE_BYTES = 256 << 10;

/** A plan as columns of addresses, computed once, copied many times. */
export class CompiledCopies implements Pieces {
  readonly count: number;
  readonly direction: CopyDirection;
  readonly ordinal: number;
  readonly isStaged: boolean;
  readonly lengths: Int32Array;
  readonly tables: CopyTables;
  readonly hold: () => Hold[];

  constructor({ direction, ordinal, target, source, isStaged, hold }: CompileOptions) {
    const step = isStaged ? STAGED_PIECE_BYTES : Infinity;
    const rows = pieceCount(target.columns, step);
    this.count = rows;
    this.direction = direction;
    this.ordinal = ordinal;
    this.isStaged = isStaged;
    this.hold = hold;
    this.lengths = new Int32Array(rows);
    const { lengths, count } = target.columns;
    for (let i = 0, row = 0; i < count; i++) {
      for (let at = 0; at < lengths[i]!; at += step, row++) this.lengths[row] = Math.min(step, lengths[i]! - at);
    }
    this.tables = { targets: addresses(target, rows, step), sources: addresses(source, rows, step), lengths: BigUint64Array.from(this.lengths, BigInt) };
  }

  /** Pieces of the other same-host transports are copied on this thread; these by a lane. */
  copy(): TransferStatus {
    return TransferStatus.NotSupported;
  }
}

function pieceCount({ lengths, count }: DescriptorColumns, step: number): number {
  let rows = 0;
  for (let i = 0; i < count; i++) rows += lengths[i] === 0 ? 0 : step === Infinity ? 1 : Math.ceil(lengths[i]! / step);
  return rows;
}

/** u64 written as u32 halves: four times cheaper than BigInt. Little endian, as x64 and arm64 Linux are. */
function addresses({ columns, bases }: Side, rows: number, step: number): BigUint64Array {
  const table = new BigUint64Array(rows);
  const words = new Uint32Array(table.buffer);
  const { segments, offsets, lengths, count } = columns;
  let last = -1;
  let base = 0;
  for (let i = 0, row = 0; i < count; i++) {
    if (segments[i] !== last) {
      last = segments[i]!;
      base = Number(bases.get(last)!);
    }
    for (let at = 0; at < lengths[i]!; at += step, row++) {
      const address = base + offsets[i]! + at;
      words[2 * row] = address;
      words[2 * row + 1] = Math.floor(address / 0x1_0000_0000);
    }
  }
  return table;
}
