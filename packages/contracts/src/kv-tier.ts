import type { Clock, Logger } from './context.ts';
import type { ErrorData } from './errors.ts';
import type { KvEvictionOrder } from './kv-policy.ts';
import type { KvTier } from './kv-events.ts';
import type { Lifecycle } from './plugin.ts';
import type { SegmentLocation, TransferStatus } from './transfer-transport.ts';

/** The tiers below the engine's own memory. */
export type KvStoreTier = Exclude<KvTier, 'device'>;

/**
 * Memory, or a file, that holds KV blocks: block `b` is `pieces` runs of `pieceBytes` at `byteOffset + b * blockStrideBytes + p * pieceStrideBytes`.
 * A block's content is its pieces one after the other. Registered with the worker's transfer agent as `segment`.
 */
export interface KvMemory {
  readonly segment: number;
  readonly blocks: number;
  readonly blockStrideBytes: number;
  readonly pieces: number;
  readonly pieceBytes: number;
  readonly pieceStrideBytes: number;
  /** The segment's bytes, from block 0 on; undefined when the CPU cannot touch them (device memory, a file). */
  readonly bytes: Uint8Array | undefined;
  /** The `WebAssembly.Memory` behind `bytes`, where it is one: own code runs over the bytes in place. `byteOffset` of `bytes` is the address. */
  readonly wasm?: object;
}

/** How blocks lie in memory or in a file. */
export interface KvMemoryLayout {
  readonly blocks: number;
  readonly blockStrideBytes: number;
  readonly pieces: number;
  readonly pieceBytes: number;
  readonly pieceStrideBytes: number;
}

/** A copy in flight. */
export interface KvOperation {
  /** Asks to stop; `done` still comes, once no byte can change any more. Idempotent. */
  cancel(): void;
}

/** Copies blocks between registered memories of one worker, through its transfer agent: one batch is one transfer. */
export interface KvBlockMover {
  /**
   * Memory of this process; `location` where other processes can map it. Peers may read it, nobody else writes it. Block 0 is at `bytes[0]`.
   * Throws for a layout that is not inside the memory.
   */
  registerMemory(memory: { readonly bytes: Uint8Array; readonly location?: Extract<SegmentLocation, { type: 'shared' }> }, layout: KvMemoryLayout): KvMemory;
  /** Another view of registered memory: as one piece per block, for example. */
  view(memory: KvMemory, layout: KvMemoryLayout): KvMemory;
  /** An open file (`openFile` of nixel), for this worker alone. The caller closes it after `deregister`. */
  registerFile(file: { readonly path: string; readonly fd: number; readonly direct: boolean }, lengthBytes: number, layout: KvMemoryLayout): KvMemory;
  /** Throws `TRANSFER_SEGMENT_BUSY` while a copy uses it. */
  deregister(memory: KvMemory): void;
  /**
   * Block `fromBlocks[i]` of `from` to block `toBlocks[i]` of `to`; the pieces of both must agree. `done` comes exactly once, possibly before
   * return, when no byte of either side is used any more; within `deadlineMs` milliseconds from now, but for what the system cannot stop.
   * The index columns are copied. Does not throw: what cannot be copied ends as a status.
   */
  copy(from: KvMemory, fromBlocks: Int32Array, to: KvMemory, toBlocks: Int32Array, deadlineMs: number, done: (status: TransferStatus) => void): KvOperation;
}

/** What became of one row of a batch. */
export const KvBlockStatus = {
  Done: 0,
  /** `store`: held already, nothing was written. */
  Present: 1,
  /** `load`: not held (any more). */
  Missing: 2,
  /** `store`: no room: everything is pinned, the tenant is over its quota, the policy did not admit it, or the tier takes no writes now. */
  Refused: 3,
  /** The medium failed; the block is not held (`store`) or is dropped if its bytes are gone (`load`). */
  Failed: 4,
  /** `load`: stored by another layout, model or format; dropped. */
  Foreign: 5,
  Canceled: 6,
} as const;
export type KvBlockStatus = (typeof KvBlockStatus)[keyof typeof KvBlockStatus];

/**
 * Blocks on their way between a tier and memory, as columns of `count` rows. Hash columns are interleaved words (lo, hi), two per row.
 * The caller owns it and keeps it, and the memory's blocks, untouched until `done`.
 */
export interface KvBlockBatch {
  readonly count: number;
  /** Sequence hashes. */
  readonly hashes: Int32Array;
  /** Lineage: sequence hash of the block before; 0, 0 at the start of a prompt. */
  readonly parents: Int32Array;
  /** 64-bit checksums of the blocks' content, as two words. `store` keeps them, `load` writes what was kept: verifying is the caller's. */
  readonly checksums: Int32Array;
  /** Whose blocks these are, for quotas: a number the manager gave the tenant, 0 = shared. */
  readonly tenant: number;
  /** Where the bytes come from (`store`) or go to (`load`), contiguous blocks of the worker's host pool or staging. */
  readonly memory: KvMemory;
  readonly blocks: Int32Array;
  /** Written before `done`: a KvBlockStatus per row. */
  readonly statuses: Uint8Array;
}

export interface KvTierStats {
  readonly capacityBlocks: number;
  readonly heldBlocks: number;
  /** Blocks that a running operation or a lease keeps. */
  readonly pinnedBlocks: number;
  readonly stores: number;
  /** Rows found present. */
  readonly duplicates: number;
  readonly refusals: number;
  readonly loads: number;
  readonly misses: number;
  readonly evictions: number;
  readonly failures: number;
  /** Blocks dropped because they were corrupt, torn or foreign. */
  readonly dropped: number;
}

export type KvRemovalReason = 'evicted' | 'corrupt' | 'failed' | 'expired' | 'removed';

