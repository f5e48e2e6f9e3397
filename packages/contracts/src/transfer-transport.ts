import type { PlainData } from './context.ts';
import type { Lifecycle } from './plugin.ts';

export type MemoryKind = 'dram' | 'device' | 'file' | 'object';

/** Status of a transfer: 0 done, positive running, negative terminal failure. Data-path calls return these, they do not throw. */
export const TransferStatus = {
  Done: 0,
  InProgress: 1,
  NotPosted: 2,
  InvalidDescriptor: -2,
  NotFound: -4,
  NotAllowed: -6,
  TransportError: -8,
  NotSupported: -9,
  RemoteDisconnected: -10,
  Canceled: -11,
  TimedOut: -12,
} as const;
export type TransferStatus = (typeof TransferStatus)[keyof typeof TransferStatus];

/** Memory an agent has registered. The owner keeps it alive until deregistered. */
export interface TransferSegment {
  /** Unique within the agent; what remote descriptors name. */
  readonly id: number;
  readonly kind: MemoryKind;
  /** DRAM: the memory itself. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  readonly byteOffset: number;
  readonly lengthBytes: number;
}

/** Many pieces of memory as columns: `count` rows of (segment, byte offset within the segment, length in bytes). */
export interface DescriptorColumns {
  readonly count: number;
  readonly segments: Int32Array;
  readonly offsets: Float64Array;
  readonly lengths: Int32Array;
}

export interface TransferOperation {
  readonly op: 'read' | 'write';
  readonly peer: string;
  readonly local: DescriptorColumns;
  /** Same count and lengths as `local`. */
  readonly remote: DescriptorColumns;
  /** Delivered to the peer after the data is visible there; empty = none. */
  readonly notification: Uint8Array;
  readonly deadlineMs: number;
}

/** What a transport learns from its agent. */
export interface TransportHost {
  readonly agentName: string;
  /** Looks up a local segment; undefined when deregistered. */
  segment(id: number): TransferSegment | undefined;
  /** May `peer` touch these bytes of the local segment? (bounds and grants) */
  allows(peer: string, segment: number, offset: number, length: number, op: 'read' | 'write'): boolean;
  /** A notification has arrived. */
  notified(peer: string, payload: Uint8Array): void;
  /** The peer is gone; running transfers with it end as RemoteDisconnected. */
  disconnected(peer: string): void;
}

/** A transport opened for one agent. */
export interface TransportEndpoint {
  /** Connection facts for peers, part of the agent's metadata. Plain data. */
  metadata(): PlainData;
  /** Whether this endpoint can reach a peer with such metadata. */
  canReach(metadata: PlainData): boolean;
  connect(peer: string, metadata: PlainData): void;
  disconnect(peer: string): void;
  /** Expected microseconds for `bytes` in `count` pieces; updated from measurements. */
  estimateMicros(peer: string, bytes: number, count: number): number;
  /**
   * Starts a transfer; `done` is called exactly once, later or before return, with a terminal status. Returns a token for `cancel`.
   * Memory of the operation belongs to the transfer until `done`.
   */
  post(operation: TransferOperation, done: (status: TransferStatus) => void): number;
  /** Asks to stop. `done` still comes, once no byte of the local memory can change any more. */
  cancel(token: number): void;
  notify(peer: string, payload: Uint8Array): boolean;
  /** Ends every transfer first. Idempotent. */
  close(): Promise<void>;
}

/** Moves bytes between registered memories of agents. One instance per process; `open` gives each agent its own endpoint. */
export interface TransferTransport extends Lifecycle {
  readonly name: string;
  readonly supports: {
    readonly sameProcess: boolean;
    readonly sameHost: boolean;
    readonly remoteHosts: boolean;
    readonly notifications: boolean;
    readonly kinds: readonly MemoryKind[];
  };
  /** Why it cannot work here (missing library, kernel setting), or undefined. */
  unavailable(): string | undefined;
  open(host: TransportHost): Promise<TransportEndpoint>;
}
