import type { Clock, KvRecordVisitor, KvRemovalReason } from '@armature/contracts';
import { Known, KnownBlocks } from './known-blocks.ts';
import type { Segment } from './segment.ts';

export interface ObjectIndexOptions {
  readonly capacity: number;
  readonly ttlMs: number;
  readonly clock: Clock;
  readonly removed: (hashes: Int32Array, count: number, reason: KvRemovalReason) => void;
}

const SWEEP_ROWS = 16_384;

/** The known blocks with their rules: what is believed for how long, what makes room, who is told when something goes. */
export class ObjectIndex {
  readonly blocks: KnownBlocks;
  readonly #options: ObjectIndexOptions;
  readonly #one: Int32Array;
  #sweptTo: number;
  evictions: number;

  constructor(options: ObjectIndexOptions) {
    this.blocks = new KnownBlocks(options.capacity);
    this.#options = options;
    this.#one = new Int32Array(2);
    this.#sweptTo = 0;
    this.evictions = 0;
  }

  /** The row of a block that can be loaded, -1 when there is none or it was confirmed too long ago. */
  live(lo: number, hi: number): number {
    const row = this.blocks.find(lo, hi);
    return row === -1 || this.#isExpired(row) ? -1 : row;
  }

  /** Makes room if needed; -1 when every row is pending. */
  add(hashes: Int32Array, parents: Int32Array, at: number, flags: number): number {
    const { blocks } = this;
    const [lo, hi] = [hashes[at * 2]!, hashes[at * 2 + 1]!];
    const old = blocks.find(lo, hi);
    if (old !== -1) {
      // Expired and stored again: who was told of it must hear of its end.
      if (blocks.has(old, Known.Announced)) flags |= Known.Announced;
      blocks.remove(old);
    }
    if (blocks.isFull) {
      const victim = blocks.victim();
      if (victim === -1) return -1;
      this.evictions++;
      this.drop(victim, 'evicted');
    }
    const row = blocks.add(lo, hi, parents[at * 2]!, parents[at * 2 + 1]!, flags);
    blocks.confirm(row, this.#options.clock.nowMs());
    return row;
  }

  /** A walk found rows `row` to `row + count` of `hashes` in the object that begins with `row`. */
  learn(hashes: Int32Array, row: number, count: number): void {
    const nowMs = this.#options.clock.nowMs();
    const parents = new Int32Array(2);
    for (let i = 0; i < count; i++) {
      const at = row + i;
      let known = this.blocks.find(hashes[at * 2]!, hashes[at * 2 + 1]!);
      if (known !== -1 && this.blocks.has(known, Known.Pending)) continue;
      if (known === -1) {
        parents[0] = at === 0 ? 0 : hashes[at * 2 - 2]!;
        parents[1] = at === 0 ? 0 : hashes[at * 2 - 1]!;
        known = this.add(hashes.subarray(at * 2, at * 2 + 2), parents, 0, 0);
        if (known === -1) return;
      }
      this.blocks.place(known, hashes[row * 2]!, hashes[row * 2 + 1]!, i);
      this.blocks.confirm(known, nowMs);
    }
  }

  /** Block `index` of the segment is block `index - from` of a written object. */
  written(segment: Segment, index: number, from: number): void {
    const row = this.blocks.find(segment.hashes[index * 2]!, segment.hashes[index * 2 + 1]!);
    if (row === -1) return;
    this.blocks.unmark(row, Known.Pending);
    this.blocks.place(row, segment.hashes[from * 2]!, segment.hashes[from * 2 + 1]!, index - from);
    this.blocks.mark(row, Known.Announced);
    this.blocks.confirm(row, this.#options.clock.nowMs());
  }

  announce(lo: number, hi: number): void {
    const row = this.blocks.find(lo, hi);
    if (row !== -1) this.blocks.mark(row, Known.Announced);
  }

  /** Tells who was told that it is held. */
  drop(row: number, reason: KvRemovalReason): void {
    const { blocks } = this;
    const isAnnounced = blocks.has(row, Known.Announced);
    this.#one[0] = blocks.lo(row);
    this.#one[1] = blocks.hi(row);
    blocks.remove(row);
    if (isAnnounced) this.#options.removed(this.#one, 1, reason);
  }

  /** Looks at the next rows for expired ones; all of them in `capacity / 16,384` calls. */
  sweep(): void {
    const { blocks } = this;
    const from = this.#sweptTo;
    this.#sweptTo = from + SWEEP_ROWS >= blocks.capacity ? 0 : from + SWEEP_ROWS;
    blocks.slice(from, from + SWEEP_ROWS, (row) => {
      if (this.#isExpired(row)) this.drop(row, 'expired');
    });
  }

  records(visit: KvRecordVisitor): void {
    const { blocks } = this;
    blocks.forEach((row) => {
      if (this.#isExpired(row)) return;
      blocks.mark(row, Known.Announced);
      visit(blocks.lo(row), blocks.hi(row), blocks.parentLo(row), blocks.parentHi(row));
    });
  }

  #isExpired(row: number): boolean {
    return !this.blocks.has(row, Known.Pending) && this.blocks.ageMs(row, this.#options.clock.nowMs()) > this.#options.ttlMs;
  }
}
