import type { KvBlockBatch, KvMemory } from '@armature/contracts';
import type { Rows } from './row-queue.ts';

/** A batch over `blocks` of `memory`, with fresh checksum and status columns unless given. */
export function batchOf(rows: Rows, memory: KvMemory, blocks: Int32Array, checksums = new Int32Array(2 * rows.count)): KvBlockBatch {
  const { count, hashes, parents, tenant } = rows;
  return { count, hashes, parents, checksums, tenant, memory, blocks, statuses: new Uint8Array(count) };
}

/** Rows `from` to `to` of a prompt's hashes, with their lineage. */
export function promptRows(hashes: Int32Array, from: number, to: number, tenant: number): Rows {
  const count = to - from;
  const parents = new Int32Array(2 * count);
  if (from > 0) parents.set(hashes.subarray(2 * from - 2, 2 * to - 2));
  else parents.set(hashes.subarray(0, 2 * to - 2), 2);
  return { count, hashes: hashes.slice(2 * from, 2 * to), parents, tenant };
}

/** The rows that `isKept`, as columns of their own; `blocks` and `checksums` shrink with them. */
export function keepRows(batch: KvBlockBatch, isKept: (row: number) => boolean): KvBlockBatch {
  const kept = Array.from({ length: batch.count }, (_, row) => row).filter(isKept);
  const pairs = (column: Int32Array): Int32Array => Int32Array.from(kept.flatMap((row) => [column[2 * row], column[2 * row + 1]]));
  return {
    count: kept.length,
    hashes: pairs(batch.hashes),
    parents: pairs(batch.parents),
    checksums: pairs(batch.checksums),
    tenant: batch.tenant,
    memory: batch.memory,
    blocks: Int32Array.from(kept, (row) => batch.blocks[row]),
    statuses: new Uint8Array(kept.length),
  };
}
