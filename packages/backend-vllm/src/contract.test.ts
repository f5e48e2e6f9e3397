import { engineBackendContract } from '@armature/contracts/testing/engine-backend';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeEngine } from './fake-engine.test.support.ts';
import { make, server } from './testing.test.support.ts';

let engine: FakeEngine;
beforeEach(() => (engine = new FakeEngine(server)));
// The server forgets whom we leave: what runs there after a rule is a leak.
afterEach(() => expect.poll(() => [engine.running, engine.usedBlocks], { timeout: 10_000 }).toEqual([0, 0]));

// Every rule that applies to an engine without a kv face, with no skip, over HTTP. Following KV events needs sockets of its own: kv-events/.
engineBackendContract({
  runner: { describe, it },
  abilities: { roles: ['both', 'prefill', 'decode'], roleChange: 'none', firstToken: 'decode', legs: 'sequential', kvEvents: false, maxTopLogprobs: 20, responseFormats: ['json_object', 'json_schema'] },
  hasKv: false,
  create: () => make(),
  elapse: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  hash: (tokenIds, blockSize, cacheSalt) => sequenceHashes(tokenIds, tokenIds.length, blockSize, saltHash({ cacheSalt })),
});
