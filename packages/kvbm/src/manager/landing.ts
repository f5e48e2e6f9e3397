import { TransferStatus } from '@armature/contracts';
import type { KvOperation } from '@armature/contracts';
import type { LoadOutcome } from './host-loads.ts';
import type { ManagerParts } from './parts.ts';

export interface LandingRows {
  readonly hashes: Int32Array;
  readonly from: number;
  readonly to: number;
  /** Of the reservation, by row. */
  readonly blocks: Int32Array;
  readonly deadlineMs: number;
}

/**
 * One batch from host memory to the reserved blocks of the device. The bytes are checked where they have landed when the arena can be read in place; else the host's are
 * checked before the copy. `copied` comes when no byte of the device changes any more; then `done`, once, with the leading rows that are right. After `cancel`
 * neither says anything about the rows, but `copied` still comes if the copy had begun.
 */
export class Landing implements KvOperation {
  readonly #parts: ManagerParts;
  readonly #rows: LandingRows;
  readonly #copied: () => void;
  readonly #done: (good: number, outcome: LoadOutcome) => void;
  readonly #hashes: Int32Array;
  readonly #pinned: Int32Array;
  readonly #expected: Int32Array;
  readonly #startMs: number;
  #copy: KvOperation | undefined = undefined;
  #good: number;
  #isCanceled = false;
  isCopying = false;

  constructor(parts: ManagerParts, rows: LandingRows, copied: () => void, done: (good: number, outcome: LoadOutcome) => void) {
    const { host, clock } = parts;
    const pinned = new Int32Array(rows.to - rows.from);
    this.#parts = parts;
    this.#rows = rows;
    this.#copied = copied;
    this.#done = done;
    this.#startMs = clock.nowMs();
    this.#pinned = pinned.subarray(0, host.store.acquire(rows.hashes, rows.from, pinned.length, pinned));
    this.#hashes = rows.hashes.slice(2 * rows.from, 2 * (rows.from + this.#pinned.length));
    this.#expected = new Int32Array(2 * this.#pinned.length);
    this.#good = this.#pinned.length;
    const record = new Int32Array(6);
    for (let i = 0; i < this.#pinned.length; i++) {
      host.store.record(this.#pinned[i], record);
      this.#expected.set(record.subarray(4, 6), 2 * i);
    }
  }

  start(): void {
    const { host, device } = this.#parts;
    if (this.#pinned.length === 0) return this.#done(0, 'missing');
    if (isInPlace(device)) return this.#move();
    const found = new Int32Array(2 * this.#pinned.length);
    this.#parts.checks.compute(host.store.memory, this.#pinned, this.#hashes, found, 'request', () => {
      this.#good = this.#judge(found);
      if (this.#good > 0 && !this.#isCanceled) return this.#move();
      this.#unpin();
      if (!this.#isCanceled) this.#done(0, 'corrupt');
    });
  }

  cancel(): void {
    this.#isCanceled = true;
    this.#copy?.cancel();
  }

  #move(): void {
    const { mover, hostPieces, device } = this.#parts;
    const { blocks, from, deadlineMs } = this.#rows;
    this.isCopying = true;
    this.#copy = mover.copy(hostPieces, this.#pinned.subarray(0, this.#good), device, blocks.subarray(from, from + this.#good), deadlineMs, (status) => this.#moved(status));
  }

  #moved(status: TransferStatus): void {
    const { device, checks } = this.#parts;
    this.isCopying = false;
    this.#unpin();
    this.#copied();
    if (this.#isCanceled) return;
    if (status !== TransferStatus.Done) return this.#done(0, status === TransferStatus.TimedOut ? 'late' : 'failed');
    if (!isInPlace(device)) return this.#landed();
    const { blocks, from } = this.#rows;
    const found = new Int32Array(2 * this.#good);
    checks.compute(device, blocks.slice(from, from + this.#good), this.#hashes, found, 'request', () => {
      // The engine may have the blocks again, and have written there.
      if (this.#isCanceled) return;
      this.#good = this.#judge(found);
      this.#landed();
    });
  }

  #landed(): void {
    const { costs, clock, blockBytes } = this.#parts;
    const { from, to } = this.#rows;
    const bytes = this.#good * blockBytes;
    if (this.#good > 0) {
      costs.host.begin(bytes);
      costs.host.end(bytes, this.#startMs, clock.nowMs(), 'done');
    }
    this.#done(this.#good, this.#good < this.#pinned.length ? 'corrupt' : this.#pinned.length < to - from ? 'missing' : 'done');
  }

  /** Leading rows that are right. Those that are not leave the host tier. */
  #judge(found: Int32Array): number {
    const { host, metrics, log } = this.#parts;
    let good = found.length >> 1;
    const bad: number[] = [];
    for (let row = good - 1; row >= 0; row--) {
      if (found[2 * row] === this.#expected[2 * row] && found[2 * row + 1] === this.#expected[2 * row + 1]) continue;
      bad.push(this.#hashes[2 * row], this.#hashes[2 * row + 1]);
      good = row;
    }
    if (bad.length > 0) {
      const blocks = bad.length / 2;
      host.store.remove(Int32Array.from(bad), blocks, 'corrupt');
      metrics.corrupt('host', blocks);
      log.warn('KV blocks in host memory were not what was stored: dropped, to be recomputed', { code: 'KVBM_BLOCK_CORRUPT', blocks });
    }
    return good;
  }

  #unpin(): void {
    this.#parts.host.store.release(this.#pinned, this.#pinned.length);
  }
}

function isInPlace({ wasm, bytes }: ManagerParts['device']): boolean {
  return wasm !== undefined && bytes !== undefined;
}
