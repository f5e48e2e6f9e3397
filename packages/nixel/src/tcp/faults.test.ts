import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { TransportEndpoint } from '@armature/contracts';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { createAgent, descriptors } from '../index.ts';
import type { Agent } from '../index.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { answerOf, FakeOwner } from './fake-owner.test.support.ts';
import { FrameType, header } from './frames.ts';
import { encodeHello, helloProof } from './handshake.ts';
import type { TcpEndpoint } from './tcp-endpoint.ts';
import { TcpTransport } from './tcp-transport.ts';

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function endpoint(host: FakeTransferHost, options = {}): Promise<TcpEndpoint> {
  const opened = (await new TcpTransport({ clock: realClock, log: recordingLogger(), cancelGraceMs: 100, connectTimeoutMs: 300, ...options }).open(host)) as TcpEndpoint;
  closers.push(() => opened.close());
  return opened;
}

function post(from: TransportEndpoint, op: 'read' | 'write', length: number, peer = 'owner'): { token: number; ended: Promise<number> } {
  const columns = descriptors([{ segment: 1, offset: 0, length }]);
  let token = 0;
  const ended = new Promise<number>((resolve) => (token = from.post({ op, peer, local: columns, remote: columns, bytes: length }, undefined, resolve)));
  return { token, ended };
}

function connect(from: TransportEndpoint, port: number, peer = 'owner', incarnation = 'owner-1'): void {
  from.connect({ name: peer, incarnation, metadata: { host: '127.0.0.1', port }, segments: new Map() });
}

const fakeOwner = async (answer: (request: number) => Buffer | undefined): Promise<number> => (await FakeOwner.listen(answer, closers)).port;

describe('payload lands directly', () => {
  test('reads here, writes at the owner; a counter says so', async () => {
    const [a, b] = [new FakeTransferHost('a'), new FakeTransferHost('owner')];
    const [here, there] = [a.add(4 << 20), b.add(4 << 20, true)];
    there.bytes.fill(7);
    const [from, to] = [await endpoint(a), await endpoint(b)];
    connect(from, Number(to.metadata()['port']));
    expect(await post(from, 'read', 4 << 20).ended).toBe(TransferStatus.Done);
    expect(here.bytes.every((byte) => byte === 7)).toBe(true);
    here.bytes.fill(8);
    expect(await post(from, 'write', 4 << 20).ended).toBe(TransferStatus.Done);
    expect(there.bytes.every((byte) => byte === 8)).toBe(true);
    // What libuv read before the first readv of a turn is copied: less than an eighth.
    for (const { received } of [from, to]) {
      expect(received.directBytes + received.copiedBytes).toBe(4 << 20);
      expect(received.directBytes).toBeGreaterThan((4 << 20) * 0.875);
    }
  });
});

test('small transfers do not wait behind a large one while another connection is free', async () => {
  const [a, b] = [new FakeTransferHost('a'), new FakeTransferHost('owner')];
  a.add(64 << 20);
  b.add(64 << 20);
  const from = await endpoint(a, { streams: 2, splitBytes: 128 << 20 });
  connect(from, Number((await endpoint(b)).metadata()['port']));
  for (let i = 0; i < 2; i++) expect(await post(from, 'read', 10).ended).toBe(TransferStatus.Done);
  const order: string[] = [];
  const large = post(from, 'read', 64 << 20).ended.then(() => order.push('large'));
  for (let i = 0; i < 3; i++) await post(from, 'read', 16 << 10).ended.then(() => order.push('small'));
  await large;
  expect(order).toEqual(['small', 'small', 'small', 'large']);
});

