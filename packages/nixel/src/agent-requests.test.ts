import { afterEach, describe, expect, test } from 'vitest';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { TransferPlan, TransferTransport, TransportEndpoint } from '@armature/contracts';
import { createAgent, descriptors, MemoryTransport } from './index.ts';
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

function random(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}

async function pair(transports: readonly TransferTransport[], bytes = 1000, options: Partial<AgentOptions> = {}) {
  const [a, b] = [await make('a', transports, options), await make('b', transports, options)];
  const [here, there] = [a.register({ buffer: new ArrayBuffer(bytes) }), b.register({ buffer: new ArrayBuffer(bytes) })];
  for (let i = 0; i < bytes; i++) there.bytes[i] = i % 251;
  a.addPeer(b.metadata());
  return { a, b, here, there };
}

/** A transport that takes anything that `reaches` and does what the test says. */
function scripted(name: string, post: (plan: TransferPlan, done: (status: TransferStatus) => void, notification: Uint8Array | undefined) => void, facts: { micros?: number; notifications?: boolean; canMove?: boolean } = {}) {
  const log: string[] = [];
  const endpoint: TransportEndpoint = {
    metadata: () => ({ at: name }),
    canMove: () => facts.canMove ?? true,
    canReach: ({ at }) => at === name,
    connect: ({ name: peer, segments }) => void log.push(`connect ${peer} ${segments.size}`),
    disconnect: (peer) => void log.push(`disconnect ${peer}`),
    estimateMicros: () => facts.micros ?? 1,
    post: (plan, notification, done) => {
      log.push(`post ${plan.op}${notification === undefined ? '' : ' notifying'}`);
      post(plan, done, notification);
      return log.length;
    },
    cancel: () => void log.push('cancel'),
    notify: (_peer, payload) => {
      log.push(`notify ${payload.join()}`);
      return facts.notifications !== false;
    },
    close: () => Promise.resolve(),
  };
  const transport: TransferTransport = {
    name,
    supports: { sameProcess: true, sameHost: true, remoteHosts: true, notifications: facts.notifications ?? true, kinds: ['dram'] },
    unavailable: () => undefined,
    open: () => Promise.resolve(endpoint),
  };
  return { transport, log };
}

