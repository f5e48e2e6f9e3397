import { expectedWork, kv, kvCost, leastLoaded, powerOfTwo, random, requiredTaints, roundRobin, softmax } from './plugin.ts';

export { ActiveBlocks } from './load/active-blocks.ts';
export type { ActiveBlocksOptions } from './load/active-blocks.ts';
export { OverlapColumns } from './overlap.ts';
export { kvPolicyDefaults } from './config.ts';
export type { KvPolicyConfig } from './config.ts';
export { KvIndex } from './kv-index.ts';
export { KvPolicy } from './kv-policy.ts';
export { Rescorer } from './rescore.ts';
export type { RecordedDecision, Rescored } from './rescore.ts';
export { kvPolicySchema } from './config.ts';
export { PipelinePolicy } from './pipeline/pipeline-policy.ts';
export type { PipelineOptions, WeightedScorer } from './pipeline/pipeline-policy.ts';
export { RecentShares } from './load/recent-shares.ts';
export { ExpectedWorkScorer, expectedWorkDefaults } from './scorers/expected-work.ts';
export type { ExpectedWorkWeights } from './scorers/expected-work.ts';
export { KvCostScorer, kvCostDefaults } from './scorers/kv-cost.ts';
export type { KvCostWeights } from './scorers/kv-cost.ts';
export { LeastLoadedPolicy, PowerOfTwoPolicy, RandomPolicy, RoundRobinPolicy } from './simple-policies.ts';
export { kv, leastLoaded, powerOfTwo, random, roundRobin };

/** All plug-ins of this package. */
export const routerPlugins = [kv, roundRobin, random, leastLoaded, powerOfTwo, expectedWork, kvCost, softmax, requiredTaints] as const;