describe('an owner that misbehaves', () => {
  const SIZE = 200_000;
  const payload = Buffer.alloc(SIZE, 5);

  test('truncated anywhere: never Done, and nothing outside the segment changes (seeded)', async () => {
    console.log('truncated answers: seeds 1 to 24');
    for (let seed = 1; seed <= 24; seed++) {
      const cut = Math.floor((((seed * 2_654_435_761) >>> 0) / 2 ** 32) * (SIZE + 47));
      const a = new FakeTransferHost('a');
      a.add(SIZE);
      const from = await endpoint(a);
      connect(from, await fakeOwner((request) => answerOf(request, payload).subarray(0, cut)));
      expect(await post(from, 'read', SIZE).ended, `seed ${seed}`).toBe(TransferStatus.RemoteDisconnected);
      a.assertGuards();
      expect(a.lost).toEqual(['owner']);
    }
  });

  test('wrong bytes in headers: a status, never Done with less than all (seeded)', async () => {
    console.log('flipped header bits: seeds 1 to 40');
    for (let seed = 1; seed <= 40; seed++) {
      const a = new FakeTransferHost('a');
      const here = a.add(SIZE);
      const from = await endpoint(a);
      const at = (seed * 7) % 48;
      connect(
        from,
        await fakeOwner((request) => {
          const bytes = answerOf(request, payload);
          bytes[at < 24 ? at : SIZE + at]! ^= 1 << (seed % 8);
          return bytes;
        }),
      );
      const status = await post(from, 'read', SIZE).ended;
      expect(status, `seed ${seed}`).toBeLessThanOrEqual(0);
      if (status === TransferStatus.Done) expect(here.bytes.every((byte) => byte === 5), `seed ${seed}`).toBe(true);
      a.assertGuards();
    }
  });

  test('silent: a cancelled read ends at once, its memory is free, other peers go on', async () => {
    const [a, b] = [new FakeTransferHost('a'), new FakeTransferHost('good')];
    a.add(SIZE);
    b.add(SIZE);
    const [from, good] = [await endpoint(a), await endpoint(b)];
    connect(from, await fakeOwner(() => undefined));
    connect(from, Number(good.metadata()['port']), 'good', 'good-1');
    const stuck = post(from, 'read', SIZE);
    expect(await post(from, 'read', SIZE, 'good').ended).toBe(TransferStatus.Done);
    from.cancel(stuck.token);
    expect(await stuck.ended).toBe(TransferStatus.Canceled);
  });

  test('that never answers the handshake is given up after the connect time', async () => {
    const server = net.createServer((socket) => closers.push(() => socket.destroy()));
    await once(server.listen(0, '127.0.0.1'), 'listening');
    closers.push(() => server.close());
    const a = new FakeTransferHost('a');
    a.add(SIZE);
    const from = await endpoint(a);
    connect(from, (server.address() as net.AddressInfo).port);
    expect(await post(from, 'read', SIZE).ended).toBe(TransferStatus.RemoteDisconnected);
  });
});

test('an initiator that asks and never reads holds a bounded queue; others are served', async () => {
  const b = new FakeTransferHost('owner');
  b.add(32 << 20);
  const to = await endpoint(b);
  const port = Number(to.metadata()['port']);
  const slow = net.connect({ host: '127.0.0.1', port });
  closers.push(() => slow.destroy());
  const challenge = (await once(slow, 'data'))[0] as Buffer;
  const facts = { nonce: Buffer.alloc(16), name: 'slow', incarnation: '1', peerIncarnation: 'owner-1' };
  const hello = encodeHello({ ...facts, proof: helloProof('', challenge.subarray(24), facts) });
  const row = Buffer.alloc(16);
  row.writeUInt32LE(1, 0);
  row.writeUInt32LE(32 << 20, 4);
  slow.pause();
  slow.write(Buffer.concat([header(FrameType.Hello, 0, 0, hello.length), hello, ...Array.from({ length: 100 }, (_, i) => Buffer.concat([header(FrameType.Read, i + 1, 0, 16), row]))]));
  await realClock.sleep(50);
  const before = process.memoryUsage();
  const a = new FakeTransferHost('a');
  a.add(32 << 20);
  const from = await endpoint(a);
  connect(from, port);
  for (let i = 0; i < 3; i++) expect(await post(from, 'read', 32 << 20).ended).toBe(TransferStatus.Done);
  // 100 reads of 32 MiB are asked for; at most a frame of views is queued.
  expect(process.memoryUsage().external - before.external).toBeLessThan(80 << 20);
});

