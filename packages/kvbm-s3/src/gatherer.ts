import { U64Map } from '@armature/tokens';
import type { Clock, KvBlockBatch } from '@armature/contracts';
import { Generations } from './generations.ts';
import { Segment } from './segment.ts';
import type { RowWaiter } from './segment.ts';

export interface GathererOptions {
  readonly blocksPerObject: number;
  /** Blocks of incomplete segments kept here. */
  readonly stagedBlocks: number;
  readonly blockBytes: number;
  readonly clock: Clock;
  /** Takes a segment that is complete, too old or in the way. It gives its staged blocks back by `release`. */
  readonly write: (segment: Segment) => void;
}

const POSITIONS = 65_536;
const SLICE_BYTES = 1 << 20;
const WORDS_ZERO = (lo: number, hi: number): boolean => lo === 0 && hi === 0;

/**
 * Puts rows together to segments: runs of one chain, cut where the position in the chain is a multiple of `blocksPerObject`, so that workers that do not know
 * of each other cut alike. A row whose position is not known begins a segment of its own. Incomplete segments are copied into bounded memory, and the callers get
 * their blocks back at once.
 */
export class Gatherer {
  readonly #options: GathererOptions;
  readonly #positions: Generations;
  /** Open segments by the hash of their last block. */
  readonly #tails: U64Map;
  readonly #open: Map<number, Segment>;
  readonly #free: Uint8Array[];
  readonly #toStage: Segment[];
  #stagedBlocks: number;
  #nextId: number;
  #isPumping: boolean;
  /** Rows whose place in their chain was not known. */
  unplaced: number;

  constructor(options: GathererOptions) {
    this.#options = options;
    this.#positions = new Generations(POSITIONS);
    this.#tails = new U64Map();
    this.#open = new Map();
    this.#free = [];
    this.#toStage = [];
    this.#stagedBlocks = 0;
    this.#nextId = 0;
    this.#isPumping = false;
    this.unplaced = 0;
  }

  get openSegments(): number {
    return this.#open.size;
  }

  get stagedBlocks(): number {
    return this.#stagedBlocks;
  }

  /** Somebody said where in its chain this block is. */
  learn(lo: number, hi: number, position: number): void {
    this.#positions.set(lo, hi, position);
  }

  /** The segment that the row is now part of. Call `settleIn` after the last row of a batch. */
  add(batch: KvBlockBatch, row: number, bytes: Uint8Array, waiter: RowWaiter): Segment {
    const [lo, hi] = [batch.hashes[row * 2]!, batch.hashes[row * 2 + 1]!];
    const [parentLo, parentHi] = [batch.parents[row * 2]!, batch.parents[row * 2 + 1]!];
    const { blocksPerObject, clock } = this.#options;
    const position = this.#position(lo, hi, parentLo, parentHi);
    let id = position % blocksPerObject === 0 ? -1 : this.#tails.get(parentLo, parentHi);
    let segment = this.#open.get(id);
    if (segment === undefined) {
      id = this.#nextId++;
      segment = new Segment(blocksPerObject, clock.nowMs());
      this.#open.set(id, segment);
    } else this.#tails.delete(parentLo, parentHi);
    segment.append(batch, row, bytes, waiter);
    segment.newestMs = clock.nowMs();
    if (segment.count === blocksPerObject || (position >= 0 && (position + 1) % blocksPerObject === 0)) this.#close(id, segment);
    else this.#tails.set(lo, hi, id);
    return segment;
  }

  /** Incomplete segments let go of the caller's memory: a copy, or, without room for one, a shorter object. */
  settleIn(touched: Iterable<Segment>): void {
    for (const segment of touched) if (segment.state === 'open') this.#toStage.push(segment);
    if (!this.#isPumping) this.#pump();
  }

  /** Staged blocks of a segment that was written. */
  release(segment: Segment): void {
    for (let i = 0; i < segment.count; i++) if (segment.isKept(i)) this.#giveBack(segment.bytes[i]!);
  }

  /** Writes what has had no new block for `idleMs`, or waits for longer than eight times that. */
  flush(idleMs: number): void {
    const nowMs = this.#options.clock.nowMs();
    for (const [id, segment] of this.#open) {
      if (nowMs - segment.newestMs >= idleMs || nowMs - segment.startedMs >= idleMs * 8) this.#close(id, segment);
    }
  }

  #position(lo: number, hi: number, parentLo: number, parentHi: number): number {
    const before = WORDS_ZERO(parentLo, parentHi) ? -1 : this.#positions.get(parentLo, parentHi);
    if (before === -1 && !WORDS_ZERO(parentLo, parentHi)) {
      const own = this.#positions.get(lo, hi);
      if (own === -1) this.unplaced++;
      return own;
    }
    this.#positions.set(lo, hi, before + 1);
    return before + 1;
  }

  #close(id: number, segment: Segment): void {
    const last = (segment.count - 1) * 2;
    this.#open.delete(id);
    // Absent when the segment was completed by its newest row.
    if (this.#tails.get(segment.hashes[last]!, segment.hashes[last + 1]!) === id) this.#tails.delete(segment.hashes[last]!, segment.hashes[last + 1]!);
    segment.state = 'closed';
    this.#options.write(segment);
  }

  /** Copies at most 1 MiB, or one block, per turn of the event loop. */
  #pump(): void {
    let budget = SLICE_BYTES;
    for (let segment = this.#toStage[0]; segment !== undefined; segment = this.#toStage[0]) {
      for (let i = 0; i < segment.count && segment.state === 'open'; i++) {
        if (segment.isKept(i)) continue;
        if (budget <= 0) {
          this.#isPumping = true;
          return void this.#options.clock.defer(() => this.#pump());
        }
        budget -= this.#options.blockBytes;
        this.#stage(segment, i);
      }
      this.#toStage.shift();
    }
    this.#isPumping = false;
  }

  #stage(segment: Segment, index: number): void {
    if (this.#stagedBlocks >= this.#options.stagedBlocks) {
      // No room: the object is shorter, its caller waits for it.
      for (const [id, other] of this.#open) if (other === segment) return this.#close(id, segment);
      return;
    }
    this.#stagedBlocks++;
    const copy = this.#free.pop() ?? new Uint8Array(this.#options.blockBytes);
    copy.set(segment.bytes[index]!);
    segment.keep(index, copy);
    segment.settle(index, 0);
  }

  #giveBack(copy: Uint8Array): void {
    this.#stagedBlocks--;
    this.#free.push(copy);
  }
}
