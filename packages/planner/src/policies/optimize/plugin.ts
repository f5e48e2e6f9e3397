import { definePlugin } from '@armature/contracts';
import { timingPriorSchema } from '../timing-book.ts';
import { OptimizePolicy } from './optimize-policy.ts';
import type { OptimizeConfig } from './optimize-policy.ts';

/** Searches next states in the fleet model under the operator's objective. */
export const optimizePolicy = definePlugin<'planner-policy', OptimizeConfig>({
  kind: 'planner-policy',
  contract: 'v1',
  name: 'optimize',
  description: 'Simulates many next states under the expected traffic and takes the best by the objective: cheapest that keeps the latencies, or most requests within the budget.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      horizonMs: { type: 'integer', minimum: 1_000, default: 120_000, description: 'How far a state is simulated, in milliseconds; at least twice the longest start-up of a pool.' },
      caution: { type: 'number', minimum: 0, maximum: 1, default: 0, description: 'Which load is planned for: 0 = the expected one, 1 = the upper end of the forecast.' },
      evaluations: { type: 'integer', minimum: 1, maximum: 1_000, default: 48, description: 'States simulated per tick at most.' },
      maxRequests: { type: 'integer', minimum: 100, maximum: 1_000_000, default: 5_000, description: 'Requests per simulation at most; the horizon is cut to so many.' },
      margin: { type: 'number', minimum: 0, maximum: 1, default: 0.02, description: 'Share by which a change must score better than no change.' },
      transferMs: { type: 'number', minimum: 0, default: 2, description: 'Milliseconds from the end of a remote prefill to the start of decode, per request.' },
      transferMsPerToken: { type: 'number', minimum: 0, default: 0.005, description: 'The same per prompt token.' },
      drainMs: { type: 'integer', minimum: 0, default: 30_000, description: 'How long a worker that leaves may go on with its requests, in milliseconds.' },
      hardware: { type: 'object', default: {}, additionalProperties: timingPriorSchema, description: 'What workers of each hardware profile can do until their passes have told; `default` for all others.' },
    },
  },
  create: (config, context) => new OptimizePolicy(config, context.random.fork('optimize')),
});
