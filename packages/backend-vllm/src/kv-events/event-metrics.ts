import type { Metrics } from '@armature/contracts';
import type { EngineBlockCounts } from './engine-blocks.ts';
import type { EventStreamCounts } from './event-stream.ts';

/** Where the counts of one worker go. */
export interface EventMetricsTarget {
  readonly metrics: Metrics;
  readonly labels: readonly [model: string, pool: string];
}

/** Counts as counters, brought up to date at each scrape. Returns what ends it. */
export function exposeEvents({ metrics, labels }: EventMetricsTarget, read: () => EngineBlockCounts & EventStreamCounts): () => void {
  const family = metrics.counter({
    name: 'armature_vllm_kv_events_total',
    help: 'KV events of vLLM: messages and blocks as told, and what was lost, repeated, left out or not understood.',
    labelNames: ['model', 'pool', 'what'],
  });
  const told = new Map<string, number>();
  return metrics.onCollect(() => {
    for (const [name, count] of Object.entries(read())) {
      const before = told.get(name) ?? 0;
      if (count > before) family.with(...labels, snake(name)).inc(count - before);
      told.set(name, count);
    }
  });
}

function snake(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
