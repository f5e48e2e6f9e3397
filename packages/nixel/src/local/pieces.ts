import type { DescriptorColumns, TransferPlan, TransferSegment, TransferStatus } from '@armature/contracts';
import { allocateDescriptors } from '../descriptors.ts';
import type { PinnedProcess } from '../native/process.ts';

/** What an owner tells of one of its segments to a peer that may touch it. Plain JSON. */
export interface SegmentFacts {
  readonly id: number;
  readonly lengthBytes: number;
  /** The peer may touch all of it: later plans need not ask. */
  readonly isWhole: boolean;
  /** Of the memory transport: where it lies. Undefined: this transport cannot reach it. */
  readonly place?: Readonly<Record<string, number>> | undefined;
}

/** A plan as pieces that are ready to be copied, none longer than a step. Belongs to one connection. */
export interface Pieces {
  readonly count: number;
  readonly lengths: Int32Array;
  /** Copies pieces `from` to `to`, at most 1,024. Terminal status; `Done` when all of their bytes were moved. */
  copy(from: number, to: number): TransferStatus;
}

export interface PieceSources {
  readonly plan: TransferPlan;
  /** Undefined when deregistered. */
  readonly local: (segment: number) => TransferSegment | undefined;
  readonly remote: (segment: number) => SegmentFacts | undefined;
}

/** A peer's memory as one connection sees it. */
export interface PeerMemory {
  /** Everything about a plan that can be computed before copying; a status when it cannot be run. */
  pieces(sources: PieceSources): Pieces | TransferStatus;
  /** The owner has deregistered a segment: lets go of its memory. */
  drop(segment: number): void;
  /** No copy is running. Idempotent. */
  close(): void;
}

/** How bytes move between two processes of one host. The rest (identity, grants, notifications, turns) is common. */
export interface Mover {
  /** Bytes copied without looking at the clock. */
  readonly stepBytes: number;
  readonly latencyMicros: number;
  readonly bytesPerMicro: number;
  /** Owner's side: where a segment lies for peers, undefined when they cannot reach it. */
  place(segment: TransferSegment): Readonly<Record<string, number>> | undefined;
  /** Initiator's side: the memory of a process that was checked and is held for as long as the connection lives. */
  open(process: PinnedProcess): PeerMemory;
}

export interface Rows {
  readonly local: DescriptorColumns;
  readonly remote: DescriptorColumns;
}

const ALIGN_BYTES = 4096;

/** Rows of two `limit`s and more become pieces of at least `limit` bytes, empty ones go. */
export function cutRows(plan: TransferPlan, limit: number): Rows {
  const { lengths, count } = plan.local;
  let rows = 0;
  for (let i = 0; i < count; i++) rows += Math.ceil(lengths[i]! / pieceBytes(lengths[i]!, limit));
  if (rows === count && !lengths.subarray(0, count).includes(0)) return plan;
  const local = allocateDescriptors(rows);
  const remote = allocateDescriptors(rows);
  for (let i = 0, row = 0; i < count; i++) {
    const step = pieceBytes(lengths[i]!, limit);
    for (let at = 0; at < lengths[i]!; at += step, row++) {
      local.segments[row] = plan.local.segments[i]!;
      local.offsets[row] = plan.local.offsets[i]! + at;
      remote.segments[row] = plan.remote.segments[i]!;
      remote.offsets[row] = plan.remote.offsets[i]! + at;
      local.lengths[row] = remote.lengths[row] = Math.min(step, lengths[i]! - at);
    }
  }
  return { local, remote };
}

function pieceBytes(length: number, limit: number): number {
  const pieces = Math.floor(length / limit);
  return pieces < 2 ? Math.max(1, length) : Math.ceil(length / pieces / ALIGN_BYTES) * ALIGN_BYTES;
}
