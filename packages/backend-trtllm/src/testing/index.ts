export { BlockCache } from './block-cache.ts';
export type { BlockCacheOptions } from './block-cache.ts';
export { SimulatedTrtllm } from './simulated-trtllm.ts';
export type { SimulatedCounters, SimulatedFault, SimulatedTrtllmOptions } from './simulated-trtllm.ts';
