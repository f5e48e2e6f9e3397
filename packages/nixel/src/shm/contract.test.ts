import { describe, it } from 'vitest';
import { transferTransportContract } from '@armature/contracts/testing/transfer-transport';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { suiteSharedMemory } from './shared-suite.test.support.ts';
import { ShmTransport } from './shm-transport.ts';

const reason = new ShmTransport({ clock: realClock, log: recordingLogger() }).unavailable();
if (reason === undefined) {
  describe('shm', () => transferTransportContract({ runner: { describe, it }, allocate: suiteSharedMemory(), create: () => new ShmTransport({ clock: realClock, log: recordingLogger(), token: 'secret' }) }));
  describe('shm, nothing inline, short turns', () =>
    transferTransportContract({
      runner: { describe, it },
      seed: 91,
      allocate: suiteSharedMemory(),
      create: () => new ShmTransport({ clock: realClock, log: recordingLogger(), inlineBytes: 0, turnBudgetMs: 0.05 }),
    }));
} else it.skip(`shm is not available here: ${reason}`, () => undefined);
