import { afterEach, describe, expect, test } from 'vitest';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { TransferTransport } from '@armature/contracts';
import { blockDescriptors, createAgent, descriptors, MemoryTransport, TcpTransport } from './index.ts';
import type { Agent, AgentOptions } from './index.ts';
import { ManualClock, realClock, recordingLogger } from './test-clock.test.support.ts';

const agents: Agent[] = [];
afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent.close()));
});

async function make(name: string, transports: readonly TransferTransport[], options: Partial<AgentOptions> = {}): Promise<Agent> {
  const agent = await createAgent({ name, transports, clock: realClock, log: recordingLogger(), ...options });
  agents.push(agent);
  return agent;
}

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return ArmatureError.is(error) ? error.code : String(error);
  }
  return 'no error';
}

const row = (segment: number, offset: number, length: number) => descriptors([{ segment, offset, length }]);
const tcp = (options = {}) => new TcpTransport({ clock: realClock, log: recordingLogger(), ...options });

/** Two agents; b has 1,000 bytes of 7. */
async function pair(transports: readonly TransferTransport[], options: Partial<AgentOptions> = {}) {
  const a = await make('a', transports, options);
  const b = await make('b', transports, options);
  const here = a.register({ buffer: new ArrayBuffer(1000) });
  const there = b.register({ buffer: new SharedArrayBuffer(1000) });
  there.bytes.fill(7);
  a.addPeer(b.metadata());
  b.addPeer(a.metadata());
  return { a, b, here, there };
}

