import { engineBackendContract } from '@armature/contracts/testing/engine-backend';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { describe, it } from 'vitest';
import { createEngine } from './testing/engines.ts';

// The real engine in real time: its thread, its kernels, the demo model.
const { abilities } = await createEngine();

for (const tensorParallel of [1, 2, 4]) {
  describe(`tensorParallel ${tensorParallel}`, () => {
    engineBackendContract({
      runner: { describe, it },
      abilities,
      create: () => createEngine({ totalBlocks: 64, tensorParallel }), // few enough that blocks are evicted
      elapse: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
      hash: (tokenIds, blockSize, cacheSalt) => sequenceHashes(tokenIds, tokenIds.length, blockSize, saltHash({ cacheSalt })),
      seed: 5,
    });
  });
}
