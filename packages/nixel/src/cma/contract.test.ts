import { describe, it } from 'vitest';
import { transferTransportContract } from '@armature/contracts/testing/transfer-transport';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { CmaTransport } from './cma-transport.ts';

const create = (): CmaTransport => new CmaTransport({ clock: realClock, log: recordingLogger(), sameUserTrust: true });
const reason = create().unavailable();
if (reason === undefined) describe('cma', () => transferTransportContract({ runner: { describe, it }, create }));
else it.skip(`cma is not available here: ${reason}`, () => undefined);
