import net from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import { createAgent, descriptors, exchangeMetadata, fetchMetadata, listenForMetadata, MemoryTransport, pushMetadata, sendInvalidation } from '../index.ts';
import type { Agent, ExchangeTarget, MetadataListener, MetadataListenerOptions } from '../index.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { decodeSelection, EXCHANGE_VERSION, message, MessageReader, MessageType } from './messages.ts';

const closing: { close(): Promise<void> | void }[] = [];
afterEach(async () => {
  await Promise.all(closing.splice(0).map((each) => each.close()));
});

async function agentOf(name: string, transport: MemoryTransport, incarnation?: string): Promise<Agent> {
  const agent = await createAgent({ name, transports: [transport], clock: realClock, log: recordingLogger(), ...(incarnation === undefined ? {} : { incarnation }) });
  closing.push(agent);
  return agent;
}

async function setup(options: Partial<MetadataListenerOptions> = {}): Promise<{ owner: Agent; asker: Agent; listener: MetadataListener; target: ExchangeTarget; transport: MemoryTransport }> {
  const transport = new MemoryTransport({ clock: realClock });
  const owner = await agentOf('owner', transport);
  const asker = await agentOf('asker', transport);
  const listener = await listenForMetadata({ agent: owner, clock: realClock, log: recordingLogger(), token: 'secret', ...options });
  closing.push(listener);
  return { owner, asker, listener, transport, target: { ...listener.address, agent: asker, clock: realClock, token: 'secret', deadlineMs: 2000 } };
}

const code = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'no error', (error: unknown) => (ArmatureError.is(error) ? error.code : String(error)));

/** What a listener answers to raw bytes, until it closes. */
function raw(address: { host: string; port: number }, send: (socket: net.Socket) => void): Promise<Buffer> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket = net.connect(address);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(Buffer.concat(chunks)));
    send(socket);
  });
}

describe('metadata listener', () => {
  test('fetch, push and transfer: two agents that know an address and a token', async () => {
    const { owner, asker, listener, target } = await setup();
    const there = owner.register({ buffer: new ArrayBuffer(100) });
    there.bytes.fill(5);
    const here = asker.register({ buffer: new ArrayBuffer(100) });
    expect(await exchangeMetadata(asker, target)).toBe('owner');
    expect(owner.peers()).toEqual(['asker']);
    const rows = (segment: number) => descriptors([{ segment, offset: 0, length: 100 }]);
    expect(await asker.run(asker.prepare({ op: 'read', peer: 'owner', local: rows(here.id), remote: rows(there.id) }))).toBe(TransferStatus.Done);
    expect(here.bytes[99]).toBe(5);
    expect(listener.counters).toMatchObject({ fetched: 1, pushed: 1 });
  });

  test('partial fetch and invalidation of segments and of the agent', async () => {
    const { owner, asker, target } = await setup();
    const [first, second] = [asker.register({ buffer: new ArrayBuffer(10) }), asker.register({ buffer: new ArrayBuffer(20) })];
    const [chosen, other] = [owner.register({ buffer: new ArrayBuffer(30) }), owner.register({ buffer: new ArrayBuffer(40) })];
    asker.addPeer(await fetchMetadata(target, { segments: [chosen.id] }));
    expect([asker.peerSegmentBytes('owner', chosen.id), asker.peerSegmentBytes('owner', other.id)]).toEqual([30, undefined]);
    await pushMetadata(target, asker.metadata());
    await sendInvalidation(target, { segments: [first.id] });
    expect([owner.peerSegmentBytes('asker', first.id), owner.peerSegmentBytes('asker', second.id)]).toEqual([undefined, 20]);
    // An earlier life's farewell does not touch this one.
    await sendInvalidation({ ...target, agent: { name: 'asker', incarnation: 'before' } });
    expect(owner.peers()).toEqual(['asker']);
    await sendInvalidation(target);
    expect(owner.peers()).toEqual([]);
  });

  test('refusals: wrong token, foreign name, versions, silence, nobody there', async () => {
    const { owner, asker, listener, target, transport } = await setup({ timeoutMs: 60 });
    expect(await code(fetchMetadata({ ...target, token: 'guess' }))).toBe('TRANSFER_AUTH_FAILED');
    const stranger = await agentOf('stranger', transport);
    expect(await code(pushMetadata(target, stranger.metadata()))).toBe('TRANSFER_EXCHANGE_INVALID');
    const newer = asker.metadata();
    newer[3] = 9;
    const refused = await pushMetadata(target, newer).catch((error: unknown) => error as ArmatureError);
    expect(refused).toMatchObject({ code: 'TRANSFER_METADATA_VERSION' });
    expect((refused as ArmatureError).message).toMatch(/version 9.*version 2/);
    expect(owner.peers()).toEqual([]);
    // A client of another protocol version is told both.
    const hello = message(MessageType.Hello);
    hello[3] = 7;
    const answer = await raw(listener.address, (socket) => socket.write(hello));
    expect(answer.toString()).toContain(`TRANSFER_EXCHANGE_VERSION\nthe other side speaks metadata exchange version 7, this one version ${EXCHANGE_VERSION}`);
    // Silence is cut after timeoutMs; the challenge was all that came.
    expect((await raw(listener.address, () => undefined)).length).toBe(12 + 16);
    expect(listener.counters.refused.get('TRANSFER_AUTH_FAILED')).toBe(1);
    await listener.close();
    expect(await code(fetchMetadata(target))).toBe('TRANSFER_EXCHANGE_FAILED');
  });

  test('a listener without the token is not believed, a mute one ends in the deadline', async () => {
    const { asker } = await setup();
    const liar = net.createServer((socket) => {
      socket.on('error', () => undefined);
      socket.write(Buffer.concat([message(MessageType.Challenge, Buffer.alloc(16)), message(MessageType.Welcome, Buffer.alloc(32))]));
    });
    const mute = net.createServer((socket) => void socket.on('error', () => undefined));
    for (const server of [liar, mute]) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      closing.push({ close: () => void server.close() });
    }
    const at = (server: net.Server): ExchangeTarget => ({ host: '127.0.0.1', port: (server.address() as net.AddressInfo).port, agent: asker, clock: realClock, token: 'secret', deadlineMs: 80 });
    expect(await code(fetchMetadata(at(liar)))).toBe('TRANSFER_AUTH_FAILED');
    expect(await code(fetchMetadata(at(mute)))).toBe('TRANSFER_EXCHANGE_TIMEOUT');
  });

  test('more connections than allowed are closed at once', async () => {
    const { listener, target } = await setup({ maxConnections: 2 });
    const held = [0, 1].map(() => net.connect(listener.address));
    await Promise.all(held.map((socket) => new Promise((resolve) => socket.once('data', resolve))));
    expect(await code(fetchMetadata(target))).toBe('TRANSFER_EXCHANGE_FAILED');
    for (const socket of held) socket.destroy();
    await expect.poll(() => code(fetchMetadata(target))).toBe('no error');
  });
});

