import type { KvEvent } from '@armature/contracts';
import type { BlockPool } from '@armature/blocks';

const NO_PARENT = new Int32Array(0);

/** Numbers and emits the KV events of one engine. Evictions are gathered and leave before anything is stored. */
export class KvEventLog {
  #lastId = 0;
  #listener: ((event: KvEvent) => void) | undefined;
  #evicted: number[] = [];

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
  stored(parent: Int32Array, hashes: Int32Array): number {
    this.flushRemoved();
    this.#emit({ type: 'stored', eventId: ++this.#lastId, parent: parent.slice(), sequenceHashes: hashes.slice(), tier: 'device' });
    return this.#lastId;
  }

  cleared(): void {
    this.#evicted = [];
    this.#emit({ type: 'cleared', eventId: ++this.#lastId });
  }

  /** Events that rebuild the pool's current state, the last one with the last id given out. */
  snapshot(pool: BlockPool): KvEvent[] {
    this.flushRemoved();
    const events: KvEvent[] = [];
    pool.forEachRegistered((lo, hi, parentLo, parentHi) => {
      const parent = parentLo === 0 && parentHi === 0 ? NO_PARENT : Int32Array.of(parentLo, parentHi);
      events.push({ type: 'stored', eventId: 0, parent, sequenceHashes: Int32Array.of(lo, hi), tier: 'device' });
    });
    if (events.length === 0) return this.#lastId === 0 ? [] : [{ type: 'cleared', eventId: this.#lastId }];
    return events.map((event, i) => ({ ...event, eventId: this.#lastId - events.length + 1 + i }));
  }

  #emit(event: KvEvent): void {
    this.#listener?.(event);
  }
}
