export { ActiveBlocks } from './load/active-blocks.ts';
export type { ActiveBlocksOptions } from './load/active-blocks.ts';
