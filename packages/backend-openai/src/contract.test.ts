import { engineBackendContract } from '@armature/contracts/testing/engine-backend';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { describe, it } from 'vitest';
import { likeArmature, likeOldVllm, likeVllm, textOnly } from './fake-openai.test.support.ts';
import type { Flavor } from './fake-openai.test.support.ts';
import { Bench } from './testing.test.support.ts';

// Every rule that applies to an engine without a kv face, with no skip, in each way of speaking to a server.
function contractOf(title: string, flavor: Flavor): void {
  describe(title, () => {
    const bench = new Bench(flavor);
    engineBackendContract({
      runner: { describe, it },
      abilities: { roles: ['both'], roleChange: 'none', firstToken: 'decode', legs: 'sequential', kvEvents: false, maxTopLogprobs: 20 },
      hasKv: false,
      create: () => bench.make({ maxSequences: 6 }),
      elapse: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
      hash: (tokenIds, blockSize, cacheSalt) => sequenceHashes(tokenIds, tokenIds.length, blockSize, saltHash({ cacheSalt })),
    });
  });
}

contractOf('token ids in and out', likeVllm);
contractOf('token ids named by logprobs', likeOldVllm);
contractOf('token ids in, text out', likeArmature);
contractOf('text in and out', { ...textOnly, ownedBy: 'armature' });
