import type { KvBlockStatus } from '@armature/contracts';
import type { S3Body } from './exchange.ts';
import { encodeChain, RECORD_BYTES, writeRecord } from './format.ts';

/** Learns what became of one row of a `store`. */
export interface RowWaiter {
  settle(row: number, status: KvBlockStatus): void;
  readonly isCanceled: boolean;
}

/** Consecutive blocks of one chain that will be one object. */
export class Segment {
  readonly capacity: number;
  /** Interleaved words. */
  readonly hashes: Int32Array;
  readonly parents: Int32Array;
  readonly checksums: Int32Array;
  /** Content: the caller's memory, or (`isKept`) this tier's copy. */
  readonly bytes: Uint8Array[];
  readonly #waiters: (RowWaiter | undefined)[];
  readonly #rows: Int32Array;
  readonly #isKept: boolean[];
  readonly startedMs: number;
  count: number;
  /** `open`: takes more blocks. `closed`: waits to be written, or is being written. */
  state: 'open' | 'closed';
  newestMs: number;

  constructor(capacity: number, nowMs: number) {
    this.capacity = capacity;
    this.hashes = new Int32Array(capacity * 2);
    this.parents = new Int32Array(capacity * 2);
    this.checksums = new Int32Array(capacity * 2);
    this.bytes = [];
    this.#waiters = [];
    this.#rows = new Int32Array(capacity);
    this.#isKept = [];
    this.startedMs = nowMs;
    this.count = 0;
    this.state = 'open';
    this.newestMs = nowMs;
  }

  append(columns: { readonly hashes: Int32Array; readonly parents: Int32Array; readonly checksums: Int32Array }, row: number, bytes: Uint8Array, waiter: RowWaiter): void {
    const at = this.count++;
    for (const name of ['hashes', 'parents', 'checksums'] as const) {
      this[name][at * 2] = columns[name][row * 2]!;
      this[name][at * 2 + 1] = columns[name][row * 2 + 1]!;
    }
    this.bytes.push(bytes);
    this.#isKept.push(false);
    this.#waiters.push(waiter);
    this.#rows[at] = row;
  }

  /** In this tier's memory, no longer in the caller's. */
  isKept(index: number): boolean {
    return this.#isKept[index]!;
  }

  keep(index: number, copy: Uint8Array): void {
    this.bytes[index] = copy;
    this.#isKept[index] = true;
  }

  /** Tells who waits for the row, if anybody still does. */
  settle(index: number, status: KvBlockStatus): void {
    const waiter = this.#waiters[index];
    this.#waiters[index] = undefined;
    waiter?.settle(this.#rows[index]!, status);
  }

  /** Nothing of it was accepted yet and all who wait have cancelled. */
  get isAbandoned(): boolean {
    return this.#waiters.every((waiter) => waiter !== undefined && waiter.isCanceled);
  }

  /** The object of blocks `from` and on. */
  body(from: number, blockBytes: number, fingerprint: Uint8Array): S3Body {
    const { hashes, parents, checksums, bytes, count } = this;
    return {
      lengthBytes: (count - from) * (RECORD_BYTES + blockBytes),
      *chunks() {
        for (let i = from; i < count; i++) {
          const [w, v] = [i * 2, i * 2 + 1];
          yield writeRecord(
            { blockBytes, index: i - from, count: count - from, lo: hashes[w]!, hi: hashes[v]!, parentLo: parents[w]!, parentHi: parents[v]!, checksumLo: checksums[w]!, checksumHi: checksums[v]! },
            fingerprint,
          );
          yield bytes[i]!;
        }
      },
    };
  }

  chain(from: number): string {
    return encodeChain(this.hashes.subarray(from * 2, this.count * 2));
  }
}
