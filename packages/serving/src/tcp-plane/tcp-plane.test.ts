import net from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import type { Discovery, DiscoveryWatcher, ErrorData, EventListener, EventPlane, PlainData, PlaneMessage, PlaneStream, StreamSink } from '@armature/contracts';
import { ManualClock, silentLog } from '../test-support/fakes.ts';
import { MemoryBridge } from './bridge.ts';
import { OutBuffer } from './out-buffer.ts';
import type { TcpRequestPlane } from './tcp-request-plane.ts';
import { makePlane, testCodec } from './test-planes.test.support.ts';
import { Frame, WIRE_PROTOCOL } from './wire.ts';

const planes: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(planes.splice(0).map((plane) => plane.close()));
});

async function plane(options: Parameters<typeof makePlane>[0] = {}): Promise<TcpRequestPlane> {
  const made = makePlane(options);
  planes.push(made);
  await made.start();
  return made;
}

class Sink implements StreamSink {
  readonly messages: PlaneMessage[] = [];
  readonly closes: (ErrorData | undefined)[] = [];
  message(message: PlaneMessage): void {
    this.messages.push(message);
  }
  closed(error: ErrorData | undefined): void {
    this.closes.push(error);
  }
}

const opening = { method: 'm', message: { type: 'open' } as PlaneMessage, deadlineMs: 5000 };
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function frames(...list: [number, number, PlainData | Uint8Array | undefined][]): Buffer {
  const out = new OutBuffer();
  for (const [type, id, body] of list) out.append(type, id, body === undefined ? new Uint8Array(0) : body instanceof Uint8Array ? body : testCodec.encode(body));
  return Buffer.concat(out.take());
}

const hello = (more: object = {}): [number, number, PlainData] => [Frame.Hello, 0, { protocol: WIRE_PROTOCOL, node: 'raw', address: '', token: 'secret', ...more }];

/** A peer that speaks bytes. */
class RawPeer {
  readonly socket: net.Socket;
  readonly closed: Promise<void>;
  bytes = Buffer.alloc(0);

  constructor(target: TcpRequestPlane) {
    const [host, port] = target.address().split(':') as [string, string];
    this.socket = net.connect({ host, port: Number(port) });
    this.socket.on('error', () => undefined);
    this.socket.on('data', (chunk) => (this.bytes = Buffer.concat([this.bytes, chunk])));
    this.closed = new Promise((resolve) => this.socket.once('close', () => resolve()));
  }

  received(): { type: number; id: number; body: PlainData }[] {
    const found = [];
    for (let at = 0; at + 4 <= this.bytes.length; ) {
      const length = this.bytes.readUInt32LE(at);
      const body = this.bytes.subarray(at + 9, at + 4 + length);
      found.push({ type: this.bytes[at + 4]!, id: this.bytes.readUInt32LE(at + 5), body: body.length === 0 ? undefined : testCodec.decode(body) });
      at += 4 + length;
    }
    return found;
  }
}

