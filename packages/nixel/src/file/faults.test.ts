import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { descriptors } from '../descriptors.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import type { FileEndpoint, FileIo } from './file-endpoint.ts';
import { FileTransport } from './file-transport.ts';
import { openFile } from './open-file.ts';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'nixel-file-faults-'));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
let made = 0;

type Ended = (error: NodeJS.ErrnoException | null, moved: number) => void;
/** What becomes of one call: an error, at most so many bytes moved, or the end kept back until `release`. */
type Fate = { readonly code: string } | { readonly bytes: number } | 'hang' | undefined;

/** node:fs with faults. */
class FaultyDisk {
  calls = 0;
  readonly hanging: (() => void)[] = [];
  readonly #fate: (call: number, op: string) => Fate;

  constructor(fate: (call: number, op: string) => Fate) {
    this.#fate = fate;
  }

  get io(): FileIo {
    const one = (op: 'read' | 'write') => (fd: number, bytes: Buffer, at: number, length: number, offset: number, ended: Ended) =>
      this.#run(op, ended, (limit, done) => (fs[op] as (...all: unknown[]) => void)(fd, bytes, at, Math.min(length, limit), offset, done));
    const many = (op: 'readv' | 'writev') => (fd: number, views: Buffer[], offset: number, ended: Ended) =>
      this.#run(op, ended, (limit, done) => (limit === Infinity ? (fs[op] as (...all: unknown[]) => void)(fd, views, offset, done) : (fs[op === 'readv' ? 'read' : 'write'] as (...all: unknown[]) => void)(fd, views[0], 0, Math.min(views[0]!.length, limit), offset, done)));
    const sync = (op: 'fsync' | 'fdatasync') => (fd: number, ended: (error: NodeJS.ErrnoException | null) => void) => this.#run(op, ended, (_limit, done) => fs[op](fd, done as never));
    return { read: one('read'), write: one('write'), readv: many('readv'), writev: many('writev'), fsync: sync('fsync'), fdatasync: sync('fdatasync') } as unknown as FileIo;
  }

  release(): void {
    for (const run of this.hanging.splice(0)) run();
  }

  #run(op: string, ended: Ended, call: (limit: number, ended: Ended) => void): void {
    const fate = this.#fate(this.calls++, op);
    if (fate === undefined) call(Infinity, ended);
    else if (fate === 'hang') this.hanging.push(() => call(Infinity, ended));
    else if ('code' in fate) setImmediate(() => ended(Object.assign(new Error(`${fate.code}: ${op}`), { code: fate.code }), 0));
    else call(fate.bytes, ended);
  }
}

const SIZE = 1 << 20;
const OPERATION = 64 << 10;

async function rig(fate: (call: number, op: string) => Fate, config: { sync?: 'data' | 'full'; queueDepth?: number } = {}) {
  const disk = new FaultyDisk(fate);
  const host = new FakeTransferHost('a');
  const endpoint = await new FileTransport({ clock: realClock, log: recordingLogger(), io: disk.io, maxOperationBytes: OPERATION, ...config }).open(host);
  endpoint.connect({ name: 'a', incarnation: host.incarnation, metadata: endpoint.metadata(), segments: new Map() });
  const bytes = new Uint8Array(SIZE);
  host.segments.set(1, { id: 1, kind: 'dram', bytes, lengthBytes: SIZE });
  const file = await openFile({ path: path.join(folder, `f${made++}`), lengthBytes: SIZE, mode: 'create', direct: false });
  const segment = { id: 2, kind: 'file' as const, bytes: new Uint8Array(0), lengthBytes: SIZE, location: file.location };
  host.segments.set(2, segment);
  endpoint.registered(segment);
  const close = async (): Promise<void> => {
    await endpoint.close();
    await file.close();
  };
  return { disk, host, endpoint, bytes, file, close };
}

