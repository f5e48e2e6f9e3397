import type { DescriptorColumns, TransferPlan } from '@armature/contracts';
import { allocateDescriptors, slice, totalBytes } from '../descriptors.ts';
import { encodeTable, MAX_TABLE_BYTES } from './frames.ts';

/** What one stream carries of a plan. */
export interface PlanPart {
  readonly op: 'read' | 'write';
  readonly local: DescriptorColumns;
  /** Descriptor table of the remote side, encoded once. */
  readonly table: Buffer;
  readonly bytes: number;
}

const MAX_ROWS = MAX_TABLE_BYTES / 16;

/** Cuts a plan into up to `streams` parts of about equal bytes (each at least `splitBytes`), more when the table would be too long. */
export function splitPlan(plan: TransferPlan, streams: number, splitBytes: number): PlanPart[] {
  const wanted = Math.max(1, Math.min(streams, Math.floor(plan.bytes / splitBytes)), Math.ceil(plan.local.count / (MAX_ROWS - 1)));
  if (wanted === 1) return [part(plan.op, plan.local, plan.remote, plan.bytes)];
  const { local, remote } = cutRows(plan, Math.ceil(plan.bytes / wanted));
  const parts: PlanPart[] = [];
  let from = 0;
  for (let to = 1, bytes = 0; to <= local.count; to++) {
    bytes += local.lengths[to - 1]!;
    if (bytes < plan.bytes / wanted && to < local.count && to - from < MAX_ROWS) continue;
    parts.push(part(plan.op, slice(local, from, to), slice(remote, from, to), bytes));
    from = to;
    bytes = 0;
  }
  return parts;
}

/** Rows longer than `limit` bytes become several. */
function cutRows(plan: TransferPlan, limit: number): { local: DescriptorColumns; remote: DescriptorColumns } {
  let rows = 0;
  for (let i = 0; i < plan.local.count; i++) rows += Math.max(1, Math.ceil(plan.local.lengths[i]! / limit));
  const local = allocateDescriptors(rows);
  const remote = allocateDescriptors(rows);
  let row = 0;
  for (let i = 0; i < plan.local.count; i++) {
    const length = plan.local.lengths[i]!;
    let at = 0;
    do {
      local.segments[row] = plan.local.segments[i]!;
      local.offsets[row] = plan.local.offsets[i]! + at;
      remote.segments[row] = plan.remote.segments[i]!;
      remote.offsets[row] = plan.remote.offsets[i]! + at;
      local.lengths[row] = remote.lengths[row] = Math.min(limit, length - at);
      at += limit;
      row++;
    } while (at < length);
  }
  return { local, remote };
}

function part(op: 'read' | 'write', local: DescriptorColumns, remote: DescriptorColumns, bytes: number): PlanPart {
  if (bytes !== totalBytes(local)) throw new RangeError('part bytes');
  return { op, local, table: encodeTable(remote), bytes };
}
