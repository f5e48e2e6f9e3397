import type { Clock, Timer } from '@armature/contracts';
import type { BlockPool } from './block-pool.ts';

/** How a lease keeps its blocks: `filling` blocks of a request at work, `cached` ones by use, `held` ones without counting as use. */
type LeaseKind = 'filling' | 'cached' | 'held';

interface Lease {
  readonly blocks: Int32Array;
  readonly kind: LeaseKind;
  timer: Timer | undefined;
}

/**
 * Blocks pinned for a borrower that reads them from elsewhere. The owner keeps the pins until the lease is released or expires on the
 * owner's clock; `release` tells the borrower which of the two came first.
 */
export class LeaseTable {
  readonly #pool: BlockPool;
  readonly #clock: Clock;
  readonly #onFreed: () => void;
  readonly #leases = new Map<number, Lease>();
  #nextId = 1;
  #expired = 0;

  /** `onFreed` is called after a lease's pins are gone. */
  constructor(pool: BlockPool, clock: Clock, onFreed: () => void = () => undefined) {
    this.#pool = pool;
    this.#clock = clock;
    this.#onFreed = onFreed;
  }

  get size(): number {
    return this.#leases.size;
  }

  /** Leases that ended without a release. */
  get expired(): number {
    return this.#expired;
  }

  /** A lease over blocks that are being filled. Takes a reference on each; expires only after `arm`. */
  grant(blocks: Int32Array): number {
    return this.#add(blocks, 'filling');
  }

  /**
   * A lease over registered blocks; its time begins now. Without `isUse` they keep their place in the order of eviction. It is valid as long as the
   * blocks stay in the prefix cache: one that turned out wrong meanwhile must not be used.
   */
  lend(blocks: Int32Array, ttlMs: number, isUse: boolean): number {
    const id = this.#add(blocks, isUse ? 'cached' : 'held');
    this.renew(id, ttlMs);
    return id;
  }

  /** The lease's time begins. */
  arm(id: number, ttlMs: number): void {
    this.renew(id, ttlMs);
  }

  /** False: expired or unknown. */
  renew(id: number, ttlMs: number): boolean {
    const lease = this.#leases.get(id);
    if (lease === undefined) return false;
    if (lease.timer !== undefined) this.#clock.clearTimer(lease.timer);
    lease.timer = this.#clock.setTimer(ttlMs, () => {
      this.#expired++;
      this.#end(id);
    });
    return true;
  }

  release(id: number): 'valid' | 'expired' {
    const lease = this.#leases.get(id);
    const isIntact = lease !== undefined && (lease.kind === 'filling' || lease.blocks.every((block) => this.#pool.isRegistered(block)));
    return this.#end(id) && isIntact ? 'valid' : 'expired';
  }

  /** Ends every lease (the owner closes). */
  clear(): void {
    for (const id of this.#leases.keys()) this.#end(id);
  }

  #add(blocks: Int32Array, kind: LeaseKind): number {
    for (let i = 0; i < blocks.length; i++) {
      if (kind === 'held') this.#pool.hold(blocks[i]);
      else this.#pool.acquire(blocks[i]);
    }
    const id = this.#nextId++;
    this.#leases.set(id, { blocks, kind, timer: undefined });
    return id;
  }

  #end(id: number): boolean {
    const lease = this.#leases.get(id);
    if (lease === undefined) return false;
    this.#leases.delete(id);
    if (lease.timer !== undefined) this.#clock.clearTimer(lease.timer);
    if (lease.kind === 'held') for (const block of lease.blocks) this.#pool.unhold(block);
    else this.#pool.releaseAll(lease.blocks, lease.blocks.length);
    this.#onFreed();
    return true;
  }
}
