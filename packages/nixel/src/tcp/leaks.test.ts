import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import net from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { TransferSegment } from '@armature/contracts';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { descriptors } from '../descriptors.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { answerOf, FakeOwner } from './fake-owner.test.support.ts';
import { encodeTable, FrameType, header } from './frames.ts';
import { encodeHello, helloProof } from './handshake.ts';
import type { TcpEndpoint } from './tcp-endpoint.ts';
import { TcpTransport } from './tcp-transport.ts';

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const SIZE = 1 << 20;
/** Several transfers at once, then the fault, as often as this. */
const ROUNDS = 40;

async function endpoint(host: FakeTransferHost, options = {}): Promise<TcpEndpoint> {
  const opened = (await new TcpTransport({ clock: realClock, log: recordingLogger(), cancelGraceMs: 50, connectTimeoutMs: 5000, ...options }).open(host)) as TcpEndpoint;
  closers.push(() => opened.close());
  return opened;
}

function connect(from: TcpEndpoint, port: number, peer = 'owner'): void {
  from.connect({ name: peer, incarnation: `${peer}-1`, metadata: { host: '127.0.0.1', port }, segments: new Map() });
}

function post(from: TcpEndpoint, op: 'read' | 'write', peer = 'owner', length = SIZE): { token: number; ended: Promise<number> } {
  const columns = descriptors([{ segment: 1, offset: 0, length }]);
  let token = 0;
  const ended = new Promise<number>((resolve) => (token = from.post({ op, peer, local: columns, remote: columns, bytes: length }, undefined, resolve)));
  return { token, ended };
}

const gc = ((): (() => void) => {
  setFlagsFromString('--expose_gc');
  return runInNewContext('gc') as () => void;
})();

interface Held {
  readonly fds: number;
  readonly resources: number;
  readonly bytes: number;
}

/** What a process can run out of: descriptors, sockets and timers of the event loop, memory outside the heap. */
async function held(): Promise<Held> {
  for (let i = 0; i < 3; i++) {
    await realClock.sleep(10);
    gc();
  }
  const resources = process.getActiveResourcesInfo().filter((name) => !/Immediate|TickObject|Promise/.test(name)).length;
  return { fds: readdirSync('/proc/self/fd').length, resources, bytes: process.memoryUsage().arrayBuffers };
}

/** Runs the fault until first-time effects are over, then `ROUNDS` times more: nothing may be left of those. */
async function leavesNothing(fault: (round: number) => Promise<void>, times = ROUNDS): Promise<void> {
  for (let round = 0; round < 5; round++) await fault(round);
  const before = await held();
  for (let round = 0; round < times; round++) await fault(round);
  const after = await held();
  expect(after.fds, 'descriptors').toBeLessThanOrEqual(before.fds + 1);
  expect(after.resources, 'sockets and timers').toBeLessThanOrEqual(before.resources + 1);
  // A link has 48 KiB of its own: a quarter of them left would show.
  expect(after.bytes - before.bytes, 'memory').toBeLessThan((times * 48 << 10) / 4);
}