describe('message decoder', () => {
  const reader = (seen: [number, number][]) => new MessageReader((type) => (type === MessageType.Hello ? 4096 : type === MessageType.Ack ? 0 : -1), (type, body) => seen.push([type, body.length]));

  test('any cut of the stream gives the same messages', () => {
    const stream = Buffer.concat([message(MessageType.Hello, Buffer.alloc(300)), message(MessageType.Ack), message(MessageType.Hello, Buffer.alloc(1)), message(MessageType.Ack)]);
    for (const step of [1, 2, 5, 11, 12, 13, 100, 1000]) {
      const seen: [number, number][] = [];
      const it = reader(seen);
      for (let at = 0; at < stream.length; at += step) it.push(stream.subarray(at, at + step));
      expect(seen, `step ${step}`).toEqual([[2, 300], [8, 0], [2, 1], [8, 0]]);
    }
  });

  test('fuzz: changed bytes give messages or a coded error, and never more memory than a limit', () => {
    let state = 42;
    const below = (bound: number) => Math.floor(((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32) * bound);
    const codes = new Set<string>();
    for (let round = 0; round < 3000; round++) {
      const stream = Buffer.concat([message(MessageType.Hello, Buffer.alloc(below(64))), message(MessageType.Ack)]);
      for (let i = below(4); i >= 0; i--) stream[below(stream.length)] = below(256);
      try {
        reader([]).push(stream.subarray(0, below(stream.length + 1)));
        decodeSelection(stream.subarray(below(stream.length)));
      } catch (error) {
        codes.add(ArmatureError.is(error) ? error.code : `seed 42, round ${round}: ${String(error)}`);
      }
    }
    expect([...codes].sort()).toEqual(['TRANSFER_EXCHANGE_INVALID', 'TRANSFER_EXCHANGE_VERSION']);
  });

  test('fuzz: a listener survives rubbish and serves the next', async () => {
    const { listener, target } = await setup({ timeoutMs: 200 });
    for (let i = 0; i < 30; i++) {
      const rubbish = Buffer.from(Array.from({ length: 40 }, (_, at) => (at * 37 + i * 11) & 0xff));
      if (i % 2 === 0) message(MessageType.Hello, Buffer.alloc(20)).copy(rubbish);
      await raw(listener.address, (socket) => socket.end(rubbish));
    }
    expect(await code(fetchMetadata(target))).toBe('no error');
    expect([...listener.counters.refused.keys()].every((each) => each.startsWith('TRANSFER_'))).toBe(true);
  });
});
