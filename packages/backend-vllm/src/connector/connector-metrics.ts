import type { Metrics } from '@armature/contracts';
import type { ConnectorCounts } from './stats.ts';

export interface ConnectorMetricsOptions {
  readonly metrics: Metrics;
  readonly labels: readonly [model: string, pool: string];
  readonly counts: ConnectorCounts;
  readonly isConnected: () => boolean;
}

/** Shows the counts of a connector. Workers of one pool add up. Returns what ends it. */
export function exportCounts({ metrics, labels, counts, isConnected }: ConnectorMetricsOptions): () => void {
  const labelNames = ['model', 'pool'];
  const blocks = metrics.counter({ name: 'armature_vllm_connector_blocks_total', help: 'KV blocks by what vLLM did with the host tier: matched, pulled (by source), saved, failed to load.', labelNames: [...labelNames, 'event'] });
  const faults = metrics.counter({ name: 'armature_vllm_connector_faults_total', help: "Refused connections of vLLM's connector, and leases and reservations that ended without its word.", labelNames: [...labelNames, 'fault'] });
  const connected = metrics.gauge({ name: 'armature_vllm_connector_connected', help: "Workers whose vLLM's connector is connected.", labelNames }).with(...labels);
  const shown = new Map<string, number>();
  let wasConnected = 0;
  const show = (family: typeof blocks, name: string, total: number): void => {
    const before = shown.get(name) ?? 0;
    if (total > before) family.with(...labels, name).inc(total - before);
    shown.set(name, total);
  };
  const collect = (isUp: boolean): void => {
    show(blocks, 'matched', counts.matchedBlocks);
    for (const [source, count] of Object.entries(counts.pulled)) show(blocks, `pulled_${source}`, count);
    show(blocks, 'saved', counts.keptBlocks);
    show(blocks, 'failed', counts.failedBlocks);
    show(faults, 'refused_connection', counts.refusedLinks);
    show(faults, 'expired_lease', counts.expiredLeases);
    show(faults, 'abandoned_lease', counts.abandonedLeases);
    show(faults, 'abandoned_reservation', counts.abandonedReservations);
    connected.add((isUp ? 1 : 0) - wasConnected);
    wasConnected = isUp ? 1 : 0;
  };
  const unregister = metrics.onCollect(() => collect(isConnected()));
  return () => {
    collect(false);
    unregister();
  };
}
