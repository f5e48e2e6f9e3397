import { describe, expect, it, test } from 'vitest';
import { realClock } from '@armature/contracts/testing/real-clock';
import { transferTransportContract, transferTransportRules } from '@armature/contracts/testing/transfer-transport';
import { FakeNixl, recordingLogger } from './fake-nixl.test.support.ts';
import { NixlTransport } from './nixl-transport.ts';

// The suite over a library in memory; over the real one by `npm run test:nixl`.
function create(prepare: (nixl: FakeNixl) => void = () => undefined): () => NixlTransport {
  return () => {
    const nixl = new FakeNixl();
    prepare(nixl);
    return new NixlTransport({ clock: realClock, log: recordingLogger(), load: () => nixl, idlePollMs: 1, splitBytes: 1 << 20 });
  };
}

describe('nixl', () => transferTransportContract({ runner: { describe, it }, create: create() }));
describe('nixl, ends inside post', () => transferTransportContract({ runner: { describe, it }, seed: 5, create: create((nixl) => (nixl.looksPerRequest = 0)) }));

test('a flipped byte fails the suite', async () => {
  let pieces = 0;
  const flip = (bytes: Uint8Array): void => {
    if (bytes.length > 0 && ++pieces % 50 === 0) bytes[bytes.length >> 1]! ^= 1;
  };
  const rules = transferTransportRules({ create: create((nixl) => (nixl.tap = flip)) });
  const equality = rules.find((rule) => rule.name.includes('byte equality'))!;
  await expect(equality.run()).rejects.toThrow('bytes differ');
});
