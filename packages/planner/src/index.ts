export { optimizePolicy } from './policies/optimize/plugin.ts';
export { OptimizePolicy } from './policies/optimize/optimize-policy.ts';
export type { OptimizeConfig } from './policies/optimize/optimize-policy.ts';
export { defaultTimingPrior, TimingBook, timingPriorSchema } from './policies/timing-book.ts';
export type { KnownWorker, TimingPrior } from './policies/timing-book.ts';
export { FleetGround, rewardOf } from './ground/fleet-ground.ts';
export type { EpisodeResult, GroundOptions, GroundPool, GroundStep } from './ground/fleet-ground.ts';
