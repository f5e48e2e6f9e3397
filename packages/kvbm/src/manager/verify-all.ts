import { KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch } from '@armature/contracts';
import { batchOf, keepRows } from './batches.ts';
import { pinHostRows } from './demotion.ts';
import type { ManagedTier, ManagerParts } from './parts.ts';
import type { Rows } from './row-queue.ts';

export interface VerifyCounts {
  checked: number;
  corrupt: number;
  unchecked: number;
}

/**
 * Reads every block that the tiers hold and checks it, batch by batch, until the deadline. What is not as it was stored is
 * reported and stays: whoever uses it finds out too, and drops it.
 */
export async function verifyAll(parts: ManagerParts, isStopped: () => boolean, deadlineMs: number): Promise<VerifyCounts> {
  const { clock, config, host, lower } = parts;
  const untilMs = clock.nowMs() + deadlineMs;
  const counts = { checked: 0, corrupt: 0, unchecked: 0 };
  for (const tier of [host, ...lower]) {
    const all = recordsOf(tier);
    for (let from = 0; from < all.count; from += config.batchBlocks) {
      const rows = sliceRows(all, from, Math.min(all.count, from + config.batchBlocks));
      const leftMs = untilMs - clock.nowMs();
      if (leftMs <= 0 || isStopped()) counts.unchecked += rows.count;
      else await (tier === host ? verifyHost(parts, rows, counts) : verifyBelow(parts, tier, rows, leftMs, counts));
    }
  }
  return counts;
}

async function verifyHost(parts: ManagerParts, rows: Rows, counts: VerifyCounts): Promise<void> {
  const batch = pinHostRows(parts, rows);
  const { store, order } = parts.host;
  const bad = await badRows(parts, batch);
  order.quietly(() => store.release(batch.blocks, batch.count));
  counts.checked += batch.count;
  counts.corrupt += bad.count;
}

/** Through blocks of the host tier, which evicts for them as for any other; without room nothing is checked. */
async function verifyBelow(parts: ManagerParts, tier: ManagedTier, rows: Rows, leftMs: number, counts: VerifyCounts): Promise<void> {
  const { host } = parts;
  const blocks = new Int32Array(rows.count);
  const given = host.store.allocate(0, rows.count, blocks);
  const batch = keepRows(batchOf(rows, host.store.memory, blocks), (row) => row < given);
  if (given > 0) await new Promise<void>((resolve) => void tier.order.quietly(() => tier.store.load(batch, leftMs, resolve)));
  const loaded = keepRows(batch, (row) => batch.statuses[row] === KvBlockStatus.Done);
  const bad = await badRows(parts, loaded);
  if (given > 0) host.store.free(blocks, given);
  counts.checked += loaded.count;
  counts.corrupt += bad.count;
  for (let row = 0; row < batch.count; row++) {
    const status = batch.statuses[row];
    if (status === KvBlockStatus.Canceled || status === KvBlockStatus.Failed) counts.unchecked++;
  }
  counts.unchecked += rows.count - given;
}

async function badRows({ checks }: ManagerParts, batch: KvBlockBatch): Promise<KvBlockBatch> {
  const found = new Int32Array(2 * batch.count);
  if (batch.count > 0) await new Promise<void>((resolve) => checks.compute(batch.memory, batch.blocks, batch.hashes, found, 'background', resolve));
  return keepRows(batch, (row) => found[2 * row] !== batch.checksums[2 * row] || found[2 * row + 1] !== batch.checksums[2 * row + 1]);
}

function recordsOf({ store }: ManagedTier): Rows {
  const words: number[] = [];
  store.records((lo, hi, parentLo, parentHi) => void words.push(lo, hi, parentLo, parentHi));
  const count = words.length / 4;
  const column = (at: number): Int32Array => Int32Array.from({ length: 2 * count }, (_, i) => words[4 * (i >> 1) + at + (i & 1)]);
  return { count, hashes: column(0), parents: column(2), tenant: 0 };
}

function sliceRows({ hashes, parents, tenant }: Rows, from: number, to: number): Rows {
  return { count: to - from, hashes: hashes.slice(2 * from, 2 * to), parents: parents.slice(2 * from, 2 * to), tenant };
}
