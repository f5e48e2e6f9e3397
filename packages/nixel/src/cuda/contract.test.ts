import { afterEach, describe, expect, it, test } from 'vitest';
import { transferTransportContract, transferTransportRules } from '@armature/contracts/testing/transfer-transport';
import type { AllocateMemory } from '@armature/contracts/testing/transfer-transport';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { CudaTransport } from './cuda-transport.ts';
import type { CudaTransportConfig } from './cuda-transport.ts';
import { allocateDeviceMemory } from './device-memory.ts';
import { FakeDriver, FakeGpus } from './fake-driver.test.support.ts';
import { CudaRuntime } from './runtime.ts';

// The suite over GPUs in memory. Owners' memory is always on a GPU; the initiator's in turns on it and on the host.

const drivers: FakeDriver[] = [];

/** Whatever the rule did, nothing is held afterwards. */
afterEach(() => {
  for (const driver of drivers.splice(0)) {
    const { contexts, streams, events, pins, imports, allocations } = driver.counts;
    expect({ contexts, streams, events, pins, imports, allocations }).toEqual({ contexts: 0, streams: 0, events: 0, pins: 0, imports: 0, allocations: 0 });
  }
});

function suite(options: CudaTransportConfig & { hasBatch?: boolean; prepare?: (driver: FakeDriver) => void } = {}): { create: () => CudaTransport; allocate: AllocateMemory } {
  let runtime: CudaRuntime;
  let count = 0;
  return {
    create: () => {
      const driver = new FakeDriver(new FakeGpus(1), { batch: options.hasBatch ?? true });
      drivers.push(driver);
      options.prepare?.(driver);
      runtime = new CudaRuntime(driver);
      return new CudaTransport({ clock: realClock, log: recordingLogger(), runtime, token: 'secret', ...options });
    },
    allocate: (side, lengthBytes) => {
      count++;
      if (side === 'initiator' && count % 3 > 0) return { kind: 'dram', bytes: new Uint8Array(count % 3 === 1 ? new ArrayBuffer(lengthBytes) : new SharedArrayBuffer(lengthBytes)) };
      const memory = allocateDeviceMemory({ ordinal: 0, lengthBytes }, runtime);
      const load = (): Uint8Array => {
        const bytes = new Uint8Array(lengthBytes);
        memory.read(0, bytes);
        return bytes;
      };
      return { kind: 'device', bytes: new Uint8Array(0), location: memory.location(), load, store: (bytes) => memory.write(0, bytes), release: () => memory.close() };
    },
  };
}

describe('cuda', () => transferTransportContract({ runner: { describe, it }, ...suite() }));
describe('cuda, one call per copy', () => transferTransportContract({ runner: { describe, it }, seed: 91, opens: 50, ...suite({ hasBatch: false }) }));
describe('cuda, host memory not pinned', () => transferTransportContract({ runner: { describe, it }, seed: 5, opens: 50, ...suite({ pin: false }) }));

const equality = (prepare: (driver: FakeDriver) => void): (() => Promise<void> | void) => transferTransportRules(suite({ prepare })).find(({ name }) => name.includes('byte equality'))!.run;

test('a copy left out fails the suite', async () => {
  let copies = 0;
  await expect(equality((driver) => (driver.tap = () => ++copies % 200 !== 0))()).rejects.toThrow('bytes differ');
  drivers.length = 0;
});

test('so does a status given before the copies are over', async () => {
  await expect(
    equality((driver) => {
      driver.queryEvent = () => 0;
    })(),
  ).rejects.toThrow('bytes differ');
  drivers.length = 0;
});
