// @hot
import { TransferStatus } from '@armature/contracts';
import type { Clock, KvMemory, KvOperation } from '@armature/contracts';

/** Memory the CPU can touch. */
export type ByteMemory = KvMemory & { readonly bytes: Uint8Array };

export function isByteMemory(memory: KvMemory): memory is ByteMemory {
  return memory.bytes !== undefined;
}

/** One copy between two byte memories, and how far it is. */
export class TurnCopy implements KvOperation {
  readonly from: ByteMemory;
  readonly fromBlocks: Int32Array;
  readonly to: ByteMemory;
  readonly toBlocks: Int32Array;
  readonly expiresAtMs: number;
  readonly done: (status: TransferStatus) => void;
  /** Next byte: row, piece of its block, offset in the piece. */
  row: number;
  piece: number;
  offset: number;
  isCanceled: boolean;

  constructor(copy: Pick<TurnCopy, 'from' | 'fromBlocks' | 'to' | 'toBlocks' | 'expiresAtMs' | 'done'>) {
    this.from = copy.from;
    this.fromBlocks = copy.fromBlocks;
    this.to = copy.to;
    this.toBlocks = copy.toBlocks;
    this.expiresAtMs = copy.expiresAtMs;
    this.done = copy.done;
    this.row = 0;
    this.piece = 0;
    this.offset = 0;
    this.isCanceled = false;
  }

  /** Takes effect before the next bytes move. */
  cancel(): void {
    this.isCanceled = true;
  }
}

/**
 * Copies between memories of this process, first come first served, at most `turnBytes` in one turn of the event loop over all copies together:
 * a batch never holds the loop for longer than that takes (1 MiB: about 0.1 ms). What fits in the rest of the turn ends before return.
 */
export class TurnCopies {
  readonly #clock: Clock;
  readonly #turnBytes: number;
  readonly #queue: TurnCopy[] = [];
  #left: number;
  #isDeferred: boolean;
  #isRunning: boolean;
  #turns: number;

  constructor(clock: Clock, turnBytes: number) {
    this.#clock = clock;
    this.#turnBytes = turnBytes;
    this.#left = turnBytes;
    this.#isDeferred = false;
    this.#isRunning = false;
    this.#turns = 0;
  }

  /** Copies that have not ended. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** Turns of the event loop in which bytes were moved. */
  get turns(): number {
    return this.#turns;
  }

  uses(segment: number): boolean {
    return this.#queue.some(({ from, to }) => from.segment === segment || to.segment === segment);
  }

  add(copy: TurnCopy): void {
    this.#queue.push(copy);
    this.#run();
  }

  cancelAll(): void {
    for (const copy of this.#queue) copy.isCanceled = true;
  }

  /** `done` may add copies: they wait for this loop, so that their order holds and the stack stays flat. */
  #run(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    while (this.#queue.length > 0 && this.#left > 0) {
      const copy = this.#queue[0];
      if (!this.#isDeferred) {
        this.#isDeferred = true;
        this.#turns++;
        this.#clock.defer(() => this.#nextTurn());
      }
      const refused = this.#refusal(copy);
      if (refused === TransferStatus.Done) {
        this.#left -= copyBytes(copy, this.#left);
        if (copy.row < copy.fromBlocks.length) break;
      }
      this.#queue.shift();
      copy.done(refused);
    }
    this.#isRunning = false;
  }

  #nextTurn(): void {
    this.#isDeferred = false;
    this.#left = this.#turnBytes;
    this.#run();
  }

  #refusal(copy: TurnCopy): TransferStatus {
    if (copy.isCanceled) return TransferStatus.Canceled;
    return this.#clock.nowMs() >= copy.expiresAtMs ? TransferStatus.TimedOut : TransferStatus.Done;
  }
}

/** Moves at most `limit` bytes on; returns how many. A block whose pieces lie without gaps on both sides is one run. */
function copyBytes(copy: TurnCopy, limit: number): number {
  const { from, fromBlocks, to, toBlocks } = copy;
  const isWhole = isGapless(from) && isGapless(to);
  const pieces = isWhole ? 1 : from.pieces;
  const pieceBytes = isWhole ? from.pieceBytes * from.pieces : from.pieceBytes;
  let left = limit;
  while (copy.row < fromBlocks.length && left > 0) {
    const at = fromBlocks[copy.row] * from.blockStrideBytes + copy.piece * from.pieceStrideBytes + copy.offset;
    const target = toBlocks[copy.row] * to.blockStrideBytes + copy.piece * to.pieceStrideBytes + copy.offset;
    const bytes = Math.min(pieceBytes - copy.offset, left);
    to.bytes.set(from.bytes.subarray(at, at + bytes), target);
    left -= bytes;
    copy.offset += bytes;
    if (copy.offset < pieceBytes) break;
    copy.offset = 0;
    if (++copy.piece < pieces) continue;
    copy.piece = 0;
    copy.row++;
  }
  return limit - left;
}

function isGapless({ pieces, pieceBytes, pieceStrideBytes }: KvMemory): boolean {
  return pieces === 1 || pieceStrideBytes === pieceBytes;
}
