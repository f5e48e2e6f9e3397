import type { DescriptorColumns, TransferSegment } from '@armature/contracts';
import { MAX_VECTORS } from './vector-io.ts';
import type { VectorIo, VectorTable } from './vector-io.ts';

type SegmentLookup = (id: number) => TransferSegment | undefined;

/** Pieces below this are gathered by copying: one iovec per tiny piece costs more than the copy. */
const GATHER_COPY_BYTES = 4096;

/** Walks the bytes of a descriptor list in order, for scatter (receiving) and gather (sending). */
export class ListCursor {
  readonly #columns: DescriptorColumns;
  readonly #segment: SegmentLookup;
  readonly #averageBytes: number;
  #row = 0;
  #within = 0;
  /** Bytes not yet walked. */
  left: number;

  constructor(columns: DescriptorColumns, bytes: number, segment: SegmentLookup) {
    this.#columns = columns;
    this.#segment = segment;
    this.#averageBytes = columns.count === 0 ? 0 : bytes / columns.count;
    this.left = bytes;
  }

  /** Rest of the current piece, at most `limit` bytes; undefined when its segment is gone or nothing is left. */
  run(limit: number): Buffer | undefined {
    const { lengths, offsets, segments, count } = this.#columns;
    while (this.#row < count && this.#within === lengths[this.#row]) {
      this.#row++;
      this.#within = 0;
    }
    if (this.#row === count) return undefined;
    const segment = this.#segment(segments[this.#row]!);
    if (segment === undefined) return undefined;
    const { bytes } = segment;
    const length = Math.min(limit, lengths[this.#row]! - this.#within);
    return Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset + offsets[this.#row]! + this.#within, length);
  }

  /** `bytes` of the current piece are done. */
  advance(bytes: number): void {
    this.#within += bytes;
    this.left -= bytes;
  }

  /** `bytes` of the next pieces are done. */
  skip(bytes: number): void {
    const { lengths } = this.#columns;
    this.left -= bytes;
    let left = bytes;
    while (left > 0) {
      const rest = lengths[this.#row]! - this.#within;
      if (left < rest) {
        this.#within += left;
        return;
      }
      left -= rest;
      this.#row++;
      this.#within = 0;
    }
  }

  /** Adds the next pieces to `table`, up to `limit` bytes, without walking on. False: a segment is gone. */
  vectors(table: VectorTable, limit: number, io: VectorIo): boolean {
    const { lengths, offsets, segments, count } = this.#columns;
    let row = this.#row;
    let within = this.#within;
    let left = Math.min(limit, this.left);
    let known = -1;
    let base = 0;
    while (left > 0 && row < count && table.count < MAX_VECTORS - 1) {
      const length = Math.min(left, lengths[row]! - within);
      if (length > 0) {
        if (segments[row] !== known) {
          const segment = this.#segment(segments[row]!);
          if (segment === undefined) return false;
          known = segments[row]!;
          base = io.addressOf(segment.bytes);
        }
        table.add(base + offsets[row]! + within, length);
        left -= length;
      }
      row++;
      within = 0;
    }
    return true;
  }

  /** Copies `source` to the next bytes. False: a segment is gone. */
  scatter(source: Buffer): boolean {
    let at = 0;
    while (at < source.length) {
      const target = this.run(source.length - at);
      if (target === undefined) return false;
      target.set(source.subarray(at, at + target.length));
      this.advance(target.length);
      at += target.length;
    }
    return true;
  }

  /** The next `bytes` as views, or as one copy when pieces are tiny. Undefined: a segment is gone. */
  gather(bytes: number): Buffer[] | undefined {
    const copy = this.#averageBytes < GATHER_COPY_BYTES ? Buffer.allocUnsafe(bytes) : undefined;
    const views: Buffer[] = copy === undefined ? [] : [copy];
    let done = 0;
    while (done < bytes) {
      const piece = this.run(bytes - done);
      if (piece === undefined) return undefined;
      if (copy === undefined) views.push(piece);
      else copy.set(piece, done);
      this.advance(piece.length);
      done += piece.length;
    }
    return views;
  }
}
