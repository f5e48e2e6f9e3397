import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { TransferPlan, TransferSegment, TransferTransport, TransportEndpoint } from '@armature/contracts';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { CmaTransport } from '../cma/cma-transport.ts';
import { allocateDescriptors } from '../descriptors.ts';
import { ShmTransport } from '../shm/shm-transport.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { held, OwnerProcess, pattern } from './peer-process.test.support.ts';

const MIB = 1 << 20;
const log = recordingLogger();
const make = {
  shm: (): TransferTransport => new ShmTransport({ clock: realClock, log, token: 'secret', connectTimeoutMs: 1000 }),
  cma: (): TransferTransport => new CmaTransport({ clock: realClock, log, token: 'secret', connectTimeoutMs: 1000, sameUserTrust: true }),
};

const owners: OwnerProcess[] = [];
const endpoints: TransportEndpoint[] = [];
afterEach(async () => {
  for (const endpoint of endpoints.splice(0)) await endpoint.close();
  for (const owner of owners.splice(0)) await owner.kill();
});

async function start(kind: 'shm' | 'cma', incarnation?: string): Promise<OwnerProcess> {
  const owner = await OwnerProcess.start(kind, incarnation);
  owners.push(owner);
  return owner;
}

/** One process for the tests that leave it as it was. */
const lasting = new Map<'shm' | 'cma', Promise<OwnerProcess>>();
afterAll(async () => {
  for (const owner of lasting.values()) await (await owner).kill();
});

function theOwner(kind: 'shm' | 'cma'): Promise<OwnerProcess> {
  let owner = lasting.get(kind);
  if (owner === undefined) lasting.set(kind, (owner = OwnerProcess.start(kind)));
  return owner;
}

async function initiator(kind: 'shm' | 'cma'): Promise<{ host: FakeTransferHost; endpoint: TransportEndpoint }> {
  const host = new FakeTransferHost('initiator');
  const endpoint = await make[kind]().open(host);
  endpoints.push(endpoint);
  return { host, endpoint };
}

/** Blocks of `blockBytes`, remote ones in an order that is not theirs. */
function blocks(op: 'read' | 'write', here: TransferSegment, there: number, blockBytes: number, bytes = here.lengthBytes): TransferPlan {
  const count = bytes / blockBytes;
  const local = allocateDescriptors(count);
  const remote = allocateDescriptors(count);
  for (let i = 0; i < count; i++) {
    local.segments[i] = here.id;
    remote.segments[i] = there;
    local.offsets[i] = i * blockBytes;
    remote.offsets[i] = ((i * 389) % count) * blockBytes;
    local.lengths[i] = remote.lengths[i] = blockBytes;
  }
  return { op, peer: 'owner', local, remote, bytes };
}

function gathered(content: Buffer, plan: TransferPlan): Buffer {
  const out = Buffer.alloc(plan.bytes);
  for (let i = 0; i < plan.local.count; i++) content.copy(out, plan.local.offsets[i], plan.remote.offsets[i], plan.remote.offsets[i]! + plan.remote.lengths[i]!);
  return out;
}

function run(endpoint: TransportEndpoint, plan: TransferPlan, notification?: Uint8Array): Promise<TransferStatus> {
  return new Promise((resolve) => endpoint.post(plan, notification, resolve));
}

/** Mappings of this process whose name holds `text`. */
function mapped(text: string): number {
  return readFileSync('/proc/self/maps', 'latin1').split(text).length - 1;
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; !(await holds()); i++) {
    if (i > 2000) throw new Error('did not come about within 10 s');
    await realClock.sleep(5);
  }
}

const collect = ((): (() => Promise<void>) => {
  setFlagsFromString('--expose_gc');
  const gc = runInNewContext('gc') as () => void;
  return async () => {
    for (let i = 0; i < 4; i++) {
      gc();
      await realClock.sleep(10);
    }
  };
})();