describe('agent over memory', () => {
  test('one prepared handle is posted many times; done and counters tell each', async () => {
    const { a, b, here, there } = await pair([new MemoryTransport({ clock: realClock })]);
    const seen: string[] = [];
    b.onNotification((peer, payload) => seen.push(`${peer}:${payload.join()}`));
    const handle = a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 100), remote: row(there.id, 5, 100) });
    expect(a.check(handle)).toBe(TransferStatus.NotPosted);
    const statuses: number[] = [];
    for (let i = 0; i < 5; i++) expect(a.post(handle, { notification: Uint8Array.of(i) }, (status) => statuses.push(status))).toBe(TransferStatus.Done);
    expect(statuses).toEqual([0, 0, 0, 0, 0]);
    expect(seen).toEqual(['a:0', 'a:1', 'a:2', 'a:3', 'a:4']);
    expect(here.bytes.subarray(0, 100).every((byte) => byte === 7)).toBe(true);
    expect(here.bytes[100]).toBe(0);
    expect(a.counters).toMatchObject({ posted: 5, done: 5, failed: 0, readBytes: 500, descriptors: 5, notificationsSent: 5 });
    expect(a.counters.byTransport.get('memory')).toEqual({ transfers: 5, bytes: 500 });
    a.release(handle);
    expect(a.post(handle)).toBe(TransferStatus.NotFound);
  });

  test('blocks of a strided arena land in other blocks; neighbours are joined', async () => {
    const transport = new MemoryTransport({ clock: realClock });
    const a = await make('a', [transport]);
    const b = await make('b', [transport]);
    // 8 blocks, 3 pieces of 16 bytes each, piece-major (one plane per layer).
    const layout = { blockStrideBytes: 16, pieces: 3, pieceBytes: 16, pieceStrideBytes: 8 * 16 };
    const { Memory } = (globalThis as unknown as { WebAssembly: { Memory: new (options: object) => { buffer: SharedArrayBuffer } } }).WebAssembly;
    const memory = new Memory({ initial: 1, maximum: 1, shared: true });
    const here = a.register({ buffer: memory.buffer, byteOffset: 64, lengthBytes: 8 * 3 * 16 });
    const there = b.register({ buffer: new SharedArrayBuffer(8 * 3 * 16) });
    for (let i = 0; i < there.lengthBytes; i++) there.bytes[i] = i % 251;
    a.addPeer(b.metadata());
    const blocks = Int32Array.of(4, 5, 1);
    const onto = Int32Array.of(0, 1, 7);
    const handle = a.prepare({ op: 'read', peer: 'b', local: blockDescriptors(here.id, layout, onto), remote: blockDescriptors(there.id, layout, blocks) });
    expect(handle).toMatchObject({ descriptors: 9, bytes: 9 * 16 });
    expect(a.post(handle)).toBe(TransferStatus.Done);
    blocks.forEach((block, i) => {
      for (let p = 0; p < 3; p++) {
        const from = block * 16 + p * 128;
        const to = onto[i]! * 16 + p * 128;
        expect([...here.bytes.subarray(to, to + 16)]).toEqual([...there.bytes.subarray(from, from + 16)]);
      }
    });
  });

  test('control path throws with a code', async () => {
    const transport = new MemoryTransport({ clock: realClock });
    const { a, b, here, there } = await pair([transport]);
    const local = row(here.id, 0, 10);
    expect(code(() => a.prepare({ op: 'read', peer: 'nobody', local, remote: local }))).toBe('TRANSFER_PEER_UNKNOWN');
    expect(code(() => a.prepare({ op: 'read', peer: 'b', local: row(here.id, 995, 10), remote: row(there.id, 0, 10) }))).toBe('TRANSFER_DESCRIPTOR_INVALID');
    expect(code(() => a.prepare({ op: 'read', peer: 'b', local, remote: row(there.id, 0, 11) }))).toBe('TRANSFER_DESCRIPTOR_INVALID');
    expect(code(() => a.prepare({ op: 'read', peer: 'b', local, remote: row(99, 0, 10) }))).toBe('TRANSFER_DESCRIPTOR_INVALID');
    expect(code(() => a.register({ buffer: new ArrayBuffer(10), byteOffset: 5, lengthBytes: 6 }))).toBe('TRANSFER_SEGMENT_INVALID');
    const elsewhere = await make('c', [new MemoryTransport({ clock: realClock })]);
    expect(code(() => a.addPeer(elsewhere.metadata()))).toBe('TRANSFER_PEER_UNREACHABLE');
    await expect(make('d', [])).rejects.toMatchObject({ code: 'TRANSFER_NO_TRANSPORT' });
    expect(b.peers()).toEqual(['a']);
  });

  test('hostile metadata is refused with a code, whatever the bytes', async () => {
    const { a, b } = await pair([new MemoryTransport({ clock: realClock })]);
    const good = b.metadata();
    const tried: string[] = [];
    for (let length = 0; length < good.length; length += 3) tried.push(code(() => a.addPeer(good.subarray(0, length))));
    const json = (value: unknown) => new Uint8Array([...good.subarray(0, 4), ...new TextEncoder().encode(JSON.stringify(value))]);
    const base = { name: 'x', incarnation: '1', revision: 0, isPartial: false, segments: [], transports: {} };
    for (const value of [null, [], 1, { ...base, name: '' }, { ...base, name: 'x\u0000' }, { ...base, segments: [{ id: -1 }] }, { ...base, segments: 5 }, { ...base, transports: { memory: 5 } }, { ...base, transports: { memory: { endpoint: {} } } }]) {
      tried.push(code(() => a.addPeer(json(value))));
    }
    expect(new Set(tried)).toEqual(new Set(['TRANSFER_METADATA_INVALID']));
    expect(code(() => a.addPeer(json(JSON.parse('{"name":"x","incarnation":"1","revision":0,"isPartial":false,"segments":[],"transports":{"__proto__":{"endpoint":"y"}}}'))))).toBe('TRANSFER_PEER_UNREACHABLE');
    const newer = good.slice();
    newer[3] = 9;
    expect(code(() => a.addPeer(newer))).toBe('TRANSFER_METADATA_VERSION');
  });

  test('a segment with access `granted` opens only by grant, and closes by revoke', async () => {
    const transport = new MemoryTransport({ clock: realClock });
    const a = await make('a', [transport]);
    const b = await make('b', [transport]);
    const here = a.register({ buffer: new ArrayBuffer(100) });
    const there = b.register({ buffer: new ArrayBuffer(100), access: 'granted' });
    const readable = b.register({ buffer: new ArrayBuffer(100), access: 'peers-read' });
    a.addPeer(b.metadata());
    const run = (op: 'read' | 'write', segment: number, offset: number) => a.post(a.prepare({ op, peer: 'b', local: row(here.id, 0, 10), remote: row(segment, offset, 10) }));
    expect(run('read', there.id, 0)).toBe(TransferStatus.NotAllowed);
    expect(run('read', readable.id, 0)).toBe(TransferStatus.Done);
    expect(run('write', readable.id, 0)).toBe(TransferStatus.NotAllowed);
    const revoke = b.grant({ peer: 'a', segment: there.id, offset: 20, length: 30, op: 'read' });
    expect([run('read', there.id, 20), run('read', there.id, 40), run('read', there.id, 41), run('write', there.id, 20)]).toEqual([0, 0, TransferStatus.NotAllowed, TransferStatus.NotAllowed]);
    revoke();
    expect(run('read', there.id, 20)).toBe(TransferStatus.NotAllowed);
    b.deregister(readable.id);
    expect(run('read', readable.id, 0)).toBe(TransferStatus.NotFound);
    expect(a.counters.byStatus.get(TransferStatus.NotAllowed)).toBe(5);
    expect(b.counters.posted).toBe(0);
  });
});