describe('connections', () => {
  test('one connection carries all streams both ways; frames of a tick share a write', async () => {
    const a = await plane();
    const b = await plane();
    const streams: PlaneStream[] = [];
    const serve = (at: TcpRequestPlane): Promise<{ address: string }> => at.serve('x', (_open, stream) => (streams.push(stream), new Sink()));
    const [atA, atB] = [await serve(a), await serve(b)];
    const sinks = Array.from({ length: 50 }, () => new Sink());
    for (const sink of sinks) a.open(atB.address, opening, sink);
    await expect.poll(() => streams.length).toBe(50);
    b.open(atA.address, opening, new Sink());
    await expect.poll(() => streams.length).toBe(51);
    expect([a.counts().connections, b.counts().connections]).toEqual([1, 1]);
    const before = b.counts().writes;
    for (let round = 0; round < 4; round++) for (const stream of streams.slice(0, 50)) stream.send({ type: 'n', round });
    await expect.poll(() => sinks.every((sink) => sink.messages.length === 4)).toBe(true);
    expect(b.counts().writes - before).toBe(1);
  });

  test('a lost connection closes each stream once, retryable; the next open dials again', async () => {
    const a = await plane();
    const b = await plane();
    const served: Sink[] = [];
    const handler = (): Sink => served[served.push(new Sink()) - 1]!;
    const { address } = await b.serve('x', handler);
    const port = Number(/:(\d+)/.exec(address)![1]);
    const sinks = [new Sink(), new Sink()];
    for (const sink of sinks) a.open(address, opening, sink);
    await expect.poll(() => served.length).toBe(2);
    await b.close();
    await expect.poll(() => sinks.every((sink) => sink.closes.length === 1)).toBe(true);
    expect(sinks.map((sink) => [sink.closes[0]?.code, sink.closes[0]?.retryable])).toEqual([
      ['PLANE_DISCONNECTED', true],
      ['PLANE_DISCONNECTED', true],
    ]);
    const dead = new Sink();
    a.open(address, opening, dead);
    await expect.poll(() => dead.closes[0]?.code).toBe('PLANE_UNREACHABLE');
    const again = await plane({ port });
    await again.serve('x', handler);
    a.open(address, opening, new Sink());
    await expect.poll(() => served.length).toBe(3);
    await pause(20);
    expect([...sinks, dead].every((sink) => sink.closes.length === 1)).toBe(true);
  });

  test('a peer that leaves says what it has taken: what came later never began, and goes elsewhere', async () => {
    const a = await plane();
    let dialled: net.Socket | undefined;
    let bytes = 0;
    const leaving = net.createServer((socket) => {
      dialled ??= socket;
      socket.on('error', () => undefined);
      socket.on('data', (chunk) => (bytes += chunk.length));
      if (dialled === socket) socket.write(frames([Frame.Welcome, 0, { protocol: WIRE_PROTOCOL, node: 'n', address: '' }]));
    });
    await new Promise<void>((resolve) => leaving.listen(0, '127.0.0.1', resolve));
    const address = `tcp://127.0.0.1:${(leaving.address() as net.AddressInfo).port}/x`;
    const sinks = [new Sink(), new Sink(), new Sink()];
    for (const sink of sinks) a.open(address, opening, sink);
    await expect.poll(() => bytes).toBeGreaterThan(200);
    dialled?.write(frames([Frame.Leave, 3, undefined])); // has taken streams 1 and 3
    await expect.poll(() => sinks.map(({ closes }) => closes[0]?.code)).toEqual([undefined, undefined, 'PLANE_UNREACHABLE']);
    a.open(address, opening, new Sink());
    await expect.poll(() => a.counts().connections, { message: 'a later stream dials anew' }).toBe(2);
    dialled?.end();
    await expect.poll(() => sinks.map(({ closes }) => closes.map((error) => error?.code))).toEqual([['PLANE_DISCONNECTED'], ['PLANE_DISCONNECTED'], ['PLANE_UNREACHABLE']]);
    leaving.close();
    await a.close();
  });

  test('leaves with the last stream it has taken, by the version that knows of it', async () => {
    for (const protocol of [WIRE_PROTOCOL, WIRE_PROTOCOL - 1]) {
      const b = await plane();
      const served: Sink[] = [];
      await b.serve('x', () => served[served.push(new Sink()) - 1]!);
      const peer = new RawPeer(b);
      const open = { name: 'x', method: 'm', message: { type: 'open' }, deadlineMs: 5_000 };
      peer.socket.write(frames(hello({ protocol }), [Frame.Open, 1, open], [Frame.Open, 5, open]));
      await expect.poll(() => served.length).toBe(2);
      const closed = b.close();
      peer.socket.write(frames([Frame.Open, 7, open])); // crosses the goodbye
      await expect.poll(() => peer.socket.readableEnded || peer.socket.destroyed).toBe(true);
      const leave = peer.received().filter(({ type }) => type === Frame.Leave);
      expect(leave.map(({ id }) => id)).toEqual(protocol === WIRE_PROTOCOL ? [5] : []);
      expect(peer.received().at(-1)?.type === Frame.Leave).toBe(protocol === WIRE_PROTOCOL);
      expect(served.length).toBe(2);
      await closed;
    }
  });

  test('an abrupt death of the peer process looks the same', async () => {
    const a = await plane();
    const died = net.createServer((socket) => {
      socket.on('error', () => undefined);
      socket.write(frames([Frame.Welcome, 0, { protocol: WIRE_PROTOCOL, node: 'n', address: '' }]));
      setTimeout(() => socket.resetAndDestroy(), 30);
    });
    await new Promise<void>((resolve) => died.listen(0, '127.0.0.1', resolve));
    const sink = new Sink();
    a.open(`tcp://127.0.0.1:${(died.address() as net.AddressInfo).port}/x`, opening, sink);
    await expect.poll(() => sink.closes.map((error) => error?.code)).toEqual(['PLANE_DISCONNECTED']);
    died.close();
  });

  test('a peer that does not read: sender is told, stream overflows, memory is bounded', async () => {
    const a = await plane();
    const mute = net.createServer((socket) => {
      socket.on('error', () => undefined);
      socket.pause();
      socket.write(frames([Frame.Welcome, 0, { protocol: WIRE_PROTOCOL, node: 'n', address: '' }]));
      planes.push({ close: () => Promise.resolve(void socket.destroy()) });
    });
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
    const sink = new Sink();
    const stream = a.open(`tcp://127.0.0.1:${(mute.address() as net.AddressInfo).port}/x`, opening, sink);
    let refused = 0;
    for (let i = 0; sink.closes.length === 0 && i < 1000; i++) {
      if (!stream.send({ type: 'n', data: new Uint8Array(32 << 10) })) refused++;
      await pause(0);
    }
    expect(refused).toBeGreaterThan(1);
    expect(sink.closes.map((error) => error?.code)).toEqual(['PLANE_STREAM_OVERFLOW']);
    mute.close();
  });

  test('silence beyond the ping deadline ends the connection; pings keep a quiet one alive', async () => {
    const quick = { pingIntervalMs: 20, pingDeadlineMs: 500 };
    const a = await plane(quick);
    const b = await plane(quick);
    const { address } = await b.serve('x', () => new Sink());
    const alive = new Sink();
    a.open(address, opening, alive);
    const silent = net.createServer((socket) => {
      socket.on('error', () => undefined);
      socket.write(frames([Frame.Welcome, 0, { protocol: WIRE_PROTOCOL, node: 'n', address: '' }]));
    });
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const sink = new Sink();
    a.open(`tcp://127.0.0.1:${(silent.address() as net.AddressInfo).port}/x`, opening, sink);
    await expect.poll(() => sink.closes.map((error) => error?.code), { timeout: 10_000 }).toEqual(['PLANE_DISCONNECTED']);
    expect(alive.closes).toEqual([]);
    silent.close();
  });

  test('a message beyond the frame limit ends its stream only', async () => {
    const a = await plane({ maxFrameBytes: 70_000 });
    const { address } = await a.serve('x', () => new Sink());
    const sink = new Sink();
    const stream = a.open(address, opening, sink);
    stream.send({ type: 'big', data: new Uint8Array(80_000) });
    await expect.poll(() => sink.closes.map((error) => error?.code)).toEqual(['PLANE_MESSAGE_TOO_LARGE']);
    expect(a.counts().connections).toBe(2);
  });
});

