import type { Counter, Family, Gauge, Histogram, KvTier, Metrics, MetricSpec } from '@armature/contracts';
import type { BlockManagerStats, KvFetchRun, KvFetchSource } from './face.ts';

const SECONDS = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30];

/** The same families for every worker of the process; labelled by model and pool. Workers of one pool add up. */
export class ManagerMetrics {
  readonly #labels: readonly [string, string];
  readonly #hits: Family<Counter>;
  readonly #bytes: Family<Counter>;
  readonly #seconds: Family<Histogram>;
  readonly #evictions: Family<Counter>;
  readonly #corrupt: Family<Counter>;
  readonly #offloaded: Family<Counter>;
  readonly #dropped: Family<Counter>;
  readonly #fetches: Family<Counter>;
  readonly #prefetched: Family<Counter>;
  readonly #wait: Histogram;
  readonly #misses: Counter;
  readonly #unregister: () => void;
  #corruptBlocks = 0;

  constructor(metrics: Metrics, labels: readonly [string, string], stats: () => BlockManagerStats | undefined) {
    const family = (name: string, help: string, ...more: string[]): MetricSpec => ({ name: `armature_kvbm_${name}`, help, labelNames: ['model', 'pool', ...more] });
    this.#labels = labels;
    this.#hits = metrics.counter(family('hit_blocks_total', 'Prompt blocks that requests found in a tier and used.', 'tier'));
    this.#misses = metrics.counter(family('miss_blocks_total', 'Complete prompt blocks that were recomputed.')).with(...labels);
    this.#bytes = metrics.counter(family('bytes_total', 'Bytes moved by the medium of a tier.', 'tier', 'direction'));
    this.#seconds = metrics.histogram({ ...family('operation_seconds', 'How long the medium of a tier took for one operation.', 'tier', 'direction'), buckets: SECONDS });
    this.#evictions = metrics.counter(family('evicted_blocks_total', 'Blocks that a tier gave up for others.', 'tier'));
    this.#corrupt = metrics.counter(family('verification_failures_total', 'Blocks whose bytes were not what was stored; dropped and recomputed.', 'tier'));
    this.#offloaded = metrics.counter(family('offloaded_blocks_total', 'Blocks copied down into a tier.', 'tier'));
    this.#dropped = metrics.counter(family('offloads_dropped_total', 'Blocks that were to be copied down and were not.', 'reason'));
    this.#fetches = metrics.counter(family('fetch_runs_total', 'Runs of prompt blocks by source and outcome of fetch-or-recompute.', 'source', 'outcome'));
    this.#prefetched = metrics.counter(family('prefetched_blocks_total', 'Blocks brought from a tier to host memory before their request was fetched for.', 'tier'));
    this.#wait = metrics.histogram({ ...family('fetch_wait_seconds', 'How long requests waited for blocks.'), buckets: SECONDS }).with(...labels);
    const shares = new Map<string, Share>();
    const gauge = (name: string, help: string): ((tier: string, value: number) => void) => {
      const gauges = metrics.gauge(family(name, help, 'tier'));
      return (tier, value) => {
        const key = `${name} ${tier}`;
        const share = shares.get(key) ?? new Share(gauges.with(...labels, tier));
        shares.set(key, share);
        share.set(value);
      };
    };
    const held = gauge('held_blocks', 'Blocks that a tier holds.');
    const pinned = gauge('pinned_blocks', 'Blocks that running operations and leases keep in a tier.');
    const capacity = gauge('capacity_blocks', 'Blocks that a tier has room for.');
    const queued = new Share(metrics.gauge(family('queued_offload_blocks', 'Blocks that wait to be copied down.')).with(...labels));
    const forget = metrics.onCollect(() => {
      const now = stats();
      if (now === undefined) return;
      const { tiers, queuedOffloads } = now;
      queued.set(queuedOffloads);
      for (const { tier, heldBlocks, pinnedBlocks, capacityBlocks } of tiers) {
        held(tier, heldBlocks);
        pinned(tier, pinnedBlocks);
        capacity(tier, capacityBlocks);
      }
    });
    this.#unregister = () => {
      forget();
      for (const share of [queued, ...shares.values()]) share.set(0);
    };
  }

  /** Verification failures of this manager, all tiers together. */
  get corruptBlocks(): number {
    return this.#corruptBlocks;
  }

  hits(tier: KvTier | 'peer', blocks: number): void {
    if (blocks > 0) this.#hits.with(...this.#labels, tier).inc(blocks);
  }

  misses(blocks: number): void {
    if (blocks > 0) this.#misses.inc(blocks);
  }

  moved(tier: KvTier | 'peer', direction: 'store' | 'load', bytes: number, milliseconds: number): void {
    this.#bytes.with(...this.#labels, tier, direction).inc(bytes);
    this.#seconds.with(...this.#labels, tier, direction).observe(milliseconds / 1000);
  }

  evicted(tier: KvTier, blocks: number): void {
    this.#evictions.with(...this.#labels, tier).inc(blocks);
  }

  corrupt(tier: KvTier | 'peer', blocks: number): void {
    this.#corruptBlocks += blocks;
    this.#corrupt.with(...this.#labels, tier).inc(blocks);
  }

  offloaded(tier: KvTier, blocks: number): void {
    this.#offloaded.with(...this.#labels, tier).inc(blocks);
  }

  dropped(reason: 'overflow' | 'gone' | 'refused' | 'failed', blocks: number): void {
    if (blocks > 0) this.#dropped.with(...this.#labels, reason).inc(blocks);
  }

  run(source: KvFetchSource, outcome: KvFetchRun['outcome']): void {
    this.#fetches.with(...this.#labels, source, outcome).inc();
  }

  prefetched(tier: KvTier | 'peer', blocks: number): void {
    this.#prefetched.with(...this.#labels, tier).inc(blocks);
  }

  waited(milliseconds: number): void {
    this.#wait.observe(milliseconds / 1000);
  }

  close(): void {
    this.#unregister();
  }
}

/** One worker's part of a gauge that the workers of a pool have together. */
class Share {
  readonly #gauge: Gauge;
  #value = 0;

  constructor(gauge: Gauge) {
    this.#gauge = gauge;
  }

  set(value: number): void {
    this.#gauge.add(value - this.#value);
    this.#value = value;
  }
}
