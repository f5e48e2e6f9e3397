import type { KvMemory, KvOperation } from './kv-tier.ts';
import type { SegmentLocation } from './transfer-transport.ts';

/** What the bytes of a block are, of an engine whose device memory this process cannot touch. */
export interface KvBlockFormat {
  /** Equal fingerprints: blocks may be copied byte for byte. */
  readonly layoutFingerprint: string;
  /** A block's content is that many runs of `pieceBytes`, one after the other; checksums are made over the runs. */
  readonly pieces: number;
  readonly pieceBytes: number;
}

/** A worker as others borrow from it. Plain data: engines carry it from the prefill to the decode worker in their own words. */
export interface KvLender {
  readonly instanceId: string;
  /** Request-plane address, for the loan. */
  readonly address: string;
  readonly agentMetadata: Uint8Array;
  readonly layoutFingerprint: string;
}

/** Rows `from` to `to` of a prompt, wanted in host memory. */
export interface KvHostPull {
  /** Of the prompt's complete blocks, interleaved words. */
  readonly sequenceHashes: Int32Array;
  readonly from: number;
  readonly to: number;
  /** Tenant. */
  readonly cacheSalt: string;
  /** Who else holds leading blocks of it, and how many. */
  readonly lender?: { readonly worker: KvLender; readonly blocks: number };
  readonly deadlineMs: number;
}

/** Host blocks pinned for the engine. */
export interface KvHostPin {
  readonly lease: number;
  /** Of the host memory, for the rows asked for, without a break; their bytes have been checked. */
  readonly blocks: Int32Array;
  /** How many of them came from where. */
  readonly sources: Readonly<Partial<Record<'host' | 'disk' | 'object' | 'peer', number>>>;
}

/** Host blocks for the engine to fill. */
export interface KvHostReservation {
  readonly id: number;
  /** Of the rows asked for, those to be filled: neither held nor being filled already. Ascending. */
  readonly rows: Int32Array;
  /** Host block of each. */
  readonly blocks: Int32Array;
}

/**
 * The host tier, for an engine that copies its blocks to and from it by itself (a connector in the engine's process). Calls come from the event loop and
 * do not throw; bytes cross between processes, so everything that comes back is checked before it is used.
 */
export interface KvHostAccess {
  /** Block `b` begins at `b * blockStrideBytes`. */
  readonly memory: KvMemory;
  /** Where another process maps it; undefined: it cannot. */
  readonly location: Extract<SegmentLocation, { type: 'shared' }> | undefined;
  /** Rows from `from` on that are in the host tier or below it, in one run. Takes no pin. */
  match(sequenceHashes: Int32Array, from: number): number;
  /**
   * Brings the rows up to the host tier, checks and pins them until `release`. `done` exactly once, maybe before return, within the deadline; undefined: not one.
   * Cancelled: what is pinned goes back, `done` is not called any more.
   */
  pull(request: KvHostPull, done: (pin: KvHostPin | undefined) => void): KvOperation;
  /** `valid`: the blocks were untouched until now, what was copied may be used. */
  release(lease: number): 'valid' | 'expired';
  /**
   * Blocks for rows of one prompt, to be filled within `ttlMs`; peers that ask for those rows meanwhile wait. Fewer rows when memory is short.
   * `parents`: sequence hash of the block before each row, 0, 0 for the first of a prompt.
   */
  reserve(rows: { readonly sequenceHashes: Int32Array; readonly parents: Int32Array; readonly cacheSalt: string }, ttlMs: number): KvHostReservation | undefined;
  /** The first `rows` of the reservation are filled; the others go back. `done`: how many are kept; 0 as well when it has expired. */
  commit(reservation: number, rows: number, done: (kept: number) => void): void;
  /** Live counts, for leak tests. */
  counts(): { readonly pins: number; readonly pinnedBlocks: number; readonly reservations: number; readonly reservedBlocks: number };
}

/** An engine that keeps its device memory to itself and moves its own blocks to and from the worker's host tier. */
export interface KvConnector {
  /** Of its blocks. Valid after `start`. */
  format(): KvBlockFormat;
  /** The tiers are open. Once, after `start`. `self`: how other workers borrow from this one. */
  attach(host: KvHostAccess, self: KvLender): void;
  /** They close: every pin and reservation has been given back on return, and the engine computes by itself. */
  detach(): void;
}