for (const kind of ['shm', 'cma'] as const) {
  const reason = make[kind]().unavailable();
  if (reason !== undefined) {
    it.skip(`${kind} between processes: not available here: ${reason}`, () => undefined);
    continue;
  }
  const isShared = kind === 'shm';
  describe(`${kind} between two processes`, () => {
    it('reads and writes blocks, notifies after the data', async () => {
      const owner = await theOwner(kind);
      const { host, endpoint } = await initiator(kind);
      const there = await owner.add(8 * MIB, { seed: 5, isShared });
      endpoint.connect(owner.peer);
      const here = host.add(8 * MIB);
      const read = blocks('read', here, there, 16 << 10);
      expect(endpoint.canMove?.(read)).toBe(true);
      expect(await run(endpoint, read)).toBe(TransferStatus.Done);
      expect(read.local.count).toBe(512);
      expect(Buffer.compare(here.bytes, gathered(pattern(8 * MIB, 5), read))).toBe(0);
      here.bytes.set(pattern(8 * MIB, 6));
      expect(await run(endpoint, blocks('write', here, there, 8 * MIB), Uint8Array.of(1))).toBe(TransferStatus.Done);
      await until(async () => ((await owner.ask({ do: 'seen' })) as { notifications: number }).notifications === 1);
      expect(await owner.ask({ do: 'sum', segment: there })).toBe(createHash('sha256').update(pattern(8 * MIB, 6)).digest('hex'));
      host.assertGuards();
    });

    it('sabotage: a byte flipped in the memory of the owner is a byte that differs here', async () => {
      const owner = await theOwner(kind);
      const { host, endpoint } = await initiator(kind);
      const there = await owner.add(MIB, { seed: 5, isShared });
      endpoint.connect(owner.peer);
      const here = host.add(MIB);
      const plan = blocks('read', here, there, 4096);
      expect(await run(endpoint, plan)).toBe(TransferStatus.Done);
      const want = gathered(pattern(MIB, 5), plan);
      expect(Buffer.compare(here.bytes, want)).toBe(0);
      await owner.ask({ do: 'flip', segment: there, offset: 77_777 });
      expect(await run(endpoint, plan)).toBe(TransferStatus.Done);
      expect(Buffer.compare(here.bytes, want)).not.toBe(0);
    });

    it('refuses what the owner does not allow, at once when it takes it back', async () => {
      const owner = await theOwner(kind);
      const { host, endpoint } = await initiator(kind);
      const open = await owner.add(MIB, { isShared });
      const closed = await owner.add(MIB, { isShared, access: 'closed' });
      const readable = await owner.add(MIB, { isShared, access: 'read' });
      endpoint.connect(owner.peer);
      const here = host.add(MIB);
      const whole = (op: 'read' | 'write', there: number): TransferPlan => blocks(op, here, there, MIB);
      expect(await run(endpoint, whole('read', closed))).toBe(TransferStatus.NotAllowed);
      expect(await run(endpoint, whole('write', readable))).toBe(TransferStatus.NotAllowed);
      expect(await run(endpoint, whole('read', readable))).toBe(TransferStatus.Done);
      expect(await run(endpoint, whole('read', 99))).toBe(TransferStatus.NotFound);
      const outside = whole('read', open);
      outside.remote.offsets[0] = 1;
      expect(await run(endpoint, outside)).toBe(TransferStatus.InvalidDescriptor);
      const plan = whole('read', open);
      expect(await run(endpoint, plan)).toBe(TransferStatus.Done);
      await owner.ask({ do: 'close-access', segment: open });
      here.bytes.fill(1);
      expect(await run(endpoint, plan)).toBe(TransferStatus.NotAllowed);
      await owner.ask({ do: 'release', segment: readable });
      expect(await run(endpoint, whole('read', readable))).toBe(TransferStatus.NotFound);
      expect(here.bytes.every((byte) => byte === 1)).toBe(true);
    });

    it('kill -9 of the owner: running transfers end, later ones fail, a new life is another peer, nothing is left behind', async () => {
      const { host, endpoint } = await initiator(kind);
      const here = host.add(16 * MIB);
      const cycle = async (life: number): Promise<void> => {
        const owner = await start(kind, `life-${life}`);
        const there = await owner.add(16 * MIB, { seed: life, isShared });
        endpoint.connect(owner.peer);
        const plan = blocks('read', here, there, 64 << 10);
        expect(await run(endpoint, plan)).toBe(TransferStatus.Done);
        expect(Buffer.compare(here.bytes, gathered(pattern(16 * MIB, life), plan)), `life ${life}`).toBe(0);
        const lost = host.lost.length;
        const running = Array.from({ length: 400 }, () => run(endpoint, plan));
        await owner.kill();
        const statuses = await Promise.all(running);
        expect(statuses).toContain(TransferStatus.RemoteDisconnected);
        expect(statuses.every((status) => status === TransferStatus.Done || status === TransferStatus.RemoteDisconnected)).toBe(true);
        expect(await run(endpoint, plan)).toBe(TransferStatus.RemoteDisconnected);
        // Told by the socket, which may come after the copy that met nobody.
        await until(() => host.lost.length > lost);
        expect(host.lost.length).toBe(lost + 1);
        // Not only when the garbage collector comes: the memory of the dead is let go at once.
        expect(mapped('memfd:owner')).toBe(0);
        expect(mapped('memfd:armature-control')).toBe(1);
      };
      await cycle(1);
      await collect();
      const before = held();
      for (let life = 2; life <= 3; life++) await cycle(life);
      await collect();
      const after = held();
      expect(after.fds).toBeLessThanOrEqual(before.fds + 2);
      expect(after.maps).toBeLessThanOrEqual(before.maps + 60);
    }, 60_000);

    it('metadata of an earlier life reaches nobody', async () => {
      const first = await start(kind, 'life-1');
      const old = first.peer;
      const { host, endpoint } = await initiator(kind);
      const here = host.add(4096);
      const second = await start(kind, 'life-2');
      const there = await second.add(4096, { isShared });
      // The same process says it is somebody else now.
      endpoint.connect({ ...second.peer, incarnation: 'life-1' });
      expect(await run(endpoint, blocks('read', here, there, 4096))).toBe(TransferStatus.RemoteDisconnected);
      // Another process listens where the metadata points.
      endpoint.connect({ ...second.peer, metadata: { ...second.peer.metadata, pid: old.metadata['pid']!, startTicks: old.metadata['startTicks']! } });
      expect(await run(endpoint, blocks('read', here, there, 4096))).toBe(TransferStatus.RemoteDisconnected);
      // The pid was given to a process that started later.
      endpoint.connect({ ...second.peer, metadata: { ...second.peer.metadata, startTicks: Number(second.peer.metadata['startTicks']) - 1 } });
      expect(await run(endpoint, blocks('read', here, there, 4096))).toBe(TransferStatus.RemoteDisconnected);
      expect(host.lost).toEqual([]);
      endpoint.connect(second.peer);
      expect(await run(endpoint, blocks('read', here, there, 4096))).toBe(TransferStatus.Done);
    });

    it('an owner that is stopped or busy is still read from, where it has answered before', async () => {
      const owner = await theOwner(kind);
      const { host, endpoint } = await initiator(kind);
      const there = await owner.add(4 * MIB, { seed: 3, isShared });
      endpoint.connect(owner.peer);
      const here = host.add(4 * MIB);
      expect(await run(endpoint, blocks('read', here, there, 4096, 4096))).toBe(TransferStatus.Done);
      owner.child.kill('SIGSTOP');
      try {
        const fresh = blocks('read', here, there, 64 << 10);
        expect(await run(endpoint, fresh)).toBe(TransferStatus.Done);
        expect(Buffer.compare(here.bytes, gathered(pattern(4 * MIB, 3), fresh))).toBe(0);
      } finally {
        owner.child.kill('SIGCONT');
      }
    });

    it('a plan made for one request is copied inside post, where the owner has answered before', async () => {
      const owner = await theOwner(kind);
      const { host, endpoint } = await initiator(kind);
      const there = await owner.add(MIB, { seed: 4, isShared });
      endpoint.connect(owner.peer);
      const here = host.add(MIB);
      const ended: TransferStatus[] = [];
      const fresh = (): TransferPlan => blocks('read', here, there, 4096, 64 << 10);
      expect(await run(endpoint, fresh())).toBe(TransferStatus.Done);
      for (let i = 0; i < 3; i++) endpoint.post(fresh(), undefined, (status) => ended.push(status));
      expect(ended).toEqual([0, 0, 0]);
      expect(Buffer.compare(here.bytes.subarray(0, 64 << 10), gathered(pattern(MIB, 4), fresh()))).toBe(0);
    });

    it('an owner that never answers is given up within the deadline, its transfers can be cancelled before', async () => {
      const owner = await theOwner(kind);
      const { host, endpoint } = await initiator(kind);
      const there = await owner.add(4096, { isShared });
      const here = host.add(4096);
      endpoint.connect(owner.peer);
      owner.child.kill('SIGSTOP');
      try {
        const canceled = new Promise<TransferStatus>((resolve) => {
          const token = endpoint.post(blocks('read', here, there, 4096), undefined, resolve);
          endpoint.cancel(token);
        });
        expect(await canceled).toBe(TransferStatus.Canceled);
        expect(await run(endpoint, blocks('read', here, there, 4096))).toBe(TransferStatus.RemoteDisconnected);
      } finally {
        owner.child.kill('SIGCONT');
      }
    });
  });
}

it('shm cannot reach private memory: said at prepare, and by status', async ({ skip }) => {
  const reason = make.shm().unavailable();
  if (reason !== undefined) skip(reason);
  const owner = await theOwner('shm');
  const { host, endpoint } = await initiator('shm');
  const there = await owner.add(4096, { isShared: false });
  endpoint.connect(owner.peer);
  const plan = blocks('read', host.add(4096), there, 4096);
  expect(endpoint.canMove?.(plan)).toBe(false);
  expect(await run(endpoint, plan)).toBe(TransferStatus.NotSupported);
});
