import { definePlugin } from '@armature/contracts';
import { emptySchema, kvPolicySchema } from './config.ts';
import type { KvPolicyConfig } from './config.ts';
import { KvPolicy } from './kv-policy.ts';
import { LeastLoadedPolicy, PowerOfTwoPolicy, RandomPolicy, RoundRobinPolicy } from './simple-policies.ts';

export const kv = definePlugin<'router-policy', KvPolicyConfig>({
  kind: 'router-policy',
  contract: 'v1',
  name: 'kv',
  description: 'Sends a request where the least new work arises: uncached prefill plus decode load.',
  configSchema: kvPolicySchema,
  create: (config, context) => new KvPolicy(config, context),
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
