import { afterEach, describe, expect, it } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import { createAgent } from '../agent.ts';
import type { Agent } from '../agent.ts';
import { CmaTransport } from '../cma/cma-transport.ts';
import { descriptors } from '../descriptors.ts';
import { createSharedMemory } from '../shm/shared-memory.ts';
import type { SharedMemory } from '../shm/shared-memory.ts';
import { ShmTransport } from '../shm/shm-transport.ts';
import { TcpTransport } from '../tcp/tcp-transport.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';

const log = recordingLogger();
const agents: Agent[] = [];
const memories: SharedMemory[] = [];
afterEach(async () => {
  for (const agent of agents.splice(0)) await agent.close();
  for (const memory of memories.splice(0)) memory.close();
});

async function agent(name: string): Promise<Agent> {
  const transports = [new TcpTransport({ clock: realClock, log }), new CmaTransport({ clock: realClock, log, sameUserTrust: true }), new ShmTransport({ clock: realClock, log })];
  const made = await createAgent({ name, clock: realClock, log, transports });
  agents.push(made);
  return made;
}

function shared(lengthBytes: number, peerAccess: 'read' | 'read-write' = 'read-write'): SharedMemory {
  const memory = createSharedMemory({ name: 'agents', lengthBytes, peerAccess });
  memories.push(memory);
  return memory;
}

const row = (segment: number, offset: number, length: number): ReturnType<typeof descriptors> => descriptors([{ segment, offset, length }]);
const bytesBy = (of: Agent): Record<string, number> => Object.fromEntries([...of.counters.byTransport].map(([name, { bytes }]) => [name, bytes]));

/** Not in the library that the compiler knows here. */
const { WebAssembly: Wasm } = globalThis as unknown as { WebAssembly: { Memory: new (limits: { initial: number; maximum: number; shared: true }) => { buffer: SharedArrayBuffer } } };

const reason = new ShmTransport({ clock: realClock, log }).unavailable() ?? new CmaTransport({ clock: realClock, log, sameUserTrust: true }).unavailable();
if (reason !== undefined) it.skip(`shm and cma are not available here: ${reason}`, () => undefined);
else {
  describe('agents of one host', () => {
    it('move shared memory by shm, private memory by cma, without a socket', async () => {
      const [reader, owner] = [await agent('reader'), await agent('owner')];
      const memory = shared(1 << 20);
      const mapped = owner.register({ buffer: memory.buffer, lengthBytes: 1 << 20, location: memory.location() });
      const arena = new Wasm.Memory({ initial: 16, maximum: 16, shared: true });
      const held = owner.register({ buffer: arena.buffer });
      mapped.bytes.fill(1);
      held.bytes.fill(2);
      const here = reader.register({ buffer: new ArrayBuffer(1 << 20) });
      reader.addPeer(owner.metadata());
      const read = (segment: number): Promise<TransferStatus> => reader.run(reader.prepare({ op: 'read', peer: 'owner', local: row(here.id, 0, 1 << 20), remote: row(segment, 0, 1 << 20) }));
      expect(await read(mapped.id)).toBe(TransferStatus.Done);
      expect(here.bytes.every((byte) => byte === 1)).toBe(true);
      expect(bytesBy(reader)).toEqual({ shm: 1 << 20 });
      expect(await read(held.id)).toBe(TransferStatus.Done);
      expect(here.bytes.every((byte) => byte === 2)).toBe(true);
      expect(bytesBy(reader)).toEqual({ shm: 1 << 20, cma: 1 << 20 });
    });

    it('a grant opens a range, its end closes it for the very next post', async () => {
      const [reader, owner] = [await agent('reader'), await agent('owner')];
      const memory = shared(8192);
      const granted = owner.register({ buffer: memory.buffer, lengthBytes: 8192, location: memory.location(), access: 'granted' });
      granted.bytes.fill(3);
      const here = reader.register({ buffer: new ArrayBuffer(8192) });
      reader.addPeer(owner.metadata());
      const read = (length: number): Promise<TransferStatus> => reader.run(reader.prepare({ op: 'read', peer: 'owner', local: row(here.id, 0, length), remote: row(granted.id, 0, length) }));
      expect(await read(4096)).toBe(TransferStatus.NotAllowed);
      const revoke = owner.grant({ peer: 'reader', segment: granted.id, offset: 0, length: 4096, op: 'read' });
      const handle = reader.prepare({ op: 'read', peer: 'owner', local: row(here.id, 0, 4096), remote: row(granted.id, 0, 4096) });
      expect(await reader.run(handle)).toBe(TransferStatus.Done);
      expect(here.bytes[4095]).toBe(3);
      expect(await read(4097)).toBe(TransferStatus.NotAllowed);
      here.bytes.fill(0);
      expect(reader.post(handle)).toBe(TransferStatus.Done);
      expect(here.bytes[0]).toBe(3);
      here.bytes.fill(0);
      revoke();
      expect(await reader.run(handle)).toBe(TransferStatus.NotAllowed);
      expect(here.bytes.every((byte) => byte === 0)).toBe(true);
    });

    it('shared memory for readers only cannot be written by shm: another path is taken', async () => {
      const [writer, owner] = [await agent('writer'), await agent('owner')];
      const memory = shared(4096, 'read');
      const there = owner.register({ buffer: memory.buffer, lengthBytes: 4096, location: memory.location() });
      const here = writer.register({ buffer: new ArrayBuffer(4096) });
      here.bytes.fill(9);
      writer.addPeer(owner.metadata());
      const found = await writer.run(writer.prepare({ op: 'write', peer: 'owner', local: row(here.id, 0, 4096), remote: row(there.id, 0, 4096) }));
      // The kernel refuses the mapping; by cma it is the owner's own, writable one that is written.
      expect(found).toBe(TransferStatus.Done);
      expect(bytesBy(writer)).toEqual({ cma: 4096 });
      expect(there.bytes.every((byte) => byte === 9)).toBe(true);
    });

    it('says why it is not available', () => {
      expect(new CmaTransport({ clock: realClock, log }).unavailable()).toContain('sameUserTrust');
    });
  });
}