describe('handshake', () => {
  async function refusal(more: object): Promise<unknown> {
    const target = await plane();
    const peer = new RawPeer(target);
    peer.socket.write(frames(hello(more)));
    await peer.closed;
    return peer.received().map(({ type, body }) => [type, (body as unknown as ErrorData).code]);
  }

  test('another protocol or a wrong token is refused with a message', async () => {
    expect(await refusal({ protocol: WIRE_PROTOCOL + 1 })).toEqual([[Frame.Refuse, 'PLANE_PROTOCOL_MISMATCH']]);
    expect(await refusal({ protocol: 0 })).toEqual([[Frame.Refuse, 'PLANE_PROTOCOL_MISMATCH']]);
    expect(await refusal({ token: 'guess' })).toEqual([[Frame.Refuse, 'PLANE_AUTH_FAILED']]);
    expect(await refusal({ token: undefined })).toEqual([[Frame.Refuse, 'PLANE_AUTH_FAILED']]);
  });

  test('the dialler sees why it was refused', async () => {
    const target = await plane();
    const { address } = await target.serve('x', () => new Sink());
    const thief = await plane({ token: 'other' });
    const sink = new Sink();
    thief.open(address, opening, sink);
    await expect.poll(() => sink.closes.map((error) => error?.code)).toEqual(['PLANE_AUTH_FAILED']);
  });

  test('a worker in another language needs hello, open and message only', async () => {
    const target = await plane();
    const { address } = await target.serve('x', (_open, stream) => ({ message: (message) => void stream.send({ type: 'echo', of: message['n'] }), closed: () => undefined }));
    expect(address).toBe(`tcp://${target.address()}/x`);
    const peer = new RawPeer(target);
    peer.socket.write(frames(hello(), [Frame.Open, 1, { name: 'x', method: 'm', message: { type: 'open' }, deadlineMs: 1000 }], [Frame.Message, 1, { type: 'n', n: 5 }], [Frame.Close, 1, undefined]));
    await expect.poll(() => peer.received().map(({ type }) => type)).toEqual([Frame.Welcome, Frame.Message, Frame.Close]);
    expect(peer.received()[1]!.body).toEqual({ type: 'echo', of: 5 });
    peer.socket.destroy();
  });
});