describe('lists and requests', () => {
  test('random requests by index equal a naive copy, strided and by rows', async () => {
    for (let round = 0; round < 30; round++) {
      const seed = 500 + round;
      const below = random(seed);
      const layout = { blockStrideBytes: 48, pieces: 3, pieceBytes: 1 + below(16), pieceStrideBytes: 16 };
      const rowsOf = (segment: number) => descriptors(Array.from({ length: 20 * 3 }, (_, i) => ({ segment, offset: Math.floor(i / 3) * 48 + (i % 3) * 16, length: layout.pieceBytes })));
      const { a, here, there } = await pair([new MemoryTransport({ clock: realClock })], 48 * 20);
      const local = below(2) === 0 ? a.prepareList({ segment: here.id, layout, blocks: 20 }) : a.prepareList({ descriptors: rowsOf(here.id), rowsPerIndex: 3 });
      const remote = below(2) === 0 ? a.prepareList({ peer: 'b', segment: there.id, layout, blocks: 20 }) : a.prepareList({ peer: 'b', descriptors: rowsOf(there.id), rowsPerIndex: 3 });
      const order = (): Int32Array => Int32Array.from(Array.from({ length: 20 }, (_, i) => i).sort(() => below(3) - 1)).subarray(0, 12);
      const [localIndices, remoteIndices] = [order(), order()];
      const want = here.bytes.slice();
      localIndices.forEach((to, i) => {
        for (let p = 0; p < 3; p++) want.set(there.bytes.subarray(remoteIndices[i]! * 48 + p * 16, remoteIndices[i]! * 48 + p * 16 + layout.pieceBytes), to * 48 + p * 16);
      });
      const handle = a.make({ op: 'read', local, localIndices, remote, remoteIndices });
      expect(handle, `seed ${seed}`).toMatchObject({ descriptors: 36, bytes: 36 * layout.pieceBytes });
      expect(await a.run(handle)).toBe(TransferStatus.Done);
      expect(Buffer.compare(here.bytes, want), `seed ${seed}`).toBe(0);
    }
  });

  test('neighbours are joined: whole blocks in order are one piece for the transport', async () => {
    const seen: number[] = [];
    const { transport } = scripted('x', (plan, done) => {
      seen.push(plan.local.count);
      done(TransferStatus.Done);
    });
    const { a, here, there } = await pair([transport], 4096);
    const layout = { blockStrideBytes: 64, pieces: 2, pieceBytes: 32, pieceStrideBytes: 32 };
    const [local, remote] = [a.prepareList({ segment: here.id, layout, blocks: 64 }), a.prepareList({ peer: 'b', segment: there.id, layout, blocks: 64 })];
    const ask = (localIndices: number[], remoteIndices: number[]) => a.run(a.make({ op: 'read', local, localIndices: Int32Array.from(localIndices), remote, remoteIndices: Int32Array.from(remoteIndices) }));
    await ask([0, 1, 2, 3], [10, 11, 12, 13]);
    await ask([0, 1, 2, 3], [10, 11, 13, 12]);
    await ask([3, 2, 1, 0], [3, 2, 1, 0]);
    await ask([], []);
    expect(seen).toEqual([1, 3, 4, 0]);
  });

  test('what is wrong is found before a post', async () => {
    const { a, b, here, there } = await pair([new MemoryTransport({ clock: realClock })]);
    const layout = { blockStrideBytes: 100, pieces: 1, pieceBytes: 100, pieceStrideBytes: 0 };
    const local = a.prepareList({ segment: here.id, layout, blocks: 10 });
    const remote = a.prepareList({ peer: 'b', segment: there.id, layout, blocks: 10 });
    const one = Int32Array.of(0);
    const ask = (options: Partial<Parameters<Agent['make']>[0]>) => code(() => a.make({ op: 'read', local, localIndices: one, remote, remoteIndices: one, ...options }));
    expect(ask({})).toBe('no error');
    const wrong = [
      ask({ localIndices: Int32Array.of(10) }),
      ask({ remoteIndices: Int32Array.of(-1) }),
      ask({ remoteIndices: Int32Array.of(0, 1) }),
      ask({ local: remote }),
      ask({ remote: local }),
      ask({ remote: a.prepareList({ peer: 'b', segment: there.id, layout: { ...layout, pieceBytes: 99 }, blocks: 10 }) }),
      ask({ remote: a.prepareList({ peer: 'b', segment: there.id, layout: { ...layout, pieces: 2, pieceBytes: 50 }, blocks: 10 }) }),
      code(() => a.prepareList({ segment: here.id, layout, blocks: 11 })),
      code(() => a.prepareList({ segment: 77, layout, blocks: 1 })),
      code(() => a.prepareList({ segment: here.id, layout: { ...layout, blockStrideBytes: 0.5 }, blocks: 1 })),
      code(() => a.prepareList({ descriptors: row(here.id, 0, 10), rowsPerIndex: 2 })),
    ];
    expect(new Set(wrong)).toEqual(new Set(['TRANSFER_DESCRIPTOR_INVALID']));
    expect(code(() => a.prepareList({ peer: 'nobody', segment: 1, layout, blocks: 1 }))).toBe('TRANSFER_PEER_UNKNOWN');
    expect(b.counters.posted + a.counters.posted).toBe(0);
  });

  test('callers may reuse their columns: a handle keeps its own', async () => {
    const { a, here, there } = await pair([new MemoryTransport({ clock: realClock })]);
    const [local, remote] = [row(here.id, 0, 10), row(there.id, 3, 10)];
    const handle = a.prepare({ op: 'read', peer: 'b', local, remote });
    local.offsets[0] = 500;
    expect(await a.run(handle)).toBe(TransferStatus.Done);
    expect([here.bytes[0], here.bytes[500]]).toEqual([3, 0]);
  });

  test('own memory is a peer too; its notifications arrive here', async () => {
    const a = await make('a', [new MemoryTransport({ clock: realClock })]);
    const from = a.register({ buffer: new ArrayBuffer(10), access: 'granted' });
    from.bytes.fill(4);
    const first = a.prepare({ op: 'read', peer: 'a', local: row(from.id, 0, 1), remote: row(from.id, 1, 1) });
    const to = a.register({ buffer: new ArrayBuffer(10) });
    const handle = a.prepare({ op: 'write', peer: 'a', local: row(from.id, 0, 10), remote: row(to.id, 0, 10) });
    expect([await a.run(first), await a.run(handle, { notification: Uint8Array.of(1) }), to.bytes[9]]).toEqual([0, 0, 4]);
    expect(a.takeNotifications()).toEqual([{ peer: 'a', payload: Uint8Array.of(1) }]);
    expect(a.peers()).toEqual([]);
    a.deregister(to.id);
    expect(await a.run(handle)).toBe(TransferStatus.NotFound);
    expect(code(() => a.addPeer(a.metadata()))).toBe('TRANSFER_PEER_NAME_TAKEN');
  });
});