/** What a tier learns of the worker it works for. */
export interface KvTierHost {
  /** `MODEL/POOL/INDEX`: the same after a restart. For folder names, with care: it may hold any characters. */
  readonly worker: string;
  readonly modelFingerprint: string;
  /** Model, dtype, block size and ranks of the bytes. Blocks of another fingerprint are never given out. */
  readonly layoutFingerprint: string;
  /** Bytes of one block's content. */
  readonly blockBytes: number;
  /**
   * How the checksums of blocks are made: version of the algorithm (0 = they are not made), and over runs of how many bytes. A tier that outlives the process keeps it with
   * its blocks, so that they can be checked without their engine; blocks under other checksums are of no use. Absent: unknown.
   */
  readonly checksum?: { readonly version: number; readonly pieceBytes: number };
  /** Folder that relative paths in a config are relative to. */
  readonly baseDir: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly mover: KvBlockMover;
  /** The engine's own process fills and reads blocks of the memory tier: its mapping must be writable to other processes of this user. */
  readonly engineWrites?: boolean;
  /** A new order of eviction for a tier with this many places (`KvPolicy.order`). */
  order(places: number): KvEvictionOrder;
  /** Blocks one tenant may hold in a tier of that many. */
  quota(tenant: number, places: number): number;
  /** These blocks are no longer held. Interleaved words, borrowed until return. Not called for blocks that `store` never reported Done or `records` never listed. */
  removed(hashes: Int32Array, count: number, reason: KvRemovalReason): void;
  /** Bytes written and read by this tier since the last call, and how long the medium took: for metrics and for choosing the source. */
  measured(kind: 'store' | 'load', blocks: number, bytes: number, milliseconds: number): void;
  /** The tier works with less than its abilities (disk full, read-only, server down); undefined: well again. */
  degraded(problem: ErrorData | undefined): void;
}

/** Called for one held block: sequence hash, parent's sequence hash. */
export type KvRecordVisitor = (lo: number, hi: number, parentLo: number, parentHi: number) => void;

/**
 * An opened tier. Data-path calls never throw and never block the event loop for longer than a copy of `maxChunk` bytes (1 MiB); operations are
 * bounded: beyond what a tier runs at once it queues, beyond the queue it refuses (stores) or answers Missing (loads).
 */
export interface KvTierStore {
  readonly tier: KvStoreTier;
  readonly capacityBlocks: number;
  /** Rows from `from` on that are held in one unbroken run, as far as known here without I/O. Takes no pin. */
  match(hashes: Int32Array, from: number): number;
  /** Like `match`, asking the medium where it alone knows (a shared object store). `done` exactly once; at the latest `deadlineMs` milliseconds from now. Absent: `match` is exact. */
  probe?(hashes: Int32Array, from: number, deadlineMs: number, done: (blocks: number) => void): KvOperation;
  /** Takes blocks in; rows are independent. A block may be matched once its bytes and its record are complete. */
  store(batch: KvBlockBatch, done: () => void): KvOperation;
  /** Gives blocks out within `deadlineMs` milliseconds from now; rows are independent and pinned while it runs. What was loaded counts as used. */
  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation;
  /** The rows were used though no bytes moved: they are younger now, leaves before their parents. */
  touch(hashes: Int32Array, from: number, count: number): void;
  /** Drops the rows that are held. Rows in use go when their last user ends. Reported by `removed`. Returns how many. */
  remove(hashes: Int32Array, count: number, reason: KvRemovalReason): number;
  /** Every held block, parents before their children where both are held. For the resync of followers and for `armature kv ls`. */
  records(visit: KvRecordVisitor): void;
  stats(): KvTierStats;
  /** Ends running operations, writes what must not be lost. Idempotent. */
  close(): Promise<void>;
}

/** A tier in this process' memory: blocks can be filled and read in place. The host tier; at most one per worker, first in the list. */
export interface KvMemoryTier extends KvTierStore {
  readonly memory: KvMemory;
  /** Where other processes of this host map it; absent: they cannot. */
  readonly location?: Extract<SegmentLocation, { type: 'shared' }>;
  /**
   * Up to `count` mutable blocks into `out`, evicting what may go; fewer when everything else is pinned or the quota of the tenant is used up.
   * Returns how many. They belong to the caller until `register` or `free`.
   */
  allocate(tenant: number, count: number, out: Int32Array): number;
  /** Filled and verified: may be matched from now on. A row whose hash is held already is freed (status Present). `batch.memory` is this tier's own. */
  register(batch: KvBlockBatch): void;
  free(blocks: Int32Array, count: number): void;
  /** Pins the unbroken run from row `from`, at most `count` blocks, and counts as use; block numbers into `out`. Returns how many. */
  acquire(hashes: Int32Array, from: number, count: number, out: Int32Array): number;
  /** Ends a pin of each, the last one first: given in the order of the prompt, leaves go before their parents. */
  release(blocks: Int32Array, count: number): void;
  /** Of a registered block: hash, parent, checksum, two words each. False: not registered. */
  record(block: number, out: Int32Array): boolean;
}

/** A place where KV blocks are kept below the engine's memory. One instance per worker. */
export interface KvTierBackend extends Lifecycle {
  readonly tier: KvStoreTier;
  /** Of its configuration, before anything is opened; undefined: only known later. For the check that no tier is smaller than the one above. */
  capacityBytes(): number | undefined;
  /**
   * Bounded. Throws with a code when the tier can never work as configured; what may pass (server down, disk full) opens degraded.
   * The memory tier is opened first.
   */
  open(host: KvTierHost): Promise<KvTierStore>;
}

export function isMemoryTier(store: KvTierStore): store is KvMemoryTier {
  return 'memory' in store;
}
