import type { Counter, Metrics } from '@armature/contracts';
import type { ExecutionMetrics } from './execution-host.ts';

/** The counters of one model's requests. */
export function executionMetrics(metrics: Metrics, model: string): ExecutionMetrics {
  const counter = (name: string, help: string): Counter => metrics.counter({ name, help, labelNames: ['model'] }).with(model);
  const outcomes = metrics.counter({ name: 'armature_requests_total', help: 'Requests by outcome.', labelNames: ['model', 'outcome'] });
  return {
    finished: outcomes.with(model, 'finished'),
    failed: outcomes.with(model, 'failed'),
    cancelled: outcomes.with(model, 'cancelled'),
    remotePrefills: counter('armature_remote_prefills_total', 'Prompts computed by a prefill worker.'),
    localPrefills: counter('armature_local_prefills_total', 'Prompts of a disaggregated model computed by their decode worker.'),
    fallbacks: counter('armature_prefill_fallbacks_total', 'Prompts for which no prefill worker was ready.'),
    migrations: counter('armature_migrations_total', 'Requests moved to another worker.'),
    decodeReattached: counter('armature_decode_reattached_total', 'Decode workers replaced before they had the prompt, which was not computed again.'),
  };
}
