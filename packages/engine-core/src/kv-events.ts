import type { KvEvent, Logger } from '@armature/contracts';
import { registeredChains } from '@armature/blocks';
import type { BlockPool } from '@armature/blocks';

const NO_PARENT = new Int32Array(0);

/** Numbers and emits the KV events of one engine. Evictions are gathered and leave before anything is stored. */
export class KvEventLog {
  readonly #log: Logger;
  #lastId: number;
  #listener: ((event: KvEvent) => void) | undefined;
  #evicted: number[];

  constructor(log: Logger) {
    this.#log = log;
    this.#lastId = 0;
    this.#listener = undefined;
    this.#evicted = [];
  }

  get lastId(): number {
    return this.#lastId;
  }

  listen(listener: (event: KvEvent) => void): void {
    this.#listener = listener;
  }

  evicted(lo: number, hi: number): void {
    this.#evicted.push(lo, hi);
  }

  /** Emits what was evicted since the last call. */
  flushRemoved(): void {
    if (this.#evicted.length === 0) return;
    const sequenceHashes = Int32Array.from(this.#evicted);
    this.#evicted = [];
    this.#emit({ type: 'removed', eventId: ++this.#lastId, sequenceHashes, tier: 'device' });
  }

  /** Consecutive blocks of one chain; `hashes` and `parent` are interleaved words, copied. */
  stored(parent: Int32Array, hashes: Int32Array, cacheSalt: string): number {
    this.flushRemoved();
    const event = { type: 'stored', eventId: ++this.#lastId, parent: parent.slice(), sequenceHashes: hashes.slice(), tier: 'device' } as const;
    this.#emit(cacheSalt === '' ? event : { ...event, cacheSalt });
    return this.#lastId;
  }

  /**
   * Events that rebuild the pool's current state, parents first; the last one has the last id given out. There are no more chains than
   * stored events unless parents went before children; ids never fall below 1, so that a follower then ignores the surplus.
   */
  snapshot(pool: BlockPool): KvEvent[] {
    this.flushRemoved();
    const chains = registeredChains(pool);
    if (chains.length === 0) return this.#lastId === 0 ? [] : [{ type: 'cleared', eventId: this.#lastId }];
    const first = this.#lastId - chains.length + 1;
    const lineage = new Int32Array(4);
    return chains.map((blocks, at) => {
      const sequenceHashes = new Int32Array(2 * blocks.length);
      let parent = NO_PARENT;
      for (let i = 0; i < blocks.length; i++) {
        pool.lineage(blocks[i], lineage);
        if (i === 0 && (lineage[2] !== 0 || lineage[3] !== 0)) parent = lineage.slice(2);
        sequenceHashes[2 * i] = lineage[0];
        sequenceHashes[2 * i + 1] = lineage[1];
      }
      return { type: 'stored', eventId: Math.max(1, first + at), parent, sequenceHashes, tier: 'device' };
    });
  }

  #emit(event: KvEvent): void {
    try {
      this.#listener?.(event);
    } catch (error) {
      this.#log.error('the listener of KV events threw', { code: 'ENGINE_LISTENER_FAILED', event: event.eventId, error: String(error) });
    }
  }
}
