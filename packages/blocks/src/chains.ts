import type { BlockPool } from './block-pool.ts';

/**
 * The registered blocks as runs of consecutive blocks, each run after the one that holds its parent. Runs are as long as possible:
 * one per leaf of the prefix forest.
 */
export function registeredChains(pool: BlockPool): Int32Array[] {
  const hasChild = new Uint8Array(pool.totalBlocks);
  const isPlaced = new Uint8Array(pool.totalBlocks);
  const lineage = new Int32Array(4);
  for (let block = 0; block < pool.totalBlocks; block++) {
    const parent = parentOf(pool, block, lineage);
    if (parent !== -1) hasChild[parent] = 1;
  }
  const chains: Int32Array[] = [];
  for (let leaf = 0; leaf < pool.totalBlocks; leaf++) {
    if (!pool.isRegistered(leaf) || hasChild[leaf] === 1) continue;
    const path: number[] = [];
    for (let block = leaf; block !== -1 && isPlaced[block] === 0; block = parentOf(pool, block, lineage)) {
      isPlaced[block] = 1;
      path.push(block);
    }
    chains.push(Int32Array.from(path.reverse()));
  }
  return chains;
}

function parentOf(pool: BlockPool, block: number, lineage: Int32Array): number {
  if (!pool.isRegistered(block)) return -1;
  pool.lineage(block, lineage);
  return lineage[2] === 0 && lineage[3] === 0 ? -1 : pool.find(lineage[2], lineage[3]);
}
