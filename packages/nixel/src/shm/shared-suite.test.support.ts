import type { AllocateMemory } from '@armature/contracts/testing/transfer-transport';
import { createSharedMemory } from './shared-memory.ts';

/** The owner's memory is a memfd; the initiator's in turns private and shared. */
export function suiteSharedMemory(): AllocateMemory {
  let count = 0;
  return (side, lengthBytes) => {
    count++;
    if (side === 'initiator' && count % 3 > 0) {
      const buffer = count % 3 === 1 ? new ArrayBuffer(lengthBytes) : new SharedArrayBuffer(lengthBytes);
      return { kind: 'dram', bytes: new Uint8Array(buffer) };
    }
    const memory = createSharedMemory({ name: 'suite', lengthBytes });
    return { kind: 'dram', bytes: new Uint8Array(memory.buffer, 0, lengthBytes), location: memory.location(), release: () => memory.close() };
  };
}
