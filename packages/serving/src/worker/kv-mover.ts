import type { TransferStatus } from '@armature/contracts';

/** A pull in flight. */
export interface Pull {
  /** Asks to stop; `done` still comes. */
  cancel(): void;
}

/** What the decode side of a worker needs from its transfer agent: read a peer's blocks into own blocks. */
export interface KvMover {
  /** What peers must know to read from this worker. */
  metadata(): Uint8Array;
  /** Bytes of one block. */
  readonly blockBytes: number;
  /**
   * Reads the peer's `remoteBlocks` into `localBlocks` (equal length) as one transfer. `done` comes exactly once, when no byte of the
   * local blocks can change any more, possibly before return.
   */
  pull(peerMetadata: Uint8Array, remoteBlocks: Int32Array, localBlocks: Int32Array, deadlineMs: number, done: (status: TransferStatus) => void): Pull;
  close(): Promise<void>;
}
