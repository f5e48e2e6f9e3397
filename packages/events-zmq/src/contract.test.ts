import type { EventPlane } from '@armature/contracts';
import { eventPlaneContract } from '@armature/contracts/testing/event-plane';
import { describe, it } from 'vitest';
import { FakeDiscovery, startPlane } from './testing.test.support.ts';

const pace = { waitMs: 20_000, quietMs: 40 };
const homes = new WeakMap<EventPlane, FakeDiscovery>();
async function create(bufferEvents?: number): Promise<EventPlane> {
  const discovery = new FakeDiscovery();
  const plane = await startPlane(discovery, bufferEvents === undefined ? {} : { bufferEvents });
  homes.set(plane, discovery);
  return plane;
}

describe('one process', () => {
  eventPlaneContract({ runner: { describe, it }, create: () => create(), createBounded: (buffer) => create(buffer), pace });
});

describe('two ends over real sockets', () => {
  eventPlaneContract({ runner: { describe, it }, create: () => create(), connect: (first) => startPlane(homes.get(first)!), pace });
});