function post(endpoint: FileEndpoint, op: 'read' | 'write', from = 0, length = SIZE): { token: number; ended: Promise<number>; status: () => number | undefined } {
  const columns = (segment: number) => descriptors([{ segment, offset: from, length }]);
  let token = 0;
  let status: number | undefined;
  const ended = new Promise<number>((resolve) => {
    token = endpoint.post({ op, peer: 'a', local: columns(1), remote: columns(2), bytes: length }, undefined, (found) => {
      status = found;
      resolve(found);
    });
  });
  return { token, ended, status: () => status };
}

const fds = (): number => fs.readdirSync('/proc/self/fd').length;

describe('a disk that fails', () => {
  const CODES = { EIO: TransferStatus.TransportError, ENOSPC: TransferStatus.TransportError, EDQUOT: TransferStatus.TransportError, EACCES: TransferStatus.NotAllowed, EROFS: TransferStatus.NotAllowed, ESTALE: TransferStatus.NotFound } as const;

  test.each(Object.entries(CODES))('%s in the middle of 16 operations, reads and writes: a status, never Done; the next transfer is unharmed', async (code, status) => {
    for (const op of ['read', 'write'] as const) {
      let failing = true;
      const { disk, endpoint, close } = await rig((call) => (failing && call === 7 ? { code } : undefined), { queueDepth: 2 });
      expect(await post(endpoint, op).ended).toBe(status);
      expect([...endpoint.counters.errors]).toEqual([[code, 1]]);
      expect(disk.calls).toBeLessThan(16);
      failing = false;
      expect(await post(endpoint, op).ended).toBe(TransferStatus.Done);
      await close();
    }
  });

  test('short calls, seeded: all bytes arrive, or the file ends and it is no Done', async () => {
    const seed = 12_345;
    console.log(`short calls: seed ${seed}`);
    let state = seed;
    const below = (bound: number): number => ((state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) >>> 8) % bound;
    const { endpoint, bytes, close } = await rig(() => (below(2) === 0 ? { bytes: 1 + below(OPERATION) } : undefined));
    for (let i = 0; i < SIZE; i++) bytes[i] = (i * 31) % 251;
    const want = bytes.slice();
    expect(await post(endpoint, 'write').ended).toBe(TransferStatus.Done);
    bytes.fill(0);
    expect(await post(endpoint, 'read').ended).toBe(TransferStatus.Done);
    expect(Buffer.compare(bytes, want)).toBe(0);
    expect(endpoint.counters.shortCalls).toBeGreaterThan(10);
    await close();
  });

  test('a sync that fails: what was written is not reported as done', async () => {
    for (const sync of ['data', 'full'] as const) {
      const { endpoint, close } = await rig((_call, op) => (op.endsWith('sync') ? { code: 'EIO' } : undefined), { sync });
      expect(await post(endpoint, 'write').ended).toBe(TransferStatus.TransportError);
      expect(await post(endpoint, 'read').ended).toBe(TransferStatus.Done);
      await close();
    }
  });

  test('sabotage: with the error taken for an end of all bytes the same transfer is Done and the bytes are wrong', async () => {
    const { disk, host, endpoint, bytes, close } = await rig(() => undefined);
    bytes.fill(7);
    expect(await post(endpoint, 'write').ended).toBe(TransferStatus.Done);
    bytes.fill(0);
    const lying = disk.io;
    lying.read = ((_fd: number, _bytes: Buffer, _at: number, length: number, _offset: number, ended: Ended) => setImmediate(() => ended(null, length))) as never;
    const liar = await new FileTransport({ clock: realClock, log: recordingLogger(), io: lying }).open(host);
    liar.connect({ name: 'a', incarnation: 'a-1', metadata: liar.metadata(), segments: new Map() });
    expect(await post(liar, 'read').ended).toBe(TransferStatus.Done);
    expect(bytes.every((byte) => byte === 7)).toBe(false);
    await liar.close();
    await close();
  });
});

