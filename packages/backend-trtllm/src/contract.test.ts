import { engineBackendContract } from '@armature/contracts/testing/engine-backend';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { SimulatedTrtllm } from './testing/index.ts';
import { make, simulated } from './testing.test.support.ts';

let server: SimulatedTrtllm;
beforeEach(async () => void (server = await simulated({ maxSeqLen: 512, totalBlocks: 200 })));
// The server forgets whom we leave: what runs there after a rule is a leak.
afterEach(() => expect.poll(() => [server.counters.running, server.counters.usedBlocks], { timeout: 10_000 }).toEqual([0, 0]));

// Every rule that applies to an engine without a kv face, with no skip, over HTTP. KV events and the two legs: trtllm-backend.test.ts.
engineBackendContract({
  runner: { describe, it },
  abilities: { roles: ['both', 'prefill', 'decode'], roleChange: 'none', firstToken: 'prefill', legs: 'sequential', kvEvents: false, maxTopLogprobs: 0 },
  hasKv: false,
  create: () => make(server),
  elapse: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  hash: (tokenIds, blockSize, cacheSalt) => sequenceHashes(tokenIds, tokenIds.length, blockSize, saltHash({ cacheSalt })),
});
