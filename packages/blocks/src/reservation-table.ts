import type { Clock, Timer } from '@armature/contracts';
import type { BlockPool } from './block-pool.ts';

/** Blocks set aside for a borrower that writes into them. */
export interface Reservation {
  readonly id: number;
  /** Leading blocks held already: referenced, not to be written. */
  readonly matchedBlocks: number;
  /** In order: the matched ones, then fresh ones. */
  readonly blocks: Int32Array;
  /** Hashes of the complete blocks, interleaved words. */
  readonly hashes: Int32Array;
  /** Tenant of the prompt. */
  readonly cacheSalt: string;
  /** Blocks already committed (registered), matched ones included. */
  committed: number;
  /** Out of use: a transfer may still be writing. Its time ran out, or its owner said so. */
  isQuarantined: boolean;
  timer: Timer | undefined;
}

export interface ReservationTableOptions {
  readonly clock: Clock;
  /** The time to live of a reservation is over: its owner should stop the transfer, then release. Nothing is freed. */
  readonly onExpired?: (id: number) => void;
}

/**
 * Destination blocks of transfers. They come back to the pool only by `release` or with the request that adopted them: never by
 * themselves, because a one-sided write may still be on its way. Both are for the owner to call once its transfer has ended.
 */
export class ReservationTable {
  readonly #pool: BlockPool;
  readonly #options: ReservationTableOptions;
  readonly #reservations = new Map<number, Reservation>();
  #nextId = 1;
  #expired = 0;

  constructor(pool: BlockPool, options: ReservationTableOptions) {
    this.#pool = pool;
    this.#options = options;
  }

  get size(): number {
    return this.#reservations.size;
  }

  /** Reservations whose time ran out before they were released or adopted. */
  get expired(): number {
    return this.#expired;
  }

  get quarantined(): number {
    let count = 0;
    for (const reservation of this.#reservations.values()) if (reservation.isQuarantined) count++;
    return count;
  }

  /** Undefined when there are not enough free blocks now; nothing is held then. */
  reserve(hashes: Int32Array, blocks: number, ttlMs: number, cacheSalt = ''): Reservation | undefined {
    const pool = this.#pool;
    const matched = pool.match(hashes, blocks);
    const all = new Int32Array(blocks);
    for (let i = 0; i < matched; i++) {
      all[i] = pool.find(hashes[2 * i], hashes[2 * i + 1]);
      pool.acquire(all[i]);
    }
    if (pool.freeBlocks < blocks - matched) {
      pool.releaseAll(all, matched);
      return undefined;
    }
    for (let i = matched; i < blocks; i++) all[i] = pool.allocate();
    const id = this.#nextId++;
    const timer = this.#options.clock.setTimer(ttlMs, () => this.#expire(id));
    this.#reservations.set(id, { id, matchedBlocks: matched, blocks: all, hashes: hashes.slice(), cacheSalt, committed: matched, isQuarantined: false, timer });
    return this.#reservations.get(id);
  }

  get(id: number): Reservation | undefined {
    return this.#reservations.get(id);
  }

  /** Hands the blocks, with their references, to a request. Undefined: no such reservation. */
  adopt(id: number): Reservation | undefined {
    return this.#take(id);
  }

  /** Marks the blocks as being written by a transfer nobody waits for. They stay out of use. */
  quarantine(id: number): void {
    const reservation = this.#reservations.get(id);
    if (reservation !== undefined) reservation.isQuarantined = true;
  }

  /** The transfer is over: the blocks go back. False: no such reservation. */
  release(id: number): boolean {
    const reservation = this.#take(id);
    if (reservation === undefined) return false;
    this.#pool.releaseAll(reservation.blocks, reservation.blocks.length);
    return true;
  }

  /** Stops all timers without freeing anything (the owner of the memory closes). */
  stop(): void {
    for (const reservation of this.#reservations.values()) this.#clearTimer(reservation);
  }

  #take(id: number): Reservation | undefined {
    const reservation = this.#reservations.get(id);
    if (reservation === undefined) return undefined;
    this.#reservations.delete(id);
    this.#clearTimer(reservation);
    return reservation;
  }

  #expire(id: number): void {
    const reservation = this.#reservations.get(id);
    if (reservation === undefined) return;
    reservation.timer = undefined;
    reservation.isQuarantined = true;
    this.#expired++;
    this.#options.onExpired?.(id);
  }

  #clearTimer(reservation: Reservation): void {
    if (reservation.timer !== undefined) this.#options.clock.clearTimer(reservation.timer);
    reservation.timer = undefined;
  }
}