describe('one endpoint, fault after fault: nothing is left behind', () => {
  async function initiator(options = {}): Promise<TcpEndpoint> {
    const a = new FakeTransferHost('a');
    a.add(SIZE);
    return endpoint(a, options);
  }

  const answers: Record<string, (request: number) => Buffer | undefined> = {
    'a truncated frame': (request) => answerOf(request, Buffer.alloc(SIZE, 5)).subarray(0, SIZE / 2),
    'a wrong magic': () => Buffer.alloc(24, 0xff),
    'an end before the data': (request) => header(FrameType.End, request, 0, 0),
    'more data than asked for': (request) => Buffer.concat([header(FrameType.Data, request, 0, SIZE), Buffer.alloc(SIZE), header(FrameType.Data, request, 0, 1), Buffer.alloc(1)]),
    'data for a write': (request) => header(FrameType.Data, request + 7, 0, 10),
  };
  for (const [name, answer] of Object.entries(answers)) {
    test(name, async () => {
      const from = await initiator();
      const owner = await FakeOwner.listen(answer, closers);
      connect(from, owner.port);
      await leavesNothing(async () => {
        for (const status of await Promise.all([post(from, 'read').ended, post(from, 'read').ended])) expect(status).toBe(TransferStatus.RemoteDisconnected);
      });
    });
  }

  test('a half-open peer: accepts and says nothing', async () => {
    const from = await initiator({ connectTimeoutMs: 50 });
    const sockets = new Set<net.Socket>();
    const server = net.createServer((socket) => sockets.add(socket.on('error', () => undefined).on('close', () => sockets.delete(socket))));
    await once(server.listen(0, '127.0.0.1'), 'listening');
    closers.push(() => server.close());
    connect(from, (server.address() as net.AddressInfo).port);
    await leavesNothing(async () => expect(await post(from, 'read').ended).toBe(TransferStatus.RemoteDisconnected), 10);
    for (const socket of sockets) socket.destroy();
  });

  test('reads and writes cancelled in flight', async () => {
    const [from, b] = [await initiator(), new FakeTransferHost('owner')];
    b.add(SIZE);
    connect(from, Number((await endpoint(b)).metadata()['port']));
    expect(await post(from, 'read').ended).toBe(TransferStatus.Done);
    await leavesNothing(async (round) => {
      const { token, ended } = post(from, round % 2 === 0 ? 'read' : 'write');
      if (round % 4 < 2) await new Promise(setImmediate);
      from.cancel(token);
      expect([TransferStatus.Canceled, TransferStatus.Done]).toContain(await ended);
    }, 200);
  });

  test('the owner goes and comes, with transfers under way', async () => {
    const from = await initiator();
    await leavesNothing(async (round) => {
      const b = new FakeTransferHost('owner');
      b.add(SIZE);
      const to = (await new TcpTransport({ clock: realClock, log: recordingLogger() }).open(b)) as TcpEndpoint;
      connect(from, Number(to.metadata()['port']));
      expect(await post(from, round % 2 === 0 ? 'read' : 'write').ended).toBe(TransferStatus.Done);
      const running = [post(from, 'read').ended, post(from, 'write').ended];
      await to.close();
      for (const status of await Promise.all(running)) expect([TransferStatus.Done, TransferStatus.RemoteDisconnected]).toContain(status);
    });
  });

  test('an owner attacked again and again: wrong magic, torn hellos, requests cut off in the middle of data', async () => {
    const b = new FakeTransferHost('owner');
    b.add(SIZE);
    const port = Number((await endpoint(b)).metadata()['port']);
    await leavesNothing(async (round) => {
      const raw = await Raw.open(port);
      if (round % 3 === 0) raw.socket.write(Buffer.alloc(100, 0xff));
      else if (round % 3 === 1) raw.socket.end(raw.hello.subarray(0, 30));
      else {
        raw.socket.write(Buffer.concat([raw.hello, raw.write(1, SIZE), header(FrameType.Data, 1, 0, SIZE), Buffer.alloc(SIZE / 2)]));
        await new Promise(setImmediate);
        raw.socket.resetAndDestroy();
      }
      raw.socket.resume();
      await raw.closed;
    }, 60);
    b.assertGuards();
  });

  test('sabotage: a socket kept from each round is found', async () => {
    const server = net.createServer((socket) => closers.push(() => socket.destroy()));
    await once(server.listen(0, '127.0.0.1'), 'listening');
    closers.push(() => server.close());
    const keeps = leavesNothing(async () => {
      const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
      closers.push(() => socket.destroy());
      await once(socket, 'connect');
    });
    await expect(keeps).rejects.toThrow(/descriptors/);
  });
});

/** A connection to an owner by hand. */
class Raw {
  readonly socket: net.Socket;
  readonly hello: Buffer;
  readonly closed: Promise<void>;

  private constructor(socket: net.Socket, challenge: Buffer) {
    this.socket = socket;
    const facts = { nonce: Buffer.alloc(16), name: 'raw', incarnation: '1', peerIncarnation: 'owner-1' };
    const body = encodeHello({ ...facts, proof: helloProof('', challenge, facts) });
    this.hello = Buffer.concat([header(FrameType.Hello, 0, 0, body.length), body]);
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
  }

  static async open(port: number): Promise<Raw> {
    const socket = net.connect({ host: '127.0.0.1', port });
    socket.on('error', () => undefined);
    closers.push(() => socket.destroy());
    const challenge = (await once(socket, 'data'))[0] as Buffer;
    return new Raw(socket, challenge.subarray(24));
  }

  write(id: number, length: number): Buffer {
    return Buffer.concat([header(FrameType.Write, id, 0, 16), encodeTable(descriptors([{ segment: 1, offset: 0, length }]))]);
  }

  /** Ends that have come, as [request, status]. */
  ends(): [number, number][] {
    const found: [number, number][] = [];
    let held = Buffer.alloc(0);
    this.socket.on('data', (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]);
      for (; held.length >= 24 && held.length >= 24 + held.readUInt32LE(16); held = held.subarray(24 + held.readUInt32LE(16))) {
        if (held[4] === FrameType.End) found.push([held.readUInt32LE(8), held.readInt32LE(12)]);
      }
    });
    return found;
  }
}

