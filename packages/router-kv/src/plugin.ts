import { definePlugin } from '@armature/contracts';
import { emptySchema, expectedWorkSchema, kvCostSchema, kvPolicySchema } from './config.ts';
import type { KvPolicyConfig } from './config.ts';
import { RequiredTaintsFilter } from './filters/required-taints.ts';
import { KvPolicy } from './kv-policy.ts';
import { SoftmaxPicker } from './pickers/softmax.ts';
import { ExpectedWorkScorer } from './scorers/expected-work.ts';
import type { ExpectedWorkWeights } from './scorers/expected-work.ts';
import { KvCostScorer } from './scorers/kv-cost.ts';
import type { KvCostWeights } from './scorers/kv-cost.ts';
import { LeastLoadedPolicy, PowerOfTwoPolicy, RandomPolicy, RoundRobinPolicy } from './simple-policies.ts';

export const kv = definePlugin<'router-policy', KvPolicyConfig>({
  kind: 'router-policy',
  contract: 'v1',
  name: 'kv',
  description: 'Sends a request where the least new work arises: uncached prefill plus decode load.',
  configSchema: kvPolicySchema,
  create: (config, context) => new KvPolicy(config, context),
});

/** Built-in pieces by name, for policies of others that are composed of pieces. */
export const softmax = definePlugin<'router-picker', { readonly temperature: number }>({
  kind: 'router-picker',
  contract: 'v1',
  name: 'softmax',
  description: 'The lowest cost, ties at random; with a temperature, a draw by softmax.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: { temperature: { type: 'number', minimum: 0, default: 0, description: '0 = lowest cost. Above: softmax over costs normalised to [0, 1].' } },
  },
  create: ({ temperature }, context) => new SoftmaxPicker(temperature, context.random),
});

export const kvCost = definePlugin<'router-scorer', KvCostWeights>({
  kind: 'router-scorer',
  contract: 'v1',
  name: 'kv-cost',
  description: 'Uncached prefill plus decode load, in blocks (Dynamo 1.6.1).',
  configSchema: kvCostSchema,
  create: (config) => new KvCostScorer(config),
});

export const expectedWork = definePlugin<'router-scorer', ExpectedWorkWeights>({
  kind: 'router-scorer',
  contract: 'v1',
  name: 'expected-work',
  description: 'What a request adds to the work of all, in blocks of prefill; the default cost of kv.',
  configSchema: expectedWorkSchema,
  create: (config) => new ExpectedWorkScorer(config),
});

export const requiredTaints = definePlugin<'router-filter', Record<string, never>>({
  kind: 'router-filter',
  contract: 'v1',
  name: 'required-taints',
  description: 'Only workers that carry every taint the request requires.',
  configSchema: emptySchema,
  create: () => new RequiredTaintsFilter(),
});

export const roundRobin = definePlugin<'router-policy', Record<string, never>>({
  kind: 'router-policy',
  contract: 'v1',
  name: 'round-robin',
  description: 'Workers take turns.',
  configSchema: emptySchema,
  create: () => new RoundRobinPolicy(),
});

export const random = definePlugin<'router-policy', Record<string, never>>({
  kind: 'router-policy',
  contract: 'v1',
  name: 'random',
  description: 'A uniformly random worker.',
  configSchema: emptySchema,
  create: (_config, context) => new RandomPolicy(context.random),
});

export const leastLoaded = definePlugin<'router-policy', Record<string, never>>({
  kind: 'router-policy',
  contract: 'v1',
  name: 'least-loaded',
  description: 'The worker with the fewest running requests, ties at random.',
  configSchema: emptySchema,
  create: () => new LeastLoadedPolicy(),
});

export const powerOfTwo = definePlugin<'router-policy', Record<string, never>>({
  kind: 'router-policy',
  contract: 'v1',
  name: 'power-of-two',
  description: 'The less loaded of two workers drawn at random.',
  configSchema: emptySchema,
  create: (_config, context) => new PowerOfTwoPolicy(context.random),
});
