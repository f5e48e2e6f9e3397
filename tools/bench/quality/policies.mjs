import { KvPolicy, LeastLoadedPolicy, PowerOfTwoPolicy, RandomPolicy, RoundRobinPolicy, kvPolicyDefaults } from '@armature/router-kv';

/** The policies compared, by name: context => RouterPolicy. */
export const policies = {
  kv: (context) => new KvPolicy(kvPolicyDefaults, context),
  'round-robin': () => new RoundRobinPolicy(),
  random: (context) => new RandomPolicy(context.random),
  'least-loaded': () => new LeastLoadedPolicy(),
  'power-of-two': (context) => new PowerOfTwoPolicy(context.random),
};
