import { KvPolicy, LeastLoadedPolicy, PowerOfTwoPolicy, RandomPolicy, RoundRobinPolicy, kvPolicyDefaults } from '@armature/router-kv';

/** Policies that know nothing of caches: what a KV-aware one must not lose to. */
export const simplePolicies = ['round-robin', 'random', 'least-loaded', 'power-of-two'];

/** The policies compared, by name: context => RouterPolicy. */
export const policies = {
  'expected-work': (context) => new KvPolicy(kvPolicyDefaults, context),
  /** Dynamo 1.6.1's cost with its defaults. */
  'kv-cost': (context) => new KvPolicy({ ...kvPolicyDefaults, cost: 'kv-cost', predictSeconds: 0 }, context),
  'round-robin': () => new RoundRobinPolicy(),
  random: (context) => new RandomPolicy(context.random),
  'least-loaded': () => new LeastLoadedPolicy(),
  'power-of-two': (context) => new PowerOfTwoPolicy(context.random),
};
