import { readFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { ArmatureError, KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch, KvTierHost, Logger } from '@armature/contracts';
import { contentOf, equal, hashes, SuiteOrder, within } from '@armature/contracts/testing/kv-tier-session';
import { realClock } from '@armature/contracts/testing/real-clock';
import { createAgent } from '@armature/nixel';
import { createSuiteMover } from '../mover/suite-mover.test.support.ts';
import { thisMachine } from './host-memory.ts';
import type { HostMachine } from './host-memory.ts';
import { HostTier } from './host-tier.ts';
import type { HostStore } from './host-store.ts';
import { hostTier } from './plugin.ts';

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: unknown;
}

function recorder(): { log: Logger; lines: Line[] } {
  const lines: Line[] = [];
  const at = (level: string) => (message: string, fields?: unknown) => void lines.push({ level, message, fields });
  const log: Logger = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), child: () => log, isEnabled: () => true };
  return { log, lines };
}

async function open(tier: HostTier, blockBytes: number): Promise<{ store: HostStore; host: KvTierHost; lines: Line[]; measured: string[]; mover: Awaited<ReturnType<typeof createSuiteMover>>['mover']; agent: Awaited<ReturnType<typeof createAgent>> }> {
  const agent = await createAgent({ name: `host-${cleanups.length}`, clock: realClock });
  const { mover, close } = await createSuiteMover({ agent });
  cleanups.push(close);
  const { log, lines } = recorder();
  const measured: string[] = [];
  const host: KvTierHost = {
    worker: 'demo/pool/0',
    modelFingerprint: 'm',
    layoutFingerprint: 'l',
    blockBytes,
    baseDir: '/nowhere',
    clock: realClock,
    log,
    mover,
    order: () => new SuiteOrder(),
    quota: (_tenant, places) => places,
    removed: () => undefined,
    measured: (kind, blocks, bytes) => measured.push(`${kind} ${blocks} ${bytes}`),
    degraded: () => undefined,
  };
  const store = await tier.open(host);
  cleanups.push(() => store.close());
  return { store, host, lines, measured, mover, agent };
}

const code = (value: string): Error => expect.objectContaining({ code: value }) as Error;

test('capacity is checked before anything is opened', () => {
  expect(new HostTier().capacityBytes()).toBe(256 << 20);
  expect(new HostTier({ capacity: '1.5GiB' }).capacityBytes()).toBe(1.5 * 2 ** 30);
  for (const capacity of ['much', '-1MiB', 0, Number.NaN]) expect(() => new HostTier({ capacity })).toThrow(code('KVBM_CAPACITY_INVALID'));
  const problems: unknown[] = [];
  hostTier.check?.({ capacity: '12 apples' }, (problem) => problems.push(problem));
  hostTier.check?.({ capacity: '12MiB' }, (problem) => problems.push(problem));
  expect(problems).toEqual([expect.objectContaining({ path: ['capacity'], message: '"12 apples" is no size' })]);
});

test('blocks are pages; capacity is whole blocks', async () => {
  const { store } = await open(new HostTier({ capacity: 5 * 8192 - 1 }), 5000);
  expect(store.memory).toMatchObject({ blocks: 4, blockStrideBytes: 8192, pieces: 1, pieceBytes: 5000 });
  expect(store.capacityBlocks).toBe(4);
  expect(store.memory.bytes?.length).toBe(4 * 8192);
});

test('a tier without a block, or larger than the machine, does not open', async () => {
  await expect(open(new HostTier({ capacity: 4095 }), 100)).rejects.toThrow(code('KVBM_CAPACITY_INVALID'));
  const small: HostMachine = { ...thisMachine, memoryBytes: () => 8 << 20 };
  await expect(open(new HostTier({ capacity: '9MiB' }, small), 4096)).rejects.toThrow(/9 MiB on a machine, or in a container, of 8 MiB/);
  await expect(open(new HostTier({ capacity: '8PB'.replace('PB', '000TB') }), 4096)).rejects.toThrow(code('KVBM_CAPACITY_INVALID'));
});

