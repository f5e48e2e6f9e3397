import { engineBackendContract } from '@armature/contracts/testing/engine-backend';
import { describe, it } from 'vitest';
import { MockWorld } from './testing.test.support.ts';

function contractOf(title: string, world: MockWorld, seed: number): void {
  describe(title, () => {
    engineBackendContract({
      runner: { describe, it },
      abilities: world.create().abilities,
      create: () => world.create(),
      elapse: (ms) => world.elapse(ms),
      hash: (tokenIds, blockSize, cacheSalt) => world.hash(tokenIds, blockSize, cacheSalt),
      seed,
    });
  });
}

contractOf('timed passes', new MockWorld(), 1);
contractOf('infinitely fast', new MockWorld({ speedup: 0 }), 2);
contractOf('the decode worker samples the first token', new MockWorld({ firstToken: 'decode' }), 3);
contractOf('crowded: few blocks, tiny passes', new MockWorld({ totalBlocks: 48, maxBatchedTokens: 8, maxSequences: 4 }), 4);
