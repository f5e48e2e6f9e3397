import { describe, it } from 'vitest';
import { realClock } from '@armature/contracts/testing/real-clock';
import { transferTransportContract } from '@armature/contracts/testing/transfer-transport';
import { NixlTransport } from './nixl-transport.ts';
import { recordingLogger } from './fake-nixl.test.support.ts';

// The contract suite over the real library: UCX as it chooses itself, and with UCX's own thread off. One open costs a quarter of a second.
const create = (progressThread: boolean) => (): NixlTransport => new NixlTransport({ clock: realClock, log: recordingLogger(), progressThread });

/** The key of a released segment dies at its owner; a reader that has not heard of it yet is served by software emulation (tcp, shared memory) all the same. */
const skip = [{ rule: 'failure: a released segment is not found', reason: 'a one-sided read may pass the notice of the release; see README, limits' }];

describe('nixl (real)', () => transferTransportContract({ runner: { describe, it }, create: create(true), opens: 20, skip }));
describe('nixl (real), no progress thread', () => transferTransportContract({ runner: { describe, it }, seed: 91, create: create(false), opens: 5, skip }));
