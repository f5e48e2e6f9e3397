import { definePlugin } from '@armature/contracts';
import type { Clock, KvMemory, KvMemoryLayout, KvTierBackend, KvTierHost, KvTierStats, KvTierStore, PluginDescriptor } from '@armature/contracts';
import { HostStore } from '@armature/kvbm';
import { MediumStore } from './medium-store.ts';
import { Wire } from './network.ts';
import type { LinkModel } from './network.ts';
import type { TierModels } from './settings.ts';

export type SimulatedTierName = 'host' | 'disk';

export interface SimulatedTierConfig {
  readonly tier: SimulatedTierName;
  /** Blocks of one worker. */
  readonly blocks: number;
}

/** What the tiers of one kind did, over all workers that ever had one. */
export interface TierSummary extends KvTierStats {
  readonly tier: SimulatedTierName;
}

const HOLDINGS = ['capacityBlocks', 'heldBlocks', 'pinnedBlocks'] as const;
const DEEDS = ['stores', 'duplicates', 'refusals', 'loads', 'misses', 'evictions', 'failures', 'dropped'] as const;

function nothing(): Record<keyof KvTierStats, number> {
  return { capacityBlocks: 0, heldBlocks: 0, pinnedBlocks: 0, stores: 0, duplicates: 0, refusals: 0, loads: 0, misses: 0, evictions: 0, failures: 0, dropped: 0 };
}

/** The disk of one worker: operations one after the other at its bandwidth, and what a fault makes of it. */
export class Medium {
  readonly #wire: Wire;
  readonly #latencyMs: number;
  readonly #bytesPerBlock: number;
  /** Operations fail. */
  isBroken = false;
  /** So many times as long. */
  slowdown = 1;

  constructor(clock: Clock, link: LinkModel, bytesPerBlock: number) {
    this.#wire = new Wire(clock, link);
    this.#latencyMs = link.latencyMs;
    this.#bytesPerBlock = bytesPerBlock;
  }

  /** Milliseconds from now until so many blocks have passed. */
  takes(blocks: number): number {
    return this.#wire.takes(blocks * this.#bytesPerBlock * this.slowdown) + (this.slowdown - 1) * this.#latencyMs;
  }
}

export interface SimulatedTiersOptions {
  readonly clock: Clock;
  readonly models: TierModels;
  /** Real bytes of one block of `MODEL/POOL/INDEX`. */
  readonly bytesPerBlock: (worker: string) => number;
}

/**
 * KV tiers of simulated workers: kvbm's own store (block table, order of eviction, quotas, pins) over blocks of the mock engine's size, one byte. The host's blocks move through the
 * worker's transfer agent, as late as the host link makes it; the disk's bytes are not kept, only its time.
 */
export class SimulatedTiers {
  readonly #options: SimulatedTiersOptions;
  readonly #disks = new Map<string, Medium>();
  /** By worker and tier: the store of its latest life. */
  readonly #stores = new Map<string, KvTierStore>();
  /** What earlier lives did. */
  readonly #past: KvTierStore[] = [];

  constructor(options: SimulatedTiersOptions) {
    this.#options = options;
  }

  /** Undefined: the worker has none. */
  disk(worker: string): Medium | undefined {
    return this.#disks.get(worker);
  }

  summary(): TierSummary[] {
    const sums = new Map<SimulatedTierName, Record<keyof KvTierStats, number>>();
    const add = (store: KvTierStore, names: readonly (keyof KvTierStats)[]): void => {
      const tier = store.tier as SimulatedTierName;
      const stats = store.stats();
      const sum = sums.get(tier) ?? nothing();
      for (const name of names) sum[name] += stats[name];
      sums.set(tier, sum);
    };
    for (const store of this.#stores.values()) add(store, [...HOLDINGS, ...DEEDS]);
    for (const store of this.#past) add(store, DEEDS);
    return [...sums].map(([tier, sum]) => Object.assign({ tier }, sum));
  }

  /** The plug-in behind the tiers of a simulated `kvbm` section. */
  plugin(): PluginDescriptor {
    return definePlugin<'kv-tier', SimulatedTierConfig>({
      kind: 'kv-tier',
      contract: 'v1',
      name: 'simulated',
      description: 'A tier of a simulated worker.',
      configSchema: {
        type: 'object',
        additionalProperties: false,
        required: ['tier', 'blocks'],
        properties: { tier: { enum: ['host', 'disk'], description: 'Which.' }, blocks: { type: 'integer', minimum: 1, description: 'Blocks of one worker.' } },
      },
      facts: ({ tier, blocks }) => ({ tier, capacityBytes: blocks }),
      create: ({ tier, blocks }): KvTierBackend => ({ tier, capacityBytes: () => blocks, open: (host) => Promise.resolve(this.#open(tier, blocks, host)) }),
    }) as unknown as PluginDescriptor;
  }

  #open(tier: SimulatedTierName, blocks: number, host: KvTierHost): KvTierStore {
    const store = tier === 'host' ? hostStore(blocks, host) : new MediumStore({ host, blocks, medium: this.#medium(host.worker) });
    const key = `${host.worker} ${tier}`;
    const last = this.#stores.get(key);
    if (last !== undefined) this.#past.push(last);
    this.#stores.set(key, store);
    return store;
  }

  /** A process that is started again has the disk of the one before, as fast and as broken; what was on it is not found again. */
  #medium(worker: string): Medium {
    const { clock, models, bytesPerBlock } = this.#options;
    let medium = this.#disks.get(worker);
    if (medium === undefined) this.#disks.set(worker, (medium = new Medium(clock, models.disk, bytesPerBlock(worker))));
    return medium;
  }
}

/** Its memory is out of the CPU's reach, so that the transfer agent moves its blocks and not a `memcpy` that takes no virtual time. */
function hostStore(blocks: number, host: KvTierHost): HostStore {
  const { blockBytes, mover } = host;
  const layout: KvMemoryLayout = { blocks, blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes };
  const bytes = new Uint8Array(new SharedArrayBuffer(blocks * blockBytes));
  const memory: KvMemory = { ...mover.registerMemory({ bytes }, layout), bytes: undefined };
  return new HostStore(host, { memory, location: undefined, close: () => mover.deregister(memory) });
}
