import { describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { PeerSegment, TransferPlan, TransferSegment, TransportEndpoint } from '@armature/contracts';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { NixlResult } from './binding.ts';
import { FakeNixl, recordingLogger, SteppedClock } from './fake-nixl.test.support.ts';
import { NixlTransport } from './nixl-transport.ts';
import type { NixlTransportOptions } from './nixl-transport.ts';

const flush = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Two agents over a library in memory, in time that moves by hand. */
class Pair {
  readonly clock = new SteppedClock();
  readonly nixl = new FakeNixl();
  readonly log = recordingLogger();
  readonly a = new FakeTransferHost('a');
  b = new FakeTransferHost('b');
  readonly transport: NixlTransport;
  endpointA!: TransportEndpoint;
  endpointB!: TransportEndpoint;
  segments = new Map<number, PeerSegment>();
  readonly statuses: TransferStatus[] = [];

  constructor(options: Partial<NixlTransportOptions> = {}) {
    this.transport = new NixlTransport({ clock: this.clock, log: this.log, load: () => this.nixl, ...options });
  }

  async open(): Promise<this> {
    this.endpointA = await this.transport.open(this.a);
    this.endpointB = await this.transport.open(this.b);
    this.meet();
    return this;
  }

  meet(): void {
    this.a.onAdded = (segment) => this.endpointA.registered?.(segment);
    this.b.onAdded = (segment) => this.publish(segment);
    this.endpointA.connect({ name: 'b', incarnation: this.b.incarnation, metadata: this.endpointB.metadata(), segments: this.segments });
  }

  publish(segment: TransferSegment): void {
    this.endpointB.registered?.(segment);
    this.segments.set(segment.id, { id: segment.id, kind: segment.kind, lengthBytes: segment.lengthBytes, metadata: this.endpointB.segmentMetadata?.(segment) });
  }

  plan(op: 'read' | 'write', rows: number, bytes: number, [local, remote] = [1, 1]): TransferPlan {
    const columns = (segment: number) => ({ count: rows, segments: new Int32Array(rows).fill(segment), offsets: Float64Array.from({ length: rows }, (_, i) => i * bytes), lengths: new Int32Array(rows).fill(bytes) });
    return { op, peer: 'b', local: columns(local), remote: columns(remote), bytes: rows * bytes };
  }

  post(plan: TransferPlan, notification?: Uint8Array): number {
    return this.endpointA.post(plan, notification, (status) => this.statuses.push(status));
  }

  async close(): Promise<void> {
    const closed = Promise.all([this.endpointA.close(), this.endpointB.close()]);
    for (let i = 0; i < 300; i++) {
      this.clock.elapse(10);
      await flush();
    }
    await closed;
    expect(this.nixl.counts).toMatchObject({ agents: 0, prepared: 0, registrations: 0 });
    expect(this.nixl.counts.requests).toBe(this.nixl.counts.released);
  }
}

async function pair(options: Partial<NixlTransportOptions> = {}, bytes = 1 << 20): Promise<Pair> {
  const it = await new Pair(options).open();
  it.a.add(bytes);
  it.b.add(bytes).bytes.fill(7);
  return it;
}

describe('plans', () => {
  test('one request serves many posts of a plan; simultaneous posts get their own', async () => {
    const it = await pair();
    const plan = it.plan('read', 4, 1000);
    for (let i = 0; i < 5; i++) {
      it.post(plan);
      it.clock.elapse(5);
    }
    expect([it.statuses, it.nixl.counts.requests]).toEqual([[0, 0, 0, 0, 0], 1]);
    for (let i = 0; i < 3; i++) it.post(plan);
    it.clock.elapse(5);
    expect([it.statuses.length, it.nixl.counts.requests, it.nixl.counts.prepared]).toEqual([8, 3, 2]);
    await it.close();
  });
  test('a long row is split; its notification comes once, after all parts', async () => {
    const it = await pair({ splitBytes: 1 << 18 });
    it.post(it.plan('write', 1, 1 << 20), Uint8Array.of(5));
    expect(it.nixl.counts.posts).toBe(4);
    it.clock.elapse(20);
    expect(it.b.notifications).toEqual([{ peer: 'a', payload: Uint8Array.of(5) }]);
    await it.close();
  });
  test('at most 512 plans are kept', async () => {
    const it = await pair();
    for (let i = 0; i < 600; i++) {
      it.post(it.plan('read', 1, 10));
      it.clock.elapse(5);
    }
    expect([it.nixl.counts.prepared, it.statuses.length]).toEqual([1024, 600]);
    await it.close();
  });
});

describe('keys', () => {
  test('a segment that not everybody may read gets no key, one for reading says so', async () => {
    const it = await pair();
    const closed = it.b.add(100, false, 'closed');
    const readable = it.b.add(100, false, 'read');
    expect(it.segments.get(closed.id)!.metadata).toEqual({ access: 'none' });
    expect(it.segments.get(readable.id)!.metadata).toMatchObject({ access: 'read', memory: 0 });
    expect(JSON.stringify(it.endpointB.metadata())).not.toContain('key');
    for (const [op, id, status] of [['read', closed.id, -6], ['write', readable.id, -6], ['read', readable.id, 0]] as const) {
      it.post(it.plan(op, 1, 10, [1, id]));
      it.clock.elapse(5);
      expect(it.statuses.pop()).toBe(status);
    }
    await it.close();
  });
  test('memory given up and registered again is another entry, never a replaced key', async () => {
    const it = await pair();
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(5);
    const first = it.b.segments.get(1)!;
    it.endpointB.deregistered?.(first);
    const again = { ...first, id: 77 };
    it.b.segments.set(77, again);
    it.publish(again);
    expect(it.segments.get(77)!.metadata!['device']).not.toBe(it.segments.get(1)!.metadata!['device']);
    it.post(it.plan('read', 1, 10, [1, 77]));
    it.clock.elapse(5);
    expect(it.statuses).toEqual([0, 0]);
    await it.close();
  });
  test('metadata of a stranger under a peer\'s name is refused', async () => {
    const it = await pair();
    const stranger = await it.transport.open(new FakeTransferHost('eve'));
    it.endpointA.connect({ name: 'b', incarnation: 'b-1', metadata: { ...it.endpointB.metadata(), connection: stranger.metadata()['connection']! }, segments: it.segments });
    it.post(it.plan('read', 1, 10));
    expect(it.statuses).toEqual([TransferStatus.RemoteDisconnected]);
    expect(it.log.lines.some(({ message }) => message.includes('does not take the metadata'))).toBe(true);
    const closed = stranger.close();
    await it.close();
    await closed;
  });
});

describe('loss', () => {
  test('a killed peer: running transfers end, the loss is told once, a new life works', async () => {
    const it = await pair();
    it.nixl.stuck.add('b#b-1');
    it.post(it.plan('read', 1, 1000));
    it.post(it.plan('read', 2, 1000));
    it.nixl.kill('b#b-1');
    it.clock.elapse(50);
    expect([it.statuses, it.a.lost]).toEqual([[-10, -10], ['b']]);
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(2000);
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(50);
    expect([it.statuses.slice(2), it.a.lost]).toEqual([[-10, -10], ['b']]);
    const killed = it.endpointB.close();
    it.clock.elapse(1);
    it.b = new FakeTransferHost('b', 'b-2');
    it.segments = new Map();
    it.endpointB = await it.transport.open(it.b);
    it.meet();
    it.b.add(1 << 20).bytes.fill(9);
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(5);
    expect([it.statuses.at(-1), it.a.segments.get(1)!.bytes[0]]).toEqual([0, 9]);
    await it.close();
    await killed;
  });
  test('an idle loss is found by ping', async () => {
    const it = await pair();
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(10);
    it.nixl.kill('b#b-1');
    it.clock.elapse(900);
    expect(it.a.lost).toEqual([]);
    it.clock.elapse(200);
    expect(it.a.lost).toEqual(['b']);
    await it.close();
  });
  test('a broken connection to a peer that lives is made anew, not before the retry time', async () => {
    const it = await pair();
    it.nixl.failures.push(NixlResult.NotFound);
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(50);
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(1000);
    it.post(it.plan('read', 1, 10));
    it.clock.elapse(50);
    expect(it.statuses).toEqual([-10, -10, 0]);
    await it.close();
  });
  test('a failure with a connection that stands is a transport error', async () => {
    const it = await pair();
    it.nixl.failures.push(NixlResult.Backend);
    it.post(it.plan('read', 1, 10));
    expect(it.statuses).toEqual([]); // not before the connection is closed
    it.clock.elapse(50);
    expect(it.statuses).toEqual([TransferStatus.TransportError]);
    await it.close();
  });
});

describe('cancel', () => {
  test('what runs ends by itself; what was not begun is not begun', async () => {
    const it = await pair({ splitBytes: 1 << 18 });
    const token = it.post(it.plan('read', 1, 1 << 20));
    it.endpointA.cancel(token);
    expect(it.statuses).toEqual([]);
    it.clock.elapse(5);
    expect([it.statuses, it.nixl.counts.abandoned]).toEqual([[0], 0]);
    await it.close();
  });
  test('a request that does not end: not terminal before the connection is cut', async () => {
    const it = await pair();
    it.nixl.stuck.add('b#b-1');
    const token = it.post(it.plan('read', 1, 1000));
    it.endpointA.cancel(token);
    it.clock.elapse(999);
    expect([it.statuses, it.nixl.counts.abandoned]).toEqual([[], 0]);
    it.clock.elapse(2);
    expect([it.statuses, it.nixl.counts.abandoned]).toEqual([[], 1]);
    it.clock.elapse(11);
    expect(it.statuses).toEqual([TransferStatus.Canceled]);
    await it.close();
  });
});

test('a segment that the owner gives up is not found afterwards, without another post of the plan', async () => {
  const it = await pair();
  it.clock.elapse(10); // the owner has not been told of the reader: it hears its hello
  const plan = it.plan('read', 1, 10);
  it.post(plan);
  it.clock.elapse(5);
  it.endpointB.deregistered?.(it.b.segments.get(1)!);
  const before = it.nixl.counts.posts;
  it.post(plan);
  expect([it.statuses, it.nixl.counts.posts]).toEqual([[0, TransferStatus.NotFound], before]);
  await it.close();
});
