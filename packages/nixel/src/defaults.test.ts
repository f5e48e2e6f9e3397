import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { createAgent, createSharedMemory, descriptors, exchangeMetadata, listenForMetadata, TransferStatus } from './index.ts';
import type { Agent } from './index.ts';
import { ManualClock } from './test-clock.test.support.ts';

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});
async function made(name: string, options: object = {}): Promise<Agent> {
  const agent = await createAgent({ name, ...options });
  closers.push(() => agent.close());
  return agent;
}
const row = (segment: number) => descriptors([{ segment, offset: 0, length: 100 }]);

describe('an agent without options', () => {
  test('has the built-in transports that work here, never cma', async () => {
    const names = (await made('a')).transports();
    expect(names).toEqual(expect.arrayContaining(['memory', 'tcp', 'file']));
    expect(names).not.toContain('cma');
  });

  test('meets others of this process by memory, and by listener without clock, log and host', async () => {
    const [a, b] = [await made('a'), await made('b')];
    const here = a.register({ buffer: new ArrayBuffer(100) });
    const there = b.register({ buffer: new ArrayBuffer(100) });
    there.bytes.fill(7);
    const listener = await listenForMetadata({ agent: b });
    closers.push(() => listener.close());
    expect(await exchangeMetadata(a, { port: listener.address.port })).toBe('b');
    expect(await a.run(a.prepare({ op: 'read', peer: 'b', local: row(here.id), remote: row(there.id) }))).toBe(TransferStatus.Done);
    expect(here.bytes.every((byte) => byte === 7)).toBe(true);
    expect([...a.counters.byTransport.keys()]).toEqual(['memory']);
    expect(b.peers()).toEqual(['a']);
  });

  test('agents of another clock are not reached by memory: their time is another one', async () => {
    const [a, b] = [await made('a'), await made('b', { clock: new ManualClock() })];
    a.addPeer(b.metadata());
    const here = a.register({ buffer: new ArrayBuffer(100) });
    const there = b.register({ buffer: new ArrayBuffer(100) });
    a.addPeer(b.metadata());
    expect(await a.run(a.prepare({ op: 'read', peer: 'b', local: row(here.id), remote: row(there.id) }))).toBe(TransferStatus.Done);
    expect([...a.counters.byTransport.keys()]).toEqual(['tcp']);
  });

  test('its token is that of its transports: who has another is refused', async () => {
    const [a, b] = [await made('a', { token: 'one', clock: new ManualClock() }), await made('b', { token: 'two' })];
    const here = b.register({ buffer: new ArrayBuffer(100) });
    const there = a.register({ buffer: new ArrayBuffer(100) });
    b.addPeer(a.metadata());
    expect(await b.run(b.prepare({ op: 'read', peer: 'a', local: row(here.id), remote: row(there.id) }))).toBe(TransferStatus.RemoteDisconnected);
  });

  test('shared memory makes the same code run over shm', async ({ skip }) => {
    const [a, b] = [await made('a', { clock: new ManualClock() }), await made('b')];
    if (!a.transports().includes('shm')) skip('shm is not available here');
    const memory = createSharedMemory({ name: 'owner', lengthBytes: 100 });
    closers.unshift(() => memory.close());
    const there = a.register({ buffer: memory.buffer, lengthBytes: 100, location: memory.location() });
    const here = b.register({ buffer: new ArrayBuffer(100) });
    b.addPeer(a.metadata());
    expect(await b.run(b.prepare({ op: 'read', peer: 'a', local: row(here.id), remote: row(there.id) }))).toBe(TransferStatus.Done);
    expect([...b.counters.byTransport.keys()]).toEqual(['shm']);
  });
});

test('the README begins with the files of the example', () => {
  const read = (path: string): string => readFileSync(new URL(path, import.meta.url), 'utf8');
  const blocks = [...read('../README.md').matchAll(/```(\w+)\n([\s\S]*?)```/g)].slice(0, 2);
  expect(blocks.map(([, language]) => language)).toEqual(['js', 'js']);
  expect(blocks.map(([, , code]) => code)).toEqual(['owner.js', 'reader.js'].map((file) => read(`../../../examples/nixel-two-processes/${file}`)));
});
