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
  /** Blocks already committed (registered), matched ones included. */
  committed: number;
  isQuarantined: boolean;
}

/**
 * Destination blocks of transfers. They come back to the pool only by `release` or with the request that adopted them: never by
 * themselves, because a one-sided write may still be on its way.
 */
export class ReservationTable {
  readonly #pool: BlockPool;
  readonly #reservations = new Map<number, Reservation>();
  #nextId = 1;

  constructor(pool: BlockPool) {
    this.#pool = pool;
  }

  get size(): number {
    return this.#reservations.size;
  }

  get quarantined(): number {
    let count = 0;
    for (const reservation of this.#reservations.values()) if (reservation.isQuarantined) count++;
    return count;
  }

  /** Undefined when there are not enough free blocks now; nothing is held then. */
  reserve(hashes: Int32Array, blocks: number): Reservation | undefined {
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
    const reservation: Reservation = { id: this.#nextId++, matchedBlocks: matched, blocks: all, hashes, committed: matched, isQuarantined: false };
    this.#reservations.set(reservation.id, reservation);
    return reservation;
  }

  get(id: number): Reservation | undefined {
    return this.#reservations.get(id);
  }

  /** Hands the blocks, with their references, to a request. */
  adopt(id: number): Reservation | undefined {
    const reservation = this.#reservations.get(id);
    if (reservation === undefined || reservation.isQuarantined) return undefined;
    this.#reservations.delete(id);
    return reservation;
  }

  quarantine(id: number): void {
    const reservation = this.#reservations.get(id);
    if (reservation !== undefined) reservation.isQuarantined = true;
  }

  /** The transfer is over: quarantined blocks may be adopted again. */
  lift(id: number): void {
    const reservation = this.#reservations.get(id);
    if (reservation !== undefined) reservation.isQuarantined = false;
  }

  release(id: number): void {
    const reservation = this.#reservations.get(id);
    if (reservation === undefined) return;
    this.#reservations.delete(id);
    this.#pool.releaseAll(reservation.blocks, reservation.blocks.length);
  }

  clear(): void {
    for (const id of this.#reservations.keys()) this.release(id);
  }
}
