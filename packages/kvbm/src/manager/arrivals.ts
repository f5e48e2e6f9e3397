import type { Clock, Timer } from '@armature/contracts';
import { U64Map } from '@armature/tokens';

/** Blocks that somebody is filling right now, by hash, and who waits for them. */
export class Arrivals {
  readonly #clock: Clock;
  readonly #byHash = new U64Map();
  readonly #waiters = new Map<number, Set<() => void>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  has(lo: number, hi: number): boolean {
    return this.#byHash.has(lo, hi);
  }

  /** Rows of one `id` (unique among those that have not ended). */
  begin(id: number, hashes: Int32Array): void {
    for (let row = 0; 2 * row < hashes.length; row++) this.#byHash.set(hashes[2 * row], hashes[2 * row + 1], id);
  }

  end(id: number, hashes: Int32Array): void {
    for (let row = 0; 2 * row < hashes.length; row++) this.#byHash.delete(hashes[2 * row], hashes[2 * row + 1]);
    const waiters = this.#waiters.get(id);
    this.#waiters.delete(id);
    for (const waiter of waiters ?? []) waiter();
  }

  /** `done` once, maybe before return: none of the rows is being filled any more, or the deadline has passed. */
  wait(hashes: Int32Array, from: number, to: number, deadlineMs: number, done: () => void): void {
    let timer: Timer | undefined = undefined;
    let waitingFor: Set<() => void> | undefined = undefined;
    const look = (): void => {
      const id = this.#first(hashes, from, to);
      if (id === -1) {
        if (timer !== undefined) this.#clock.clearTimer(timer);
        return done();
      }
      waitingFor = this.#waiters.get(id) ?? new Set();
      this.#waiters.set(id, waitingFor.add(look));
      timer ??= this.#clock.setTimer(deadlineMs, () => {
        waitingFor?.delete(look);
        done();
      });
    };
    look();
  }

  #first(hashes: Int32Array, from: number, to: number): number {
    if (this.#byHash.size === 0) return -1;
    for (let row = from; row < to; row++) if (this.#byHash.has(hashes[2 * row], hashes[2 * row + 1])) return this.#byHash.get(hashes[2 * row], hashes[2 * row + 1]);
    return -1;
  }
}
