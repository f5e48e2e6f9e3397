import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, ftruncateSync, mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { PeerSegment, TransferPlan, TransferSegment, TransportEndpoint } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { recordingLogger } from './fake-nixl.test.support.ts';
import { NixlTransport } from './nixl-transport.ts';

// Two processes over the real library. tools/test-nixl.mjs runs this file once per path: what UCX chooses, tcp alone, shared memory with CMA.
const route = process.env['ARMATURE_NIXL_ROUTE'] ?? 'default';
if (route !== 'default') console.log(`skipped on route ${route}: 200 opens and closes, files by the POSIX backend (they do not depend on the route; the default one runs them)`);
/** UCX's shared memory cannot tell that a peer has died. */
const params: Record<string, string> = route === 'cma' ? { ucx_error_handling_mode: 'none' } : {};
const BLOCKS = 1024;
const BLOCK = 16 << 10;
const PROCESS = fileURLToPath(new URL('../dist/owner-process.test.support.js', import.meta.url));

class Owner {
  readonly child: ChildProcess;
  readonly segments = new Map<number, PeerSegment>();
  #answers: ((answer: unknown) => void)[] = [];
  readonly hello: Promise<{ name: string; incarnation: string; metadata: Record<string, string> }>;

  constructor(incarnation: string) {
    this.child = fork(PROCESS, [incarnation, JSON.stringify(params)], { execArgv: [] });
    this.child.on('message', ({ answer }: { answer: unknown }) => this.#answers.shift()?.(answer));
    this.hello = new Promise((resolve, reject) => {
      this.#answers.push(resolve as (answer: unknown) => void);
      this.child.once('exit', (code) => reject(new Error(`the owner ended with ${code}`)));
    });
    this.hello.catch(() => undefined);
  }
  ask<T>(command: object): Promise<T> {
    this.child.send(command);
    return new Promise((resolve) => this.#answers.push(resolve as (answer: unknown) => void));
  }
  async join(endpoint: TransportEndpoint, seed: number): Promise<void> {
    const segment = await this.ask<PeerSegment>({ do: 'add', lengthBytes: BLOCKS * BLOCK, seed });
    this.segments.set(segment.id, segment);
    endpoint.connect({ ...(await this.hello), segments: this.segments });
  }
  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
  }
}

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
/** A fixed shuffle: block i comes from or goes to block order[i]. */
const order = Array.from({ length: BLOCKS }, (_, i) => (i * 389) % BLOCKS);

function blocks(op: 'read' | 'write', rows = order, bytes = BLOCK): TransferPlan {
  const columns = (at: readonly number[]) => ({ count: at.length, segments: new Int32Array(at.length).fill(1), offsets: Float64Array.from(at, (block) => block * BLOCK), lengths: new Int32Array(at.length).fill(bytes) });
  return { op, peer: 'owner', local: columns(rows.map((_, i) => i)), remote: columns(rows), bytes: rows.length * bytes };
}

function shuffled(bytes: Uint8Array, to: 'read' | 'write'): Uint8Array {
  const target = new Uint8Array(bytes.length);
  order.forEach((block, i) => {
    const [from, into] = to === 'read' ? [block, i] : [i, block];
    target.set(bytes.subarray(from * BLOCK, (from + 1) * BLOCK), into * BLOCK);
  });
  return target;
}

function pattern(seed: number): Uint8Array {
  const words = new Uint32Array((BLOCKS * BLOCK) / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + seed, 2_654_435_761);
  return new Uint8Array(words.buffer);
}

describe(`two processes, ${route}`, () => {
  const host = new FakeTransferHost('reader');
  const transport = new NixlTransport({ clock: realClock, log: recordingLogger(), params, retryMs: 50 });
  let endpoint!: TransportEndpoint;
  let owner!: Owner;
  let here!: TransferSegment;
  const run = (plan: TransferPlan, notification?: Uint8Array): Promise<TransferStatus> => new Promise((resolve) => endpoint.post(plan, notification, resolve));

  beforeAll(async () => {
    endpoint = await transport.open(host);
    here = host.add(BLOCKS * BLOCK);
    endpoint.registered?.(here);
    owner = new Owner('one');
    await owner.join(endpoint, 1);
  });
  afterAll(async () => {
    await endpoint.close();
    owner.child.kill('SIGKILL');
    host.assertGuards();
  });

  test('read: every byte in its place; one flipped byte shows', async () => {
    expect(await run(blocks('read'))).toBe(TransferStatus.Done);
    const want = sha(shuffled(pattern(1), 'read'));
    expect(sha(here.bytes)).toBe(want);
    await owner.ask({ do: 'flip', offset: 777_777 });
    expect(await run(blocks('read'))).toBe(TransferStatus.Done);
    expect(sha(here.bytes)).not.toBe(want);
    await owner.ask({ do: 'flip', offset: 777_777 });
  });

  test('write: every byte in its place, the notification after all of them', async () => {
    for (let round = 0; round < 5; round++) {
      here.bytes.set(pattern(100 + round));
      expect(await run(blocks('write'), Uint8Array.of(round))).toBe(TransferStatus.Done);
      const want = sha(shuffled(pattern(100 + round), 'write'));
      let seen: { payload: number[]; sum: string }[] = [];
      for (let i = 0; i < 500 && seen.length === 0; i++) {
        seen = await owner.ask({ do: 'seen' });
        if (seen.length === 0) await realClock.sleep(5);
      }
      expect(seen).toEqual([{ payload: [round], sum: want }]);
    }
  });

  test('many notifications arrive in order', async () => {
    for (let i = 0; i < 100; i++) expect(endpoint.notify('owner', Uint8Array.of(i))).toBe(true);
    const seen: { payload: number[] }[] = [];
    for (let i = 0; i < 1000 && seen.length < 100; i++) {
      seen.push(...(await owner.ask<{ payload: number[] }[]>({ do: 'seen' })));
      await realClock.sleep(5);
    }
    expect(seen.map(({ payload }) => payload[0])).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  test('kill -9 during reads: a status for each, the loss told once; the next life works', async () => {
    if (route === 'cma') {
      console.log('kill -9 left out on the cma route: with error mode "none" UCX does not see a peer die');
      return;
    }
    for (const life of ['two', 'three', 'four']) {
      expect(await run(blocks('read', [0]))).toBe(TransferStatus.Done);
      const running = Array.from({ length: 20 }, () => run(blocks('read')));
      owner.child.kill('SIGKILL');
      const statuses = await Promise.all(running);
      for (const status of statuses) expect([TransferStatus.Done, TransferStatus.RemoteDisconnected]).toContain(status);
      for (let i = 0; i < 2500 && host.lost.length === 0; i++) await realClock.sleep(2);
      expect(host.lost.splice(0)).toEqual(['owner']);
      expect(await run(blocks('read', [0]))).toBe(TransferStatus.RemoteDisconnected);
      owner = new Owner(life);
      await owner.join(endpoint, 7);
      host.lost.length = 0;
      expect(await run(blocks('read'))).toBe(TransferStatus.Done);
      expect(sha(here.bytes)).toBe(sha(shuffled(pattern(7), 'read')));
    }
  });

  test('a peer that closes says so', async () => {
    await owner.ask({ do: 'close' });
    for (let i = 0; i < 1000 && host.lost.length === 0; i++) await realClock.sleep(2);
    expect(host.lost).toEqual(['owner']);
    expect(await run(blocks('read', [0]))).toBe(TransferStatus.RemoteDisconnected);
  });
});

test.runIf(route === 'default')('200 opens and closes keep no file, thread or registration', async () => {
  const transport = new NixlTransport({ clock: realClock, log: recordingLogger() });
  const held = (): { files: number; threads: number } => ({ files: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length });
  const cycle = async (times: number): Promise<void> => {
    for (let i = 0; i < times; i++) {
      const host = new FakeTransferHost('h', `life-${i}`);
      const endpoint = await transport.open(host);
      endpoint.registered?.(host.add(4096));
      await endpoint.close();
    }
  };
  await cycle(5);
  const before = held();
  await cycle(200);
  const after = held();
  expect([after.files <= before.files + 3, after.threads <= before.threads], JSON.stringify({ before, after })).toEqual([true, true]);
});

test.runIf(route === 'default')('files by the POSIX backend', async () => {
  const transport = new NixlTransport({ clock: realClock, log: recordingLogger(), storage: 'POSIX' });
  const folder = mkdtempSync(path.join(os.tmpdir(), 'nixl-file-'));
  const fd = openSync(path.join(folder, 'blocks'), 'w+');
  ftruncateSync(fd, 1 << 20);
  const host = new FakeTransferHost('self');
  const endpoint = await transport.open(host);
  const memory = host.add(1 << 20);
  const file: TransferSegment = { id: 2, kind: 'file', bytes: new Uint8Array(0), lengthBytes: 1 << 20, location: { type: 'file', path: path.join(folder, 'blocks'), fd, direct: false } };
  host.segments.set(2, file);
  const segments = new Map<number, PeerSegment>();
  for (const segment of [memory, file]) {
    endpoint.registered?.(segment);
    segments.set(segment.id, { id: segment.id, kind: segment.kind, lengthBytes: segment.lengthBytes, metadata: endpoint.segmentMetadata?.(segment) });
  }
  endpoint.connect({ name: 'self', incarnation: host.incarnation, metadata: endpoint.metadata(), segments });
  memory.bytes.set(pattern(3).subarray(0, 1 << 20));
  const plan = (op: 'read' | 'write'): TransferPlan => ({ ...blocks(op, order.filter((block) => block < 64)), peer: 'self' });
  const toFile = (op: 'read' | 'write'): TransferPlan => ({ ...plan(op), remote: { ...plan(op).remote, segments: new Int32Array(64).fill(2) } });
  const run = (it: TransferPlan): Promise<TransferStatus> => new Promise((resolve) => endpoint.post(it, undefined, resolve));
  expect([endpoint.canMove?.(toFile('write')), await run(toFile('write'))]).toEqual([true, TransferStatus.Done]);
  const want = sha(memory.bytes);
  memory.bytes.fill(0);
  expect(await run(toFile('read'))).toBe(TransferStatus.Done);
  expect(sha(memory.bytes)).toBe(want);
  await endpoint.close();
  closeSync(fd);
  rmSync(folder, { recursive: true });
});
