import type { BlockPool } from '@armature/blocks';
import type { KvEventLog } from './kv-events.ts';

const NO_PARENT = new Int32Array(0);

/** A run of blocks from the start of a prompt: a sequence, or a reservation. */
export interface BlockChain {
  readonly blocks: Int32Array;
  /** Of the complete blocks, interleaved words. */
  readonly hashes: Int32Array;
  /** Tenant of the prompt. */
  readonly cacheSalt: string;
}

/** Makes complete blocks matchable and announces them. */
export class PrefixRegistry {
  readonly #pool: BlockPool;
  readonly #events: KvEventLog;

  constructor(pool: BlockPool, events: KvEventLog) {
    this.#pool = pool;
    this.#events = events;
  }

  /**
   * Registers blocks `from` to `to` of a chain; returns the id of the last event, 0 without one. Hashes that are known already are not
   * announced again.
   */
  register(chain: BlockChain, from: number, to: number): number {
    const { blocks, hashes } = chain;
    let eventId = 0;
    let start = from;
    for (let i = from; i < to; i++) {
      const parentLo = i === 0 ? 0 : hashes[2 * i - 2];
      const parentHi = i === 0 ? 0 : hashes[2 * i - 1];
      if (this.#pool.register(blocks[i], hashes[2 * i], hashes[2 * i + 1], parentLo, parentHi)) continue;
      eventId = this.#announce(chain, start, i) || eventId;
      start = i + 1;
    }
    return this.#announce(chain, start, to) || eventId;
  }

  /**
   * Replaces second copies by the registered block of the same hash; the copies go back to the pool. So a sequence holds the registered
   * block of every complete block before its last, and parents are never evicted before their children.
   */
  share({ blocks, hashes }: BlockChain, from: number, to: number): void {
    for (let i = from; i < to; i++) {
      const first = this.#pool.find(hashes[2 * i], hashes[2 * i + 1]);
      if (first === -1 || first === blocks[i]) continue;
      this.#pool.acquire(first);
      this.#pool.release(blocks[i]);
      blocks[i] = first;
    }
  }

  #announce({ hashes, cacheSalt }: BlockChain, from: number, to: number): number {
    if (to <= from) return 0;
    const parent = from === 0 ? NO_PARENT : hashes.subarray(2 * from - 2, 2 * from);
    return this.#events.stored(parent, hashes.subarray(2 * from, 2 * to), cacheSalt);
  }
}
