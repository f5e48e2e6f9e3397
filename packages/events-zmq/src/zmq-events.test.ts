import { createServer } from 'node:net';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { curveKeyPair } from 'zeromq';
import { afterEach, describe, expect, it } from 'vitest';
import { zmqEvents } from './plugin.ts';
import { FakeDiscovery, defaults, startPlane, until } from './testing.test.support.ts';
import type { TestPlane } from './testing.test.support.ts';
import { z85Decode } from './sockets.ts';
import { ANNOUNCEMENTS } from './zmq-events.ts';
import type { ZmqEventsConfig } from './zmq-events.ts';

const open: TestPlane[] = [];
async function start(discovery: FakeDiscovery, config: Partial<ZmqEventsConfig> = {}): Promise<TestPlane> {
  const plane = await startPlane(discovery, config);
  open.push(plane);
  return plane;
}
afterEach(async () => {
  for (const plane of open.splice(0)) await plane.close();
});
function collect(plane: TestPlane, prefix: string): number[] {
  const seen: number[] = [];
  plane.subscribe(prefix, (_subject, payload) => void seen.push(payload as number));
  return seen;
}
const quiet = (ms = 60): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

describe('zmq events', () => {
  it('a publisher that joins after a subscription: nothing of it is missed, also what it published before it was found', async () => {
    const discovery = new FakeDiscovery();
    const subscriber = await start(discovery);
    const seen = collect(subscriber, 'kv/');
    const late = new FakeDiscovery(); // not told of yet
    const publisher = await start(late);
    for (const n of range(0, 300)) publisher.publish('kv/a', n);
    const key = ANNOUNCEMENTS + publisher.publisherId;
    discovery.put(key, late.entries.get(key)!);
    await until('300 events', () => seen.length === 300);
    expect(seen).toEqual(range(0, 300));
    expect(subscriber.counts.replayed).toBeGreaterThanOrEqual(300);
  });

  it('a subscription made later does not get the past beyond the overlap, and all that follows', async () => {
    const discovery = new FakeDiscovery();
    const [publisher, subscriber] = [await start(discovery), await start(discovery, { joinOverlapMs: 0 })];
    const warm = collect(subscriber, 'warm');
    await until('a connection', () => {
      publisher.publish('warm', 1);
      return warm.length > 0;
    });
    publisher.publish('kv/a', 1);
    await quiet();
    const seen = collect(subscriber, 'kv/');
    await until('the join', () => subscriber.links.get(publisher.publisherId)!.stream.isLive);
    for (const n of range(2, 50)) publisher.publish('kv/a', n);
    await until('48 events', () => seen.length >= 48);
    expect(seen).toEqual(range(2, 50));
  });

  it('many planes at once: every one gets every event of every other, in order', async () => {
    const discovery = new FakeDiscovery();
    const planes: TestPlane[] = [];
    for (let i = 0; i < 6; i++) planes.push(await start(discovery));
    const seen = planes.map((plane) => {
      const bySubject = new Map<string, number[]>();
      plane.subscribe('', (subject, payload) => void (bySubject.get(subject) ?? bySubject.set(subject, []).get(subject)!).push(payload as number));
      return bySubject;
    });
    for (const n of range(0, 200)) planes.forEach((plane, i) => plane.publish(`from/${i}`, n));
    await until('all events', () => seen.every((bySubject) => bySubject.size === 6 && [...bySubject.values()].every((list) => list.length >= 200)));
    for (const bySubject of seen) for (const list of bySubject.values()) expect(list).toEqual(range(0, 200));
  });

  it('a publisher that leaves is disconnected; one that leaves and comes back at once is not', async () => {
    const discovery = new FakeDiscovery();
    const [publisher, subscriber] = [await start(discovery), await start(discovery)];
    expect(subscriber.links.size).toBe(1);
    const key = ANNOUNCEMENTS + publisher.publisherId;
    const value = discovery.entries.get(key)!;
    const link = subscriber.links.get(publisher.publisherId);
    discovery.remove(key);
    discovery.put(key, value);
    await quiet(1_200);
    expect(subscriber.links.get(publisher.publisherId)).toBe(link);
    await publisher.close();
    await until('the link is gone', () => subscriber.links.size === 0);
  });

  it('CURVE: holders of the key hear each other; another key is refused and counted; an unencrypted announcement is ignored', async () => {
    const discovery = new FakeDiscovery();
    const curve = { ...curveKeyPair(), acceptedKeys: [] };
    const [publisher, subscriber] = [await start(discovery, { curve }), await start(discovery, { curve })];
    const seen = collect(subscriber, 'kv/');
    publisher.publish('kv/a', 1);
    await until('an encrypted event', () => seen.length === 1);

    // Knows the server's public key, which is no secret, and has a pair of its own.
    const own = curveKeyPair();
    const stranger = await start(discovery, { curve: { publicKey: own.publicKey, secretKey: own.secretKey, acceptedKeys: [] } });
    const overheard = collect(stranger, '');
    const plain = await start(discovery);
    const overheardPlain = collect(plain, '');
    publisher.publish('kv/a', 2);
    await until('the next event', () => seen.length === 2);
    await quiet(300);
    expect(overheard).toEqual([]);
    expect(overheardPlain).toEqual([]);
    expect(plain.links.size).toBe(0);
    expect(plain.lines.some(({ fields }) => fields['code'] === 'EVENTS_ZMQ_ANNOUNCEMENT_INVALID')).toBe(true);
  });

  it('CURVE: a client with the right server key and an unknown key of its own is refused by the guard', async () => {
    const discovery = new FakeDiscovery();
    const curve = { ...curveKeyPair(), acceptedKeys: [] };
    const publisher = await start(discovery, { curve });
    const { XSubscriber } = await import('zeromq');
    const own = curveKeyPair();
    const connectAs = (keys: { publicKey: string; secretKey: string }): { got: () => number; close(): void } => {
      const socket = new XSubscriber({ linger: 0, curveServerKey: curve.publicKey, curvePublicKey: keys.publicKey, curveSecretKey: keys.secretKey });
      let got = 0;
      socket.connect((discovery.entries.get(ANNOUNCEMENTS + publisher.publisherId) as { address: string }).address);
      void socket.send(Buffer.from('\u0001e'));
      void (async () => {
        for await (const message of socket) got += message.length;
      })().catch(() => undefined);
      return { got: () => got, close: () => socket.close() };
    };
    const [friend, stranger] = [connectAs(curve), connectAs(own)];
    await until('the friend hears', () => {
      publisher.publish('kv/a', 1);
      return friend.got() > 0;
    });
    await quiet(200);
    expect(stranger.got()).toBe(0);
    await until('a refusal is counted', () => publisher.counts.refused > 0);
    friend.close();
    stranger.close();
  });

  it('keys in Z85 as ZeroMQ reads them (RFC 32)', () => {
    expect(z85Decode('HelloWorld').toString('hex')).toBe('864fd26fb559f75b');
  });
});

describe('what goes wrong at the start', () => {
  it('names the package when its native addon cannot be loaded', async () => {
    const load = (): Promise<never> => Promise.reject(new Error('No native build was found'));
    await expect(startPlane(new FakeDiscovery(), {}, load)).rejects.toMatchObject({ code: 'EVENTS_ZMQ_ADDON_MISSING', message: expect.stringContaining('npm package zeromq') as string });
  });

  it('says which address it cannot listen on', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    await expect(startPlane(new FakeDiscovery(), { port })).rejects.toMatchObject({ code: 'EVENTS_ZMQ_BIND_FAILED', message: expect.stringContaining(`127.0.0.1:${port}`) as string });
    server.close();
  });

  it('refuses to announce an address that nobody can connect to', () => {
    const found: unknown[] = [];
    zmqEvents.check?.(defaults({ host: '0.0.0.0' }), (problem) => void found.push(problem.path));
    zmqEvents.check?.(defaults({ host: '0.0.0.0', advertise: 'host-a' }), (problem) => void found.push(problem.path));
    expect(found).toEqual([['advertise']]);
  });
});