const OWNER = `
const [, , index] = process.argv;
const { createAgent, TcpTransport } = await import(index);
const clock = { nowMs: () => performance.now(), setTimer: (ms, call) => setTimeout(call, ms), clearTimer: clearTimeout, defer: setImmediate };
const log = { debug() {}, info() {}, warn() {}, error() {} };
const agent = await createAgent({ name: 'owner', clock, log, transports: [new TcpTransport({ clock, log })] });
agent.register({ buffer: new ArrayBuffer(64 << 20) });
process.send(Buffer.from(agent.metadata()).toString('hex'));
setInterval(() => {}, 1000);
`;

describe('a real process', () => {
  const index = new URL('../../dist/index.js', import.meta.url).pathname;
  const isBuilt = fs.existsSync(index);
  if (!isBuilt) console.log('tests with real processes left out: packages/nixel is not built');

  async function withOwner(body: (it: { agent: Agent; child: ChildProcess; read: (deadlineMs?: number) => Promise<number> }) => Promise<void>): Promise<void> {
    const script = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'nixel-tcp-')), 'owner.mjs');
    fs.writeFileSync(script, OWNER);
    const child = fork(script, [index], { execArgv: [] });
    closers.push(() => child.kill('SIGKILL'), () => fs.rmSync(path.dirname(script), { recursive: true }));
    const [hex] = (await once(child, 'message')) as [string];
    const agent = await createAgent({ name: 'a', clock: realClock, log: recordingLogger(), transports: [new TcpTransport({ clock: realClock, log: recordingLogger(), cancelGraceMs: 100 })] });
    closers.push(() => agent.close());
    agent.register({ buffer: new ArrayBuffer(64 << 20) });
    agent.addPeer(Buffer.from(hex, 'hex'));
    const columns = descriptors([{ segment: 1, offset: 0, length: 64 << 20 }]);
    const read = (deadlineMs = 5000): Promise<number> => {
      const handle = agent.prepare({ op: 'read', peer: 'owner', local: columns, remote: columns });
      return new Promise((resolve) => agent.post(handle, { deadlineMs }, resolve));
    };
    expect(await read()).toBe(TransferStatus.Done);
    await body({ agent, child, read });
  }

  test.runIf(isBuilt)('killed in mid-transfer (kill -9): RemoteDisconnected, nothing left running', async () => {
    await withOwner(async ({ agent, child, read }) => {
      const running = Array.from({ length: 8 }, () => read());
      setTimeout(() => child.kill('SIGKILL'), 2);
      const statuses = await Promise.all(running);
      expect(statuses.every((status) => status === TransferStatus.Done || status === TransferStatus.RemoteDisconnected)).toBe(true);
      expect(statuses).toContain(TransferStatus.RemoteDisconnected);
      expect(await read()).toBe(TransferStatus.RemoteDisconnected);
      expect(agent.running()).toBe(0);
      // The listener is all that is left, and no timer of a transfer.
      await expect.poll(() => process.getActiveResourcesInfo().filter((name) => /TCPSocket/.test(name))).toEqual([]);
    });
  });

  test.runIf(isBuilt)('stopped (SIGSTOP, half-open): TimedOut by the deadline; goes on when it wakes', async () => {
    await withOwner(async ({ agent, child, read }) => {
      child.kill('SIGSTOP');
      expect(await Promise.all([read(150), read(150)])).toEqual([TransferStatus.TimedOut, TransferStatus.TimedOut]);
      expect(agent.running()).toBe(0);
      child.kill('SIGCONT');
      expect(await read()).toBe(TransferStatus.Done);
    });
  });
});
