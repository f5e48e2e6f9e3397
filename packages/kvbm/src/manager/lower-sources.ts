import type { KvBlockBatch, KvOperation, KvTierStore } from '@armature/contracts';
import type { BlockSource } from './host-loads.ts';
import type { ManagerParts } from './parts.ts';
import type { SourceCost } from './source-cost.ts';

/** A tier below the host, as a source of blocks. */
export class TierSource implements BlockSource {
  readonly name: 'disk' | 'object';
  readonly cost: SourceCost;
  readonly store: KvTierStore;

  constructor(name: 'disk' | 'object', store: KvTierStore, cost: SourceCost) {
    this.name = name;
    this.store = store;
    this.cost = cost;
  }

  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation {
    return this.store.load(batch, deadlineMs, done);
  }

  corrupt(hashes: Int32Array, count: number): void {
    this.store.remove(hashes, count, 'corrupt');
  }
}

/** The tiers below the host, fastest first. */
export class LowerSources {
  readonly all: readonly TierSource[];

  constructor({ lower, costs }: Pick<ManagerParts, 'lower' | 'costs'>) {
    this.all = lower.map(({ store }) => {
      const name = store.tier === 'object' ? 'object' : 'disk';
      return new TierSource(name, store, costs[name]);
    });
  }

  /** The first tier that holds the row and answers, and how many from it on. Undefined: none. */
  best(hashes: Int32Array, from: number): { readonly source: TierSource; readonly blocks: number } | undefined {
    for (const source of this.all) {
      if (source.cost.isStuck) continue;
      const blocks = source.store.match(hashes, from);
      if (blocks > 0) return { source, blocks };
    }
    return undefined;
  }
}