describe('agent under a virtual clock', () => {
  async function slow() {
    const clock = new ManualClock();
    const transport = new MemoryTransport({ clock, completion: 'deferred', delayMs: (bytes) => bytes / 10 });
    const made = await pair([transport], { clock });
    const handle = made.a.prepare({ op: 'read', peer: 'b', local: row(made.here.id, 0, 1000), remote: row(made.there.id, 0, 1000) });
    return { ...made, clock, handle };
  }

  test('a transfer ends at its time, not before', async () => {
    const { a, clock, handle, here } = await slow();
    expect(a.post(handle)).toBe(TransferStatus.InProgress);
    expect(a.post(handle)).toBe(TransferStatus.RepostActive);
    clock.advance(99);
    expect([a.check(handle), here.bytes[0]]).toEqual([TransferStatus.InProgress, 0]);
    clock.advance(1);
    expect([a.check(handle), here.bytes[0]]).toEqual([TransferStatus.Done, 7]);
    expect(clock.pending).toBe(0);
  });

  test('deadline, cancel, release in flight, removePeer, close: one terminal status each', async () => {
    const { a, b, clock, handle, here } = await slow();
    const ends: number[] = [];
    const done = (status: number) => ends.push(status);
    a.post(handle, { deadlineMs: 10 }, done);
    clock.advance(10);
    a.post(handle, {}, done);
    expect(code(() => a.deregister(here.id))).toBe('TRANSFER_SEGMENT_BUSY');
    a.cancel(handle);
    a.cancel(handle);
    a.post(handle, {}, done);
    a.removePeer('b');
    a.post(handle, {}, done);
    a.addPeer(b.metadata());
    a.post(handle, {}, done);
    await b.close();
    a.release(handle);
    clock.advance(1000);
    expect(ends).toEqual([TransferStatus.TimedOut, TransferStatus.Canceled, TransferStatus.RemoteDisconnected, TransferStatus.NotFound, TransferStatus.RemoteDisconnected]);
    expect(here.bytes[0]).toBe(0);
    expect([a.running(), a.counters.failed, a.counters.peersLost]).toEqual([0, 5, 1]);
  });

  test('release in flight cancels and still reports', async () => {
    const { a, clock, handle } = await slow();
    const ends: number[] = [];
    a.post(handle, {}, (status) => ends.push(status));
    a.release(handle);
    clock.advance(1000);
    expect(ends).toEqual([TransferStatus.Canceled]);
  });
});