describe('metadata in parts', () => {
  test('partial adds, whole takes away, older is ignored, what was invalidated does not come back by older metadata', async () => {
    const { a, b, here, there } = await pair([new MemoryTransport({ clock: realClock })]);
    const [x, y] = [b.register({ buffer: new ArrayBuffer(20) }), b.register({ buffer: new ArrayBuffer(30) })];
    const known = () => [there, x, y].map(({ id }) => a.peerSegmentBytes('b', id));
    a.addPeer(b.metadata({ segments: [y.id] }));
    expect(known()).toEqual([1000, undefined, 30]);
    const before = b.metadata();
    a.addPeer(before);
    expect(known()).toEqual([1000, 20, 30]);
    const handle = a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 20), remote: row(x.id, 0, 20) });
    a.invalidateSegments('b', [x.id]);
    expect(await a.run(handle)).toBe(TransferStatus.NotFound);
    a.addPeer(before);
    expect(known()).toEqual([1000, undefined, 30]);
    b.deregister(y.id);
    a.addPeer(b.metadata());
    expect(known()).toEqual([1000, 20, undefined]);
    a.addPeer(before);
    expect(known()).toEqual([1000, 20, undefined]);
    expect(await a.run(handle)).toBe(TransferStatus.Done);
    expect(a.counters.rechecks).toBe(2);
  });

  test('invalidation ends running transfers over the segment, and only those', async () => {
    const clock = new ManualClock();
    const { a, b, here, there } = await pair([new MemoryTransport({ clock, completion: 'deferred', delayMs: () => 10 })], 1000, { clock });
    const other = b.register({ buffer: new ArrayBuffer(1000) });
    a.addPeer(b.metadata());
    const ends: number[] = [];
    for (const segment of [there, other]) a.post(a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 10), remote: row(segment.id, 0, 10) }), {}, (status) => ends.push(status));
    a.invalidateSegments('b', [there.id]);
    expect(ends).toEqual([TransferStatus.NotFound]);
    clock.advance(10);
    expect(ends).toEqual([TransferStatus.NotFound, TransferStatus.Done]);
  });
});

describe('limits', () => {
  test('posts beyond the limit end as Overloaded, others go on; the handle can be posted later', async () => {
    const clock = new ManualClock();
    const { a, here, there } = await pair([new MemoryTransport({ clock, completion: 'deferred', delayMs: () => 10 })], 1000, { clock, maxRunningPerPeer: 3 });
    const handles = Array.from({ length: 5 }, (_, i) => a.prepare({ op: 'read', peer: 'b', local: row(here.id, i, 1), remote: row(there.id, i, 1) }));
    const ends: number[] = [];
    expect(handles.map((handle) => a.post(handle, {}, (status) => ends.push(status)))).toEqual([1, 1, 1, TransferStatus.Overloaded, TransferStatus.Overloaded]);
    expect(ends).toEqual([TransferStatus.Overloaded, TransferStatus.Overloaded]);
    clock.advance(10);
    expect(a.post(handles[4]!)).toBe(TransferStatus.InProgress);
    clock.advance(10);
    expect([a.counters.overloaded, a.counters.done, a.running(), clock.pending]).toEqual([2, 4, 0, 0]);
  });

  test('one timer serves all deadlines', async () => {
    const clock = new ManualClock();
    const { transport, log } = scripted('mute', () => undefined);
    const { a, here, there } = await pair([transport], 1000, { clock });
    const ends: string[] = [];
    [30, 10, 20].forEach((deadlineMs, i) => a.post(a.prepare({ op: 'read', peer: 'b', local: row(here.id, i, 1), remote: row(there.id, i, 1) }), { deadlineMs }, () => ends.push('ended')));
    expect(clock.pending).toBe(1);
    clock.advance(30);
    expect(log.filter((line) => line === 'cancel')).toHaveLength(3);
    // Cancelled at 10, 20 and 30; until the transport's word they stay in progress and their memory stays theirs.
    expect([a.running(), ends, clock.pending]).toEqual([3, [], 0]);
  });

  test('notifications without a listener wait, 1,024 of them', async () => {
    const { a, b } = await pair([new MemoryTransport({ clock: realClock })]);
    for (let i = 0; i < 1030; i++) a.notify('b', Uint8Array.of(i & 0xff, i >> 8));
    expect([b.counters.notificationsReceived, b.counters.notificationsDropped]).toEqual([1030, 6]);
    const kept: Uint8Array[] = [];
    b.onNotification((_peer, payload) => kept.push(payload));
    expect([kept.length, kept[0]!.join(), b.takeNotifications().length]).toEqual([1024, '6,0', 0]);
  });
});

