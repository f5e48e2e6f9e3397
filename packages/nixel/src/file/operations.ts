import type { DescriptorColumns, TransferPlan } from '@armature/contracts';

/** One positional read or write: pieces of memory that follow each other in the file. */
export interface FileOperation {
  readonly segment: number;
  readonly offset: number;
  readonly bytes: number;
  /** Rows of memory, in file order. */
  readonly memory: readonly { readonly segment: number; readonly offset: number; readonly bytes: number }[];
}

/** A plan as the disk sees it. */
export interface FilePlan {
  /** Into the file, or out of it. */
  readonly toFile: boolean;
  readonly operations: readonly FileOperation[];
  /** Distinct, for the check before the first byte and for syncing. */
  readonly files: readonly number[];
  readonly memories: readonly number[];
  readonly memoryColumns: DescriptorColumns;
  readonly fileColumns: DescriptorColumns;
}

const MAX_PIECES = 256;

/**
 * Sorts the rows by place in the file, joins those that follow each other there (scattered memory: one readv), and cuts what is longer
 * than `maxBytes`, so that a cancel never waits for more than a queue of such.
 */
export function planFile(plan: TransferPlan, isFile: (side: 'local' | 'remote') => boolean, maxBytes: number): FilePlan | undefined {
  const localIsFile = isFile('local');
  if (localIsFile === isFile('remote')) return undefined;
  const memoryColumns = localIsFile ? plan.remote : plan.local;
  const fileColumns = localIsFile ? plan.local : plan.remote;
  return {
    toFile: localIsFile === (plan.op === 'read'),
    operations: operationsOf(fileColumns, memoryColumns, maxBytes),
    files: distinct(fileColumns),
    memories: distinct(memoryColumns),
    memoryColumns,
    fileColumns,
  };
}

function operationsOf(file: DescriptorColumns, memory: DescriptorColumns, maxBytes: number): FileOperation[] {
  const order = Array.from({ length: file.count }, (_, i) => i).filter((i) => file.lengths[i]! > 0);
  order.sort((a, b) => file.segments[a]! - file.segments[b]! || file.offsets[a]! - file.offsets[b]!);
  const operations: FileOperation[] = [];
  let open: { segment: number; offset: number; bytes: number; memory: { segment: number; offset: number; bytes: number }[] } | undefined;
  for (const row of order) {
    for (let at = 0; at < file.lengths[row]!; ) {
      const segment = file.segments[row]!;
      const offset = file.offsets[row]! + at;
      const joins = open !== undefined && open.segment === segment && open.offset + open.bytes === offset && open.bytes < maxBytes && open.memory.length < MAX_PIECES;
      if (!joins) operations.push((open = { segment, offset, bytes: 0, memory: [] }));
      const bytes = Math.min(file.lengths[row]! - at, maxBytes - open!.bytes);
      open!.memory.push({ segment: memory.segments[row]!, offset: memory.offsets[row]! + at, bytes });
      open!.bytes += bytes;
      at += bytes;
    }
  }
  return operations;
}

function distinct(columns: DescriptorColumns): number[] {
  return [...new Set(columns.segments.subarray(0, columns.count))];
}
