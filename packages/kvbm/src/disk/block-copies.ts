import { TransferStatus } from '@armature/contracts';
import type { Clock, KvBlockMover, KvMemory, KvOperation } from '@armature/contracts';
import type { Slabs } from './slabs.ts';
import type { Throttle } from './throttle.ts';

export interface BlockCopiesOptions {
  readonly op: 'read' | 'write';
  readonly slabs: Slabs;
  readonly mover: KvBlockMover;
  readonly throttle: Throttle;
  readonly clock: Clock;
  readonly memory: KvMemory;
  /** Blocks of `memory`, and the slots they belong to, sorted by slot. */
  readonly blocks: Int32Array;
  readonly slots: Int32Array;
  /** On the clock. */
  readonly expiresAtMs: number;
  /** What became of rows `from` to `to`. */
  readonly ended: (from: number, to: number, status: TransferStatus) => void;
  /** Everything has ended. */
  readonly done: () => void;
}

/**
 * Blocks between memory and slabs: one copy per slab, in pieces where the disk is throttled. A copy that fails is done again block by block, so that one
 * bad place costs one block.
 */
export class BlockCopies implements KvOperation {
  readonly #options: BlockCopiesOptions;
  readonly #parts = new Set<KvOperation>();
  #running = 1;
  #isCanceled = false;

  constructor(options: BlockCopiesOptions) {
    this.#options = options;
  }

  /** Once. */
  start(): void {
    const { slots, slabs, throttle } = this.#options;
    const { slotsPerSlab, blockBytes } = slabs.geometry;
    const most = Math.max(1, Math.floor(Math.min(throttle.pieceBytes / blockBytes, 0x7fff_ffff)));
    for (let from = 0; from < slots.length; ) {
      const slab = Math.floor(slots[from]! / slotsPerSlab);
      let to = from + 1;
      while (to < slots.length && to - from < most && Math.floor(slots[to]! / slotsPerSlab) === slab) to++;
      this.#take(from, to);
      from = to;
    }
    this.#ended();
  }

  cancel(): void {
    this.#isCanceled = true;
    for (const part of [...this.#parts]) part.cancel();
  }

  #take(from: number, to: number): void {
    const { throttle, slabs, expiresAtMs } = this.#options;
    this.#running++;
    const wait: { turn?: KvOperation | undefined } = {};
    const part: KvOperation = {
      cancel: () => {
        wait.turn?.cancel();
        this.#parts.delete(part);
        this.#settle(from, to, TransferStatus.Canceled);
      },
    };
    this.#parts.add(part);
    const turn = throttle.take((to - from) * slabs.geometry.blockBytes, expiresAtMs, () => {
      this.#parts.delete(part);
      this.#copy(from, to, (status) => this.#settle(from, to, status));
    });
    if (turn === undefined) {
      this.#parts.delete(part);
      this.#settle(from, to, TransferStatus.TimedOut);
    } else wait.turn = turn;
  }

  #copy(from: number, to: number, done: (status: TransferStatus) => void): void {
    const { op, slabs, mover, clock, memory, blocks, slots, expiresAtMs } = this.#options;
    const leftMs = expiresAtMs - clock.nowMs();
    if (this.#isCanceled || leftMs <= 0) {
      done(this.#isCanceled ? TransferStatus.Canceled : TransferStatus.TimedOut);
      return;
    }
    const { slotsPerSlab } = slabs.geometry;
    const slab = Math.floor(slots[from]! / slotsPerSlab);
    const file = slabs.memory(slab, memory);
    const here = blocks.subarray(from, to);
    const there = slots.slice(from, to);
    for (let i = 0; i < there.length; i++) there[i]! -= slab * slotsPerSlab;
    let part: KvOperation | undefined;
    let isOver = false;
    const ended = (status: TransferStatus): void => {
      isOver = true;
      if (part !== undefined) this.#parts.delete(part);
      done(status);
    };
    part = op === 'read' ? mover.copy(file, there, memory, here, leftMs, ended) : mover.copy(memory, here, file, there, leftMs, ended);
    if (!isOver) this.#parts.add(part);
  }

  #settle(from: number, to: number, status: TransferStatus): void {
    if (to - from > 1 && isMediumFailure(status) && !this.#isCanceled) this.#oneByOne(from, to);
    else this.#options.ended(from, to, status);
    this.#ended();
  }

  /** One after the other: the medium is in trouble as it is. */
  #oneByOne(row: number, to: number): void {
    if (row === to) return;
    this.#running++;
    this.#copy(row, row + 1, (status) => {
      this.#options.ended(row, row + 1, status);
      this.#oneByOne(row + 1, to);
      this.#ended();
    });
  }

  #ended(): void {
    if (--this.#running === 0) this.#options.done();
  }
}

/** Not a matter of time, of load, of somebody's wish, or of memory that is not what it is said to be. */
export function isMediumFailure(status: TransferStatus): boolean {
  return status === TransferStatus.TransportError || status === TransferStatus.NotAllowed || status === TransferStatus.NotFound;
}