describe('several paths', () => {
  const failing = (status: TransferStatus) => (_plan: TransferPlan, done: (status: TransferStatus) => void) => done(status);

  test('a read whose path breaks runs again on the next one; a write does not', async () => {
    const broken = scripted('broken', failing(TransferStatus.RemoteDisconnected), { micros: 0.001 });
    const { a, here, there } = await pair([broken.transport, new MemoryTransport({ clock: realClock })]);
    const read = a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 10), remote: row(there.id, 3, 10) });
    const write = a.prepare({ op: 'write', peer: 'b', local: row(here.id, 0, 10), remote: row(there.id, 3, 10) });
    expect(await a.run(read, { notification: Uint8Array.of(1) })).toBe(TransferStatus.Done);
    expect([here.bytes[0], a.counters.fallbacks, [...a.counters.byTransport.keys()]]).toEqual([3, 1, ['memory']]);
    // The broken path rests now: the next goes straight to the other one.
    expect(await a.run(read)).toBe(TransferStatus.Done);
    expect(broken.log.filter((line) => line.startsWith('post'))).toEqual(['post read notifying']);
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(await a.run(write)).toBe(TransferStatus.RemoteDisconnected);
    expect([a.counters.fallbacks, a.counters.failed]).toEqual([1, 1]);
  });

  test('a path that cannot move the kind is not asked; NotSupported moves on, for writes too', async () => {
    const unable = scripted('unable', failing(TransferStatus.Done), { micros: 0.001, canMove: false });
    const refusing = scripted('refusing', failing(TransferStatus.NotSupported), { micros: 0.002 });
    const { a, here, there } = await pair([unable.transport, refusing.transport, new MemoryTransport({ clock: realClock })]);
    expect(await a.run(a.prepare({ op: 'write', peer: 'b', local: row(here.id, 0, 10), remote: row(there.id, 0, 10) }))).toBe(TransferStatus.Done);
    expect(unable.log).toEqual(['connect b 1']);
    expect(refusing.log).toEqual(['connect b 1', 'post write']);
    const file = a.register({ location: { type: 'file', path: '/x', fd: -1, direct: false }, lengthBytes: 10 });
    const onlyMemory = a.prepare({ op: 'write', peer: 'b', local: row(file.id, 0, 10), remote: row(there.id, 0, 10) });
    expect(await a.run(onlyMemory)).toBe(TransferStatus.NotSupported);
  });

  test('cancelled or removed, nothing falls back', async () => {
    let end: (status: TransferStatus) => void = () => undefined;
    const slow = scripted('slow', (_plan, done) => (end = done), { micros: 0.001 });
    const { a, here, there } = await pair([slow.transport, new MemoryTransport({ clock: realClock })]);
    const handle = a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 10), remote: row(there.id, 0, 10) });
    a.post(handle);
    a.cancel(handle);
    end(TransferStatus.RemoteDisconnected);
    expect(a.check(handle)).toBe(TransferStatus.RemoteDisconnected);
    expect([a.counters.fallbacks, a.counters.done]).toEqual([0, 0]);
  });

  test('a path without notifications: another one carries them after the data', async () => {
    const quiet = scripted('quiet', failing(TransferStatus.Done), { micros: 0.001, notifications: false });
    const { a, b, here, there } = await pair([quiet.transport, new MemoryTransport({ clock: realClock })]);
    expect(await a.run(a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 10), remote: row(there.id, 0, 10) }), { notification: Uint8Array.of(6) })).toBe(TransferStatus.Done);
    expect(quiet.log).toEqual(['connect b 1', 'post read']);
    expect(b.takeNotifications()).toEqual([{ peer: 'a', payload: Uint8Array.of(6) }]);
  });

  test('a transport that reports twice is logged, the status stays', async () => {
    const twice = scripted('twice', (_plan, done) => {
      done(TransferStatus.Done);
      done(TransferStatus.TransportError);
    });
    const log = recordingLogger();
    const { a, here, there } = await pair([twice.transport], 1000, { log });
    expect(await a.run(a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 10), remote: row(there.id, 0, 10) }))).toBe(TransferStatus.Done);
    expect(log.lines.filter(({ level }) => level === 'error')).toHaveLength(1);
  });

  test('posting again from within done works, with its own token and deadline', async () => {
    const clock = new ManualClock();
    const { a, here, there } = await pair([new MemoryTransport({ clock, completion: 'deferred', delayMs: () => 10 })], 1000, { clock });
    const handle = a.prepare({ op: 'read', peer: 'b', local: row(here.id, 0, 10), remote: row(there.id, 0, 10) });
    const ends: number[] = [];
    a.post(handle, {}, (status) => {
      ends.push(status);
      a.post(handle, { deadlineMs: 5 }, (again) => ends.push(again));
    });
    clock.advance(100);
    expect(ends).toEqual([TransferStatus.Done, TransferStatus.TimedOut]);
    expect([a.running(), clock.pending]).toEqual([0, 0]);
  });
});
