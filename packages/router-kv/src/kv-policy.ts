import type { PluginContext, RouterScorer } from '@armature/contracts';
import type { KvPolicyConfig } from './config.ts';
import { KvFacts } from './facts/kv-facts.ts';
import { RequiredTaintsFilter } from './filters/required-taints.ts';
import { SoftmaxPicker } from './pickers/softmax.ts';
import { PipelinePolicy } from './pipeline/pipeline-policy.ts';
import type { PipelineOptions } from './pipeline/pipeline-policy.ts';
import { ExpectedWorkScorer } from './scorers/expected-work.ts';
import { KvCostScorer } from './scorers/kv-cost.ts';
import { SessionScorer } from './scorers/session.ts';
import { PreferredTaintsScorer } from './scorers/taints.ts';

const LOG_INTERVAL_MS = 10_000;

/** What the policy uses of its context. */
export type KvPolicyContext = Pick<PluginContext, 'clock' | 'random' | 'log' | 'metrics' | 'path' | 'instance'>;

/** Sends a request where the least new work arises: prefill not covered by cached KV, plus decode load. A composition of the built-in pieces. */
export class KvPolicy extends PipelinePolicy {
  constructor(config: KvPolicyConfig, context: KvPolicyContext) {
    super(compose(config, context));
  }
}

/** Pieces the configuration adds come after the built-in ones; preferred taints scale what all scorers before them said. */
function compose(config: KvPolicyConfig, context: KvPolicyContext): PipelineOptions {
  const builtin = (scorer: RouterScorer): PipelineOptions['scorers'][number] => ({ scorer, weight: 1 });
  const failures = context.metrics.counter({
    name: 'armature_router_piece_failures_total',
    help: 'Decisions from which a filter or scorer was left out because it threw or wrote NaN.',
    labelNames: ['router', 'piece'],
  });
  const loggedAtMs = new Map<string, number>();
  return {
    name: 'kv',
    facts: new KvFacts(config, context),
    filters: [new RequiredTaintsFilter(), ...config.filters.map((slot) => context.instance(slot))],
    scorers: [
      builtin(config.cost === 'kv-cost' ? new KvCostScorer(config) : new ExpectedWorkScorer(config)),
      ...config.scorers.map(({ scorer, weight }) => ({ scorer: context.instance(scorer), weight })),
      builtin(new SessionScorer()),
      builtin(new PreferredTaintsScorer()),
    ],
    picker: config.picker === undefined ? new SoftmaxPicker(config.temperature, context.random) : context.instance(config.picker),
    failed: (piece, reason) => {
      failures.with(context.path, piece).inc();
      // A piece that fails does so with every request: one line per interval, the counter has them all.
      const nowMs = context.clock.nowMs();
      if (nowMs - (loggedAtMs.get(piece) ?? Number.NEGATIVE_INFINITY) < LOG_INTERVAL_MS) return;
      loggedAtMs.set(piece, nowMs);
      context.log.error('a piece of the router policy failed and was left out of a decision', { code: 'ROUTER_PIECE_FAILED', piece, reason, next: `not logged again for ${LOG_INTERVAL_MS / 1000} s; see armature_router_piece_failures_total` });
    },
  };
}