describe('an owner', () => {
  test('takes access back in the middle of a write: no later byte lands, the request ends as NotAllowed', async () => {
    const b = new FakeTransferHost('owner');
    const there: TransferSegment = b.add(SIZE, true);
    const to = await endpoint(b);
    const raw = await Raw.open(Number(to.metadata()['port']));
    const ends = raw.ends();
    raw.socket.write(Buffer.concat([raw.hello, raw.write(1, SIZE), header(FrameType.Data, 1, 0, SIZE), Buffer.alloc(SIZE / 2, 1)]));
    await expect.poll(() => there.bytes[SIZE / 2 - 1]).toBe(1);
    b.closedSegments.add(there.id);
    to.accessChanged('raw');
    there.bytes.fill(9);
    raw.socket.write(Buffer.concat([Buffer.alloc(SIZE / 2, 1), raw.write(2, 10)]));
    await expect.poll(() => ends).toEqual([[1, TransferStatus.NotAllowed], [2, TransferStatus.NotAllowed]]);
    expect(there.bytes.every((byte) => byte === 9)).toBe(true);
  });

  test('sabotage: without being told, the bytes land', async () => {
    const b = new FakeTransferHost('owner');
    const there: TransferSegment = b.add(SIZE, true);
    const raw = await Raw.open(Number((await endpoint(b)).metadata()['port']));
    raw.socket.write(Buffer.concat([raw.hello, raw.write(1, SIZE), header(FrameType.Data, 1, 0, SIZE), Buffer.alloc(SIZE / 2, 1)]));
    await expect.poll(() => there.bytes[SIZE / 2 - 1]).toBe(1);
    b.closedSegments.add(there.id);
    raw.socket.write(Buffer.alloc(SIZE / 2, 1));
    await expect.poll(() => there.bytes[SIZE - 1]).toBe(1);
  });

  test('holds tables of a bounded size: further requests end as Overloaded, and go on when others have ended', async () => {
    const b = new FakeTransferHost('owner');
    b.add(16, true);
    // 4 MiB each, all inside the segment; writes that never send their data stay.
    const table = encodeTable(descriptors(Array.from({ length: 1 << 18 }, () => ({ segment: 1, offset: 0, length: 1 }))));
    const write = (id: number): Buffer => Buffer.concat([header(FrameType.Write, id, 0, table.length), table]);
    const raw = await Raw.open(Number((await endpoint(b)).metadata()['port']));
    const ends = raw.ends();
    raw.socket.write(raw.hello);
    for (let id = 1; id <= 18; id++) raw.socket.write(write(id));
    await expect.poll(() => ends, { timeout: 10_000 }).toEqual([[17, TransferStatus.Overloaded], [18, TransferStatus.Overloaded]]);
    raw.socket.write(Buffer.concat([header(FrameType.Cancel, 1, 0, 0), write(19), write(20)]));
    await expect.poll(() => ends.slice(2), { timeout: 10_000 }).toEqual([[1, TransferStatus.Canceled], [20, TransferStatus.Overloaded]]);
  });
});

describe('a peer that went without a word', () => {
  test('is cut when a cancelled read is not answered and nothing else comes: later transfers fail at once', async () => {
    const a = new FakeTransferHost('a');
    a.add(SIZE);
    const from = await endpoint(a, { connectTimeoutMs: 500 });
    let asked = 0;
    const owner = await FakeOwner.listen(() => void asked++, closers);
    connect(from, owner.port);
    const stuck = post(from, 'read');
    const other = post(from, 'read');
    await expect.poll(() => asked, { timeout: 5000 }).toBe(2);
    from.cancel(stuck.token);
    expect(await stuck.ended).toBe(TransferStatus.Canceled);
    // Nobody cancels this one.
    expect(await other.ended).toBe(TransferStatus.RemoteDisconnected);
    expect(a.lost).toEqual(['owner']);
  });

  test('is not cut while anything comes from it', async () => {
    const [a, b] = [new FakeTransferHost('a'), new FakeTransferHost('owner')];
    a.add(SIZE);
    b.add(SIZE);
    const from = await endpoint(a, { connectTimeoutMs: 500 });
    connect(from, Number((await endpoint(b)).metadata()['port']));
    expect(await post(from, 'read').ended).toBe(TransferStatus.Done);
    const cancelled = post(from, 'read');
    from.cancel(cancelled.token);
    await cancelled.ended;
    await realClock.sleep(800);
    expect(a.lost).toEqual([]);
    expect(await post(from, 'read').ended).toBe(TransferStatus.Done);
  });
});