test('a file that is not there when it is registered: NotFound at post, the rest unharmed', async () => {
  const { host, endpoint, close } = await rig(() => undefined);
  const missing = { id: 3, kind: 'file' as const, bytes: new Uint8Array(0), lengthBytes: 4096, location: { type: 'file' as const, path: path.join(folder, 'nothing'), fd: 999_999, direct: false } };
  host.segments.set(3, missing);
  endpoint.registered(missing);
  const columns = (segment: number) => descriptors([{ segment, offset: 0, length: 4096 }]);
  const status = await new Promise((resolve) => endpoint.post({ op: 'read', peer: 'a', local: columns(1), remote: columns(3), bytes: 4096 }, undefined, resolve));
  expect(status).toBe(TransferStatus.NotFound);
  expect([...endpoint.counters.errors]).toEqual([['ENOENT', 2]]);
  expect(await post(endpoint, 'write').ended).toBe(TransferStatus.Done);
  await close();
});

describe('a disk that hangs', () => {
  test('cancel, deregister and close end nothing while the kernel may still write the memory', async () => {
    const { disk, host, endpoint, bytes, file } = await rig(() => 'hang', { queueDepth: 2 });
    const cancelled = post(endpoint, 'read');
    endpoint.cancel(cancelled.token);
    await realClock.sleep(20);
    expect(cancelled.status()).toBeUndefined();
    disk.release();
    expect(await cancelled.ended).toBe(TransferStatus.Canceled);
    bytes.fill(9);
    await realClock.sleep(20);
    expect(bytes.every((byte) => byte === 9)).toBe(true);
    expect(disk.calls).toBe(2);

    const gone = post(endpoint, 'read');
    const segment = host.segments.get(2)!;
    host.segments.delete(2);
    endpoint.deregistered(segment);
    await realClock.sleep(10);
    expect(gone.status()).toBeUndefined();
    disk.release();
    expect(await gone.ended).toBe(TransferStatus.NotFound);
    host.segments.set(2, segment);
    endpoint.registered(segment);

    const last = post(endpoint, 'write');
    let isClosed = false;
    const closing = endpoint.close().then(() => (isClosed = true));
    await realClock.sleep(10);
    expect([isClosed, last.status()]).toEqual([false, undefined]);
    disk.release();
    await closing;
    expect(last.status()).toBe(TransferStatus.Canceled);
    await file.close();
  });

  test('others go on beside it, as far as the queue is deep', async () => {
    const { disk, endpoint, close } = await rig((call) => (call === 0 ? 'hang' : undefined), { queueDepth: 2 });
    const stuck = post(endpoint, 'read', 0, 4096);
    for (let i = 0; i < 5; i++) expect(await post(endpoint, 'write', OPERATION, OPERATION).ended).toBe(TransferStatus.Done);
    expect(stuck.status()).toBeUndefined();
    disk.release();
    expect(await stuck.ended).toBe(TransferStatus.Done);
    await close();
  });
});

test('fault after fault on one endpoint: descriptors come back, nothing stays in flight', async () => {
  const before = fds();
  const { disk, endpoint, host, close } = await rig((call) => (call % 5 === 3 ? { code: 'EIO' } : call % 7 === 2 ? { bytes: 100 } : undefined), { sync: 'data', queueDepth: 4 });
  const open = fds();
  const segment = host.segments.get(2)!;
  for (let round = 0; round < 60; round++) {
    const running = [post(endpoint, 'read'), post(endpoint, 'write'), post(endpoint, 'read', 0, 100)];
    if (round % 3 === 0) endpoint.cancel(running[0]!.token);
    if (round % 3 === 1) {
      host.segments.delete(2);
      endpoint.deregistered(segment);
    }
    for (const { ended } of running) expect([TransferStatus.Done, TransferStatus.Canceled, TransferStatus.TransportError, TransferStatus.NotFound]).toContain(await ended);
    if (round % 3 === 1) {
      host.segments.set(2, segment);
      endpoint.registered(segment);
    }
  }
  expect(disk.calls).toBeGreaterThan(300);
  expect(fds()).toBe(open);
  await close();
  expect(fds()).toBe(before);
});