describe('hostile bytes', () => {
  test('random frames after the hello never crash and end with a code (seeded)', async () => {
    const target = await plane();
    const served: Sink[] = [];
    await target.serve('x', () => served[served.push(new Sink()) - 1]!);
    for (let seed = 1; seed <= 60; seed++) {
      let state = seed;
      const below = (bound: number): number => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) % bound;
      const noise: [number, number, Uint8Array][] = Array.from({ length: 5 }, () => [1 + below(14), below(6), Uint8Array.from({ length: below(40) }, () => below(256))]);
      const peer = new RawPeer(target);
      const bytes = frames(hello(), ...noise);
      peer.socket.end(seed % 3 === 0 ? bytes.subarray(0, bytes.length - below(20)) : bytes);
      await peer.closed;
    }
    await expect.poll(() => target.counts().connections).toBe(0);
    const sink = new Sink();
    target.open(`tcp://${target.address()}/x`, opening, sink).send({ type: 'still alive' });
    await expect.poll(() => served.at(-1)?.messages.length).toBe(1);
  });

  test('frames out of turn are refused', async () => {
    const open = { name: 'x', method: 'm', message: { type: 'open' }, deadlineMs: 1000 };
    for (const bad of [
      [[Frame.Open, 2, open]],
      [
        [Frame.Open, 1, open],
        [Frame.Open, 1, open],
      ],
      [[Frame.Open, 1, { ...open, deadlineMs: 'soon' }]],
      [[Frame.Open, 1, []]],
      [[Frame.Hello, 0, {}]],
      [[Frame.Register, 0, { key: 'secrets/x', value: 1 }]],
      [[99, 1, {}]],
    ] as [number, number, PlainData][][]) {
      const target = await plane({ bridge: new MemoryBridge({ discovery: undefined, events: undefined, log: silentLog }) });
      await target.serve('x', () => new Sink());
      const peer = new RawPeer(target);
      peer.socket.write(frames(hello(), ...bad));
      await peer.closed;
      expect(peer.received().at(-1), JSON.stringify(bad)).toMatchObject({ type: Frame.Refuse, body: { code: 'PLANE_FRAME_INVALID' } });
    }
  });

  test('a peer that never says hello is cut', async () => {
    const target = await plane({ connectTimeoutMs: 30 });
    await new RawPeer(target).closed;
    await expect.poll(() => target.counts().connections).toBe(0);
  });

  test('deadlines run on the given clock', async () => {
    const clock = new ManualClock();
    const target = await plane();
    const { address } = await target.serve('x', () => new Sink());
    const caller = makePlane({ clock });
    const sink = new Sink();
    caller.open(address, { ...opening, deadlineMs: 100 }, sink);
    clock.advance(99);
    expect(sink.closes).toEqual([]);
    clock.advance(1);
    expect(sink.closes.map((error) => error?.code)).toEqual(['PLANE_DEADLINE_EXCEEDED']);
    const closing = caller.close();
    const ticking = setInterval(() => clock.advance(500), 1);
    await closing;
    clearInterval(ticking);
  });
});

/** The least a memory discovery must do. */
class TestDiscovery implements Discovery {
  readonly supports = { processes: false };
  readonly entries = new Map<string, PlainData>();
  readonly #watchers: { prefix: string; watcher: DiscoveryWatcher }[] = [];

  async register(key: string, value: PlainData): ReturnType<Discovery['register']> {
    if (this.entries.has(key)) throw new Error('taken');
    this.#put(key, value);
    return {
      update: async (next) => this.#put(key, next),
      close: async () => {
        if (this.entries.delete(key)) this.#each(key, (watcher) => watcher.removed(key));
      },
    };
  }
  async watch(prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }> {
    this.#watchers.push({ prefix, watcher });
    for (const [key, value] of this.entries) if (key.startsWith(prefix)) watcher.put({ key, value });
    watcher.synced?.();
    return { close: () => undefined };
  }
  #put(key: string, value: PlainData): void {
    this.entries.set(key, value);
    this.#each(key, (watcher) => watcher.put({ key, value }));
  }
  #each(key: string, run: (watcher: DiscoveryWatcher) => void): void {
    for (const { prefix, watcher } of this.#watchers) if (key.startsWith(prefix)) run(watcher);
  }
}

class TestEvents implements EventPlane {
  readonly supports = { processes: false };
  readonly #listeners: { prefix: string; listener: EventListener }[] = [];

