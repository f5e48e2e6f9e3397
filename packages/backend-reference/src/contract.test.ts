import { engineBackendContract } from '@armature/contracts/testing/engine-backend';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { describe, it } from 'vitest';
import { createEngine } from './testing/engines.ts';

// The real engine in real time: its thread, its kernels, the demo model.
const { abilities } = await createEngine();

engineBackendContract({
  runner: { describe, it },
  abilities,
  create: () => createEngine({ totalBlocks: 64 }), // few enough that blocks are evicted
  elapse: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  hash: (tokenIds, blockSize, cacheSalt) => sequenceHashes(tokenIds, tokenIds.length, blockSize, saltHash({ cacheSalt })),
  seed: 5,
});
