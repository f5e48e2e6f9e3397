import { KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch, KvStoreTier, KvTierStore } from '@armature/contracts';
import type { KvTierEvent } from './face.ts';

const NO_PARENT = new Int32Array(0);

/** Tells the worker's followers what the tiers hold: one event for each chain of blocks, in the tier it concerns. */
export class TierEvents {
  #listener: ((event: KvTierEvent) => void) | undefined = undefined;

  listen(listener: (event: KvTierEvent) => void): void {
    this.#listener = listener;
  }

  /** The rows of a batch that the tier took. */
  stored(tier: KvStoreTier, { count, hashes, parents, statuses }: KvBlockBatch): void {
    if (this.#listener === undefined) return;
    const chains = new Chains(tier);
    for (let row = 0; row < count; row++) {
      if (statuses[row] === KvBlockStatus.Done) chains.add(hashes[2 * row], hashes[2 * row + 1], parents[2 * row], parents[2 * row + 1]);
    }
    for (const event of chains.end()) this.#listener(event);
  }

  /** `hashes` is borrowed by the caller's caller: copied. */
  removed(tier: KvStoreTier, hashes: Int32Array, count: number): void {
    if (count > 0) this.#listener?.({ type: 'removed', sequenceHashes: hashes.slice(0, 2 * count), tier });
  }
}

/** What a tier holds, as events, parents first. */
export function tierSnapshot(store: KvTierStore): KvTierEvent[] {
  const chains = new Chains(store.tier);
  store.records((lo, hi, parentLo, parentHi) => chains.add(lo, hi, parentLo, parentHi));
  return chains.end();
}

/** Joins rows that follow each other. */
class Chains {
  readonly #tier: KvStoreTier;
  readonly #events: KvTierEvent[] = [];
  #parent: Int32Array = NO_PARENT;
  #words: number[] = [];

  constructor(tier: KvStoreTier) {
    this.#tier = tier;
  }

  add(lo: number, hi: number, parentLo: number, parentHi: number): void {
    const length = this.#words.length;
    if (length === 0 || this.#words[length - 2] !== parentLo || this.#words[length - 1] !== parentHi) {
      this.#close();
      this.#parent = parentLo === 0 && parentHi === 0 ? NO_PARENT : Int32Array.of(parentLo, parentHi);
    }
    this.#words.push(lo, hi);
  }

  end(): KvTierEvent[] {
    this.#close();
    return this.#events;
  }

  #close(): void {
    if (this.#words.length === 0) return;
    this.#events.push({ type: 'stored', parent: this.#parent, sequenceHashes: Int32Array.from(this.#words), tier: this.#tier });
    this.#words = [];
  }
}