describe('agent over several transports', () => {
  test('the cheaper path runs; the counter shows which', async () => {
    const { a, here, there } = await pair([tcp(), new MemoryTransport({ clock: realClock })]);
    expect(a.post(a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 500), remote: row(there.id, 0, 500) }))).toBe(TransferStatus.Done);
    expect([...a.counters.byTransport.keys()]).toEqual(['memory']);
  });

  test('tcp: status over callback, restart of the peer needs new metadata', async () => {
    const transport = tcp();
    const { a, b, here, there } = await pair([transport]);
    const handle = a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 500), remote: row(there.id, 0, 500) });
    const run = () => new Promise<number>((resolve) => a.post(handle, { deadlineMs: 3000 }, resolve));
    expect(await run()).toBe(TransferStatus.Done);
    expect(here.bytes[499]).toBe(7);
    let lost = '';
    a.onPeerLost((peer) => (lost = peer));
    await b.close();
    await expect.poll(() => lost).toBe('b');
    expect(await run()).toBe(TransferStatus.RemoteDisconnected);
    const again = await make('b', [transport]);
    const segment = again.register({ buffer: new ArrayBuffer(1000) });
    segment.bytes.fill(9);
    a.addPeer(again.metadata());
    expect(await run()).toBe(TransferStatus.Done);
    expect(here.bytes[499]).toBe(9);
  });

  test('tcp: a stale incarnation and a wrong token are refused', async () => {
    const log = recordingLogger();
    const good = new TcpTransport({ clock: realClock, log, token: 'one' });
    const a = await make('a', [good]);
    const b = await make('b', [good]);
    const here = a.register({ buffer: new ArrayBuffer(10) });
    const there = b.register({ buffer: new ArrayBuffer(10) });
    const stale = JSON.parse(new TextDecoder().decode(b.metadata().subarray(4))) as { incarnation: string };
    stale.incarnation = 'earlier';
    a.addPeer(new Uint8Array([...b.metadata().subarray(0, 4), ...new TextEncoder().encode(JSON.stringify(stale))]));
    const run = (agent: Agent, segment: number) => new Promise<number>((resolve) => agent.post(agent.prepare({ op: 'read', peer: 'b', local: row(segment, 0, 10), remote: row(there.id, 0, 10) }), { deadlineMs: 3000 }, resolve));
    expect(await run(a, here.id)).toBe(TransferStatus.RemoteDisconnected);
    const thief = await make('thief', [new TcpTransport({ clock: realClock, log: recordingLogger(), token: 'two' })]);
    thief.addPeer(b.metadata());
    const loot = thief.register({ buffer: new ArrayBuffer(10) });
    expect(await run(thief, loot.id)).toBe(TransferStatus.RemoteDisconnected);
    const codes = log.lines.map(({ fields }) => (fields as { code?: string }).code);
    expect(codes).toContain('TRANSFER_PEER_STALE');
    expect(codes).toContain('TRANSFER_AUTH_FAILED');
    a.addPeer(b.metadata());
    expect(await run(a, here.id)).toBe(TransferStatus.Done);
  });

  test('tcp: a peer that accepts and then says nothing ends in the deadline, without a byte changed', async () => {
    const net = await import('node:net');
    const server = net.createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const a = await make('a', [tcp()]);
    const here = a.register({ buffer: new ArrayBuffer(10) });
    const facts = { name: 'mute', incarnation: '1', revision: 1, isPartial: false, segments: [{ id: 1, kind: 'dram', lengthBytes: 10, transports: {} }], transports: { tcp: { host: '127.0.0.1', port: (server.address() as { port: number }).port } } };
    a.addPeer(new Uint8Array([...a.metadata().subarray(0, 4), ...new TextEncoder().encode(JSON.stringify(facts))]));
    const handle = a.prepare({ op: 'read', peer: 'mute', local: row(here.id, 0, 10), remote: row(1, 0, 10) });
    expect(await new Promise((resolve) => a.post(handle, { deadlineMs: 30 }, resolve))).toBe(TransferStatus.TimedOut);
    await a.close();
    server.close();
  });
});