test('its memory is a mapping that peers on this host read in place', async () => {
  if (process.platform !== 'linux') return void console.log('skipped: memfd mappings are of Linux');
  const { store, lines, agent } = await open(new HostTier({ capacity: '1MiB' }), 4096);
  expect(lines.find(({ message }) => message === 'host tier is open')?.fields).toMatchObject({ mapped: true, blocks: 256 });
  expect(readFileSync('/proc/self/maps', 'utf8')).toContain('memfd:armature-kv-demo/pool/0');
  // Another agent, with shm alone, reads a block.
  const blocks = new Int32Array(1);
  expect(store.allocate(0, 1, blocks)).toBe(1);
  store.memory.bytes!.set(contentOf(3, 4096), blocks[0] * 4096);
  const peer = await createAgent({ name: 'peer', clock: realClock });
  cleanups.push(() => peer.close());
  peer.addPeer(agent.metadata());
  const target = new Uint8Array(new SharedArrayBuffer(4096));
  const local = peer.register({ buffer: target.buffer });
  const layout = { blockStrideBytes: 4096, pieces: 1, pieceBytes: 4096, pieceStrideBytes: 4096 };
  const handle = peer.make({
    op: 'read',
    local: peer.prepareList({ segment: local.id, layout, blocks: 1 }),
    localIndices: Int32Array.of(0),
    remote: peer.prepareList({ peer: agent.name, segment: store.memory.segment, layout, blocks: 256 }),
    remoteIndices: blocks,
  });
  expect(await within(peer.run(handle), 'a read by a peer')).toBe(0);
  expect(equal(target, contentOf(3, 4096))).toBe(true);
  store.free(blocks, 1);
});

test('without a memfd it is plain memory, and says so', async () => {
  const machine: HostMachine = {
    ...thisMachine,
    createSharedMemory: () => {
      throw new ArmatureError('TRANSFER_NATIVE_UNAVAILABLE', 'no libc here');
    },
  };
  const { store, lines } = await open(new HostTier({ capacity: '1MiB' }, machine), 4096);
  expect(lines.filter(({ level }) => level === 'warn')).toEqual([expect.objectContaining({ fields: { code: 'TRANSFER_NATIVE_UNAVAILABLE', reason: 'no libc here' } })]);
  expect(store.memory.bytes!.buffer).toBeInstanceOf(SharedArrayBuffer);
  store.memory.bytes!.fill(1);
});

test('copies are measured; blocks given back twice are logged, not believed', async () => {
  const { store, lines, measured, mover } = await open(new HostTier({ capacity: 8 * 4096 }), 4096);
  const memory = mover.registerMemory({ bytes: new Uint8Array(2 * 4096) }, { blocks: 2, blockStrideBytes: 4096, pieces: 2, pieceBytes: 2048, pieceStrideBytes: 2048 });
  const batch: KvBlockBatch = { count: 2, hashes: hashes([1, 2]), parents: new Int32Array(4), checksums: new Int32Array(4), tenant: 0, memory, blocks: Int32Array.of(0, 1), statuses: new Uint8Array(2) };
  store.store(batch, () => undefined);
  store.load(batch, 1000, () => undefined);
  expect([...batch.statuses]).toEqual([KvBlockStatus.Done, KvBlockStatus.Done]);
  expect(measured).toEqual(['store 2 8192', 'load 2 8192']);
  const blocks = new Int32Array(2);
  expect(store.acquire(hashes([1, 2]), 0, 2, blocks)).toBe(2);
  store.release(blocks, 2);
  store.release(blocks, 2);
  store.free(blocks, 1);
  expect(lines.filter(({ level }) => level === 'error').map(({ fields }) => (fields as { call: string }).call)).toEqual(['release', 'release', 'free']);
  expect(store.stats()).toMatchObject({ heldBlocks: 2, pinnedBlocks: 0, stores: 2, loads: 4, misses: 0 });
});

test('close waits for a transfer of others over its memory', async () => {
  const { store, mover, lines } = await open(new HostTier({ capacity: '16MiB' }), 1 << 20);
  const other = mover.registerMemory({ bytes: new Uint8Array(8 << 20) }, { blocks: 8, blockStrideBytes: 1 << 20, pieces: 1, pieceBytes: 1 << 20, pieceStrideBytes: 1 << 20 });
  const rows = Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7);
  let ended: number | undefined;
  mover.copy(store.memory, rows, other, rows, 30_000, (status) => (ended = status));
  expect(ended).toBe(undefined);
  await store.close();
  expect(ended).toBe(0);
  expect(lines.filter(({ level }) => level === 'error')).toEqual([]);
  expect([store.match(hashes([1]), 0), store.acquire(hashes([1]), 0, 1, rows), store.allocate(0, 1, rows)]).toEqual([0, 0, 0]);
});