  publish(subject: string, payload: PlainData): void {
    for (const { prefix, listener } of this.#listeners) if (subject.startsWith(prefix)) listener(subject, payload);
  }
  subscribe(prefix: string, listener: EventListener): { close(): void } {
    this.#listeners.push({ prefix, listener });
    return { close: () => undefined };
  }
}

interface Process {
  readonly plane: TcpRequestPlane;
  readonly discovery: TestDiscovery;
  readonly events: TestEvents;
  readonly seen: string[];
}

async function processWith(options: Parameters<typeof makePlane>[0] = {}): Promise<Process> {
  const discovery = new TestDiscovery();
  const events = new TestEvents();
  const seen: string[] = [];
  events.subscribe('', (subject, payload) => seen.push(`${subject}=${String(payload)}`));
  return { plane: await plane({ bridge: new MemoryBridge({ discovery, events, log: silentLog }), ...options }), discovery, events, seen };
}

describe('bridge', () => {
  test('registrations reach the peer, change, and go with the connection', async () => {
    const worker = await processWith();
    const registration = await worker.discovery.register('workers/m/a', 1);
    await worker.discovery.register('private/x', 1);
    const front = await processWith({ connect: [worker.plane.address()] });
    await front.discovery.register('workers/m/front', 'f');
    await expect.poll(() => front.discovery.entries.get('workers/m/a')).toBe(1);
    await expect.poll(() => worker.discovery.entries.get('workers/m/front')).toBe('f');
    expect(front.discovery.entries.has('private/x')).toBe(false);
    await registration.update(2);
    await expect.poll(() => front.discovery.entries.get('workers/m/a')).toBe(2);
    await worker.discovery.register('workers/m/b', 1);
    await expect.poll(() => front.discovery.entries.has('workers/m/b')).toBe(true);
    await registration.close();
    await expect.poll(() => front.discovery.entries.has('workers/m/a')).toBe(false);
    await worker.plane.close();
    await expect.poll(() => [...front.discovery.entries.keys()]).toEqual(['workers/m/front']);
    // Nothing came back to where it began.
    expect(worker.discovery.entries.has('workers/m/front')).toBe(false);
  });

  test('a peer that starts later, or comes back, is found again', async () => {
    const placeholder = await plane();
    const address = placeholder.address();
    await placeholder.close();
    const front = await processWith({ connect: [address] });
    await pause(30);
    const port = Number(address.split(':')[1]);
    const worker = await processWith({ port });
    await worker.discovery.register('workers/m/a', 1);
    await expect.poll(() => front.discovery.entries.get('workers/m/a'), { timeout: 5000 }).toBe(1);
    await worker.plane.close();
    await expect.poll(() => front.discovery.entries.size).toBe(0);
    const next = await processWith({ port });
    await next.discovery.register('workers/m/a', 2);
    await expect.poll(() => front.discovery.entries.get('workers/m/a'), { timeout: 5000 }).toBe(2);
  });

  test('events published before a frame are seen before it, and are not sent back', async () => {
    const worker = await processWith();
    const front = await processWith({ connect: [worker.plane.address()] });
    const { address } = await worker.plane.serve('w', (_open, stream) => {
      for (let i = 0; i < 50; i++) {
        worker.events.publish('kv/m/w', i);
        stream.send({ type: 'n', i });
      }
      worker.events.publish('kv/m/w', 'last');
      worker.events.publish('other/m', 'stays');
      stream.close();
      return new Sink();
    });
    const order: string[] = [];
    front.events.subscribe('kv/', (_subject, payload) => order.push(`e${String(payload)}`));
    await new Promise<void>((resolve) => {
      front.plane.open(address, opening, {
        message: ({ i }) => void order.push(`m${String(i)}`),
        closed: () => {
          order.push('closed');
          resolve();
        },
      });
    });
    expect(order).toEqual([...Array.from({ length: 50 }, (_, i) => [`e${i}`, `m${i}`]).flat(), 'elast', 'closed']);
    await pause(20);
    expect(worker.seen.filter((line) => line === 'kv/m/w=last')).toHaveLength(1);
    expect(front.seen).not.toContain('other/m=stays');
  });

  test('a hub does not pass on what it heard', async () => {
    const w1 = await processWith();
    const w2 = await processWith();
    const front = await processWith({ connect: [w1.plane.address(), w2.plane.address()] });
    await w1.discovery.register('workers/m/1', 1);
    await w2.discovery.register('workers/m/2', 2);
    await expect.poll(() => front.discovery.entries.size).toBe(2);
    await pause(20);
    expect([[...w1.discovery.entries.keys()], [...w2.discovery.entries.keys()]]).toEqual([['workers/m/1'], ['workers/m/2']]);
  });
});
