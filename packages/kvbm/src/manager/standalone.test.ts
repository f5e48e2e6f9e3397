import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KvPolicy } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { createAgent } from '@armature/nixel';
import { afterEach, expect, test } from 'vitest';
import { diskTier } from '../disk/plugin.ts';
import { hostTier } from '../host/plugin.ts';
import { kvPolicyDefaults } from '../policy/config.ts';
import { lineage } from '../policy/plugin.ts';
import { CHECKSUM_VERSION, createVerifier } from '../checksum/verifier.ts';
import { inspectStore, listStores, verifyStore } from '../disk/inspect.ts';
import type { BlockChecksum } from '../disk/inspect.ts';
import { createBlockManager } from './create-block-manager.ts';
import type { BlockManager, KvFetchResult } from './face.ts';
import { BLOCK_SIZE, FakeEngine, PIECE_BYTES, PIECES, promptHashes } from './fake-engine.test.support.ts';
import { CountingMetrics, silent } from './rig.test.support.ts';

const folders: string[] = [];

afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
});

async function until(what: string, isSo: () => boolean): Promise<void> {
  for (let i = 0; i < 2_000; i++) {
    if (isSo()) return;
    await realClock.sleep(5);
  }
  throw new Error(`waited 10 s for ${what}`);
}

interface Worker {
  readonly engine: FakeEngine;
  readonly manager: BlockManager;
  close(): Promise<void>;
}

/** As in the README: the library without the platform, with the real host and disk tiers. */
async function worker(path: string): Promise<Worker> {
  const clock = realClock;
  const engine = new FakeEngine({ clock, blocks: 32 });
  const agent = await createAgent({ name: `standalone-${folders.length}-${Math.random()}`, clock, log: silent });
  const { buffer, byteOffset, lengthBytes } = engine.arena().segments[0];
  const arenaSegment = agent.register({ buffer, byteOffset, lengthBytes }).id;
  const context = undefined as never;
  const manager = await createBlockManager({
    worker: 'model/pool/0',
    modelFingerprint: 'model',
    blockSize: BLOCK_SIZE,
    baseDir: path,
    kv: engine,
    agent,
    arenaSegment,
    tiers: [await hostTier.create({ capacity: 16 * 4096 }, context), await diskTier.create({ path: 'kv', capacity: '4MiB', slabBytes: '1MiB' } as never, context)],
    policy: (await lineage.create({ offload: { ...kvPolicyDefaults.offload, host: 'stored' }, prefetch: 'route' }, context)) as KvPolicy,
    peers: undefined,
    clock,
    log: silent,
    metrics: new CountingMetrics(),
    labels: ['model', 'pool'],
    config: { maxSlowdown: 0.05, fetchDeadlineMs: 5_000, maxQueuedBlocks: 256, batchBlocks: 8, quotas: {}, verify: true },
  });
  engine.onEvent = (event) => manager.engineEvent(event);
  for (const tokens of [8, 64, 16, 128]) manager.observePrefill(tokens, 1_000 * tokens);
  const close = async (): Promise<void> => {
    await manager.close();
    await agent.close();
  };
  return { engine, manager, close };
}

function fetch({ manager }: Worker, hashes: Int32Array): Promise<KvFetchResult> {
  const request = { id: 'r', sequenceHashes: hashes, promptTokens: (hashes.length / 2) * BLOCK_SIZE + 1, cacheSalt: '', queuedTokens: 0, deadlineMs: 10_000, peers: [] };
  return new Promise((resolve) => void manager.fetch(request, resolve));
}

test('as a library, over real memory and a real disk: blocks survive the worker, a flipped byte on disk does not reach the engine', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'armature-kvbm-'));
  folders.push(folder);
  const hashes = promptHashes(5, 12);
  const first = await worker(folder);
  first.engine.compute(hashes);
  await until('the disk', () => first.manager.stats().tiers[1].heldBlocks === 12);
  await first.close();
  expect(first.engine.counts()).toEqual({ leases: 0, reservations: 0, quarantined: 0 });

  // Without the engine: the store says in what pieces its checksums are made.
  const [store] = await listStores(join(folder, 'kv'));
  const header = (await inspectStore(store)).report.header!;
  expect([header.pieceBytes, header.blockBytes / header.pieceBytes, header.checksumVersion]).toEqual([PIECE_BYTES, PIECES, CHECKSUM_VERSION]);
  expect(await verifyStore(store, checksumOf(header.layout, header.blockBytes, header.pieceBytes))).toMatchObject({ checked: 12, corrupt: 0 });
  expect(await verifyStore(store, checksumOf(header.layout, header.blockBytes, header.blockBytes))).toMatchObject({ checked: 12, corrupt: 12 }); // told, not struck out

  const second = await worker(folder);
  expect(second.manager.snapshot()).toMatchObject([{ type: 'stored', tier: 'disk' }]);
  const warm = await fetch(second, hashes);
  expect(warm.record).toMatchObject({ onboardedBlocks: 12, runs: [{ source: 'disk', blocks: 12, outcome: 'done' }] });
  expect(second.engine.adopt(warm.reservation!, hashes, warm.readyTokens / BLOCK_SIZE)).toEqual([]);
  await second.close();

  await flipEverySlab(folder);
  const third = await worker(folder);
  const spoilt = await fetch(third, hashes);
  expect(spoilt.readyTokens).toBe(0);
  expect(third.manager.stats().corruptBlocks).toBeGreaterThan(0);
  await until('pins to end', () => third.manager.stats().tiers.every(({ pinnedBlocks }) => pinnedBlocks === 0));
  await third.close();
}, 60_000);

function checksumOf(layoutFingerprint: string, blockBytes: number, pieceBytes: number): BlockChecksum {
  const verifier = createVerifier({ layoutFingerprint, pieceBytes });
  const memory = { segment: 0, blocks: 1, blockStrideBytes: blockBytes, pieces: blockBytes / pieceBytes, pieceBytes, pieceStrideBytes: pieceBytes };
  return (bytes, lo, hi, out) => verifier.checksums({ ...memory, bytes }, Int32Array.of(0), 1, Int32Array.of(lo, hi), out);
}

/** A bit in the middle of each 4 KiB that holds content; records and headers stay as they are. */
async function flipEverySlab(folder: string): Promise<void> {
  const files = await readdir(folder, { recursive: true, withFileTypes: true });
  let flipped = 0;
  for (const file of files.filter((entry) => entry.isFile() && entry.name.includes('slab'))) {
    const path = join(file.parentPath, file.name);
    const bytes = await readFile(path);
    for (let at = 500; at < bytes.length; at += 4096) {
      if (bytes[at] === 0) continue;
      bytes[at] ^= 0x20;
      flipped++;
    }
    await writeFile(path, bytes);
  }
  expect(flipped).toBeGreaterThan(0);
}
