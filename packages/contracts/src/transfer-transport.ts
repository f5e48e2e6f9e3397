import type { Lifecycle } from './plugin.ts';

export type MemoryKind = 'dram' | 'device' | 'file' | 'object';

/**
 * Status of a transfer: 0 done, positive running, negative terminal failure. Data-path calls return these, they do not throw.
 * Numbers follow NIXL where it has the same status.
 */
export const TransferStatus = {
  Done: 0,
  InProgress: 1,
  /** Prepared, never posted. */
  NotPosted: 2,
  /** A descriptor lies outside its segment, or the lists do not match. */
  InvalidDescriptor: -2,
  /** Segment or peer unknown (deregistered, removed). */
  NotFound: -4,
  /** The owner has not granted these bytes. */
  NotAllowed: -6,
  /** Posted again while running; the running transfer goes on. */
  RepostActive: -7,
  TransportError: -8,
  NotSupported: -9,
  RemoteDisconnected: -10,
  Canceled: -11,
  TimedOut: -12,
  /** As many transfers run with this peer as the agent allows; nothing was started. Post again when one has ended. */
  Overloaded: -13,
} as const;
export type TransferStatus = (typeof TransferStatus)[keyof typeof TransferStatus];

/** Where a `dram` segment lies when other processes of this host can map it (a memfd of its owner). */
export interface SharedMapping {
  /** Owner process, and when it started (`/proc/PID/stat`, clock ticks since boot): a reused pid is another process. */
  readonly pid: number;
  readonly startTicks: number;
  /** Opened by others as `/proc/PID/fd/FD`; the kernel frees the memory with its last user. */
  readonly fd: number;
  /** Of the segment's first byte within the mapping. */
  readonly offsetBytes: number;
  /** Address of the segment's first byte in the owner. */
  readonly address: bigint;
}

/** Where a segment lies when it is not plain memory of this process. */
export type SegmentLocation =
  | { readonly type: 'shared'; readonly mapping: SharedMapping }
  | { readonly type: 'file'; readonly path: string; readonly fd: number; readonly direct: boolean }
  | { readonly type: 'object'; readonly key: string }
  /** `address` is a device pointer of the owner's context on GPU `ordinal`. */
  | { readonly type: 'device'; readonly ordinal: number; readonly address: bigint };

/** Memory an agent has registered. The owner keeps it alive until deregistered. */
export interface TransferSegment {
  /** Unique within the agent; what remote descriptors name. Never reused. */
  readonly id: number;
  readonly kind: MemoryKind;
  /** DRAM: the memory itself, exactly the registered bytes. May lie over a SharedArrayBuffer or a mapping. Other kinds: empty. */
  readonly bytes: Uint8Array;
  readonly lengthBytes: number;
  /** Undefined for private memory of this process. */
  readonly location?: SegmentLocation | undefined;
}

/** A peer's segment, as its metadata describes it. */
export interface PeerSegment {
  readonly id: number;
  readonly kind: MemoryKind;
  readonly lengthBytes: number;
  /** What the peer's endpoint of the same transport said of it (`segmentMetadata`). */
  readonly metadata: TransportMetadata | undefined;
}

/** Many pieces of memory as columns: `count` rows of (segment, byte offset within the segment, length in bytes). Zero lengths are allowed. */
export interface DescriptorColumns {
  readonly count: number;
  readonly segments: Int32Array;
  readonly offsets: Float64Array;
  readonly lengths: Int32Array;
}

/** A prepared transfer: validated once, posted many times. Transports may keep derived data per plan (WeakMap). Never changes. */
export interface TransferPlan {
  /** `read`: remote memory into local; `write`: local memory into remote. */
  readonly op: 'read' | 'write';
  readonly peer: string;
  readonly local: DescriptorColumns;
  /** Same count and lengths as `local`. */
  readonly remote: DescriptorColumns;
  /** Sum of the lengths. */
  readonly bytes: number;
}

/** Connection facts of one endpoint; travels inside the agent's metadata. */
export type TransportMetadata = { readonly [key: string]: string | number | boolean };

/** A peer agent, as its metadata describes it. */
export interface TransferPeer {
  readonly name: string;
  /** Changes with each life of the agent: a restarted peer is another one. */
  readonly incarnation: string;
  readonly metadata: TransportMetadata;
  /**
   * Its segments by id, as far as its metadata names them. A live view: it grows and shrinks as metadata is refreshed and invalidated,
   * without another `connect`. Look a segment up when a plan is first used, not at `connect`.
   */
  readonly segments: ReadonlyMap<number, PeerSegment>;
}

/** What a transport learns from its agent. Calls are synchronous and do not throw. */
export interface TransportHost {
  readonly agentName: string;
  readonly incarnation: string;
  /** Looks up a local segment; undefined when deregistered. */
  segment(id: number): TransferSegment | undefined;
  /**
   * May `peer` touch these bytes of a local segment? `Done`, or why not: `NotFound`, `InvalidDescriptor`, `NotAllowed`.
   * `op` as the peer sees it: `read` takes our bytes, `write` changes them. Asked for every descriptor of every transfer.
   */
  allows(peer: string, segment: number, offset: number, length: number, op: 'read' | 'write'): TransferStatus;
  /** A notification has arrived. The payload is the receiver's. */
  notified(peer: string, payload: Uint8Array): void;
  /** The peer is gone; running transfers with it end as RemoteDisconnected. Called once per loss. */
  disconnected(peer: string): void;
}

/** A transport opened for one agent. */
export interface TransportEndpoint {
  metadata(): TransportMetadata;
  /** What peers need to reach one segment (mapping, remote key); undefined: nothing beyond its id. Asked after `registered`. */
  segmentMetadata?(segment: TransferSegment): TransportMetadata | undefined;
  /**
   * Whether this endpoint can run the plan: memory kinds and locations on both sides. Absent: any plan between `dram` segments. Asked at
   * prepare, never per post. An owner still checks `kind` before it serves: a peer may ask for what it cannot do (`NotSupported`).
   */
  canMove?(plan: TransferPlan): boolean;
  /** Whether this endpoint can reach an endpoint with such metadata. */
  canReach(metadata: TransportMetadata): boolean;
  /**
   * Makes a peer known; the connection itself may come with the first transfer. Replaces an earlier peer of that name. A peer with the
   * host's own name and incarnation is the agent itself: transfers between its own segments (dram and file, for example).
   */
  connect(peer: TransferPeer): void;
  /** Forgets a peer; its running transfers end as RemoteDisconnected. */
  disconnect(peer: string): void;
  /** Expected microseconds for `bytes` in `count` pieces, from measurements; Infinity when the peer is not connected here. */
  estimateMicros(peer: string, bytes: number, count: number): number;
  /**
   * Starts a transfer; `done` is called exactly once, later or before return, with a terminal status. Returns a token for `cancel`.
   * Local memory belongs to the transfer until `done`. `notification` is delivered to the peer after the data: for a write once all
   * bytes are visible there, for a read once all bytes are here. Not delivered when the transfer fails.
   */
  post(plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number;
  /**
   * Asks to stop; unknown tokens are ignored. `done` still comes (Canceled, or Done when it was too late), and only once no byte of the
   * local memory can change any more. Bounded: a peer that does not answer is disconnected.
   */
  cancel(token: number): void;
  /** Sends a notification without data. False: peer not connected here, or its queue is full. */
  notify(peer: string, payload: Uint8Array): boolean;
  /** For transports that pin or map memory. */
  registered?(segment: TransferSegment): void;
  deregistered?(segment: TransferSegment): void;
  /** What `allows` answers has changed for a peer (a grant came or went): answers kept from before are stale. */
  accessChanged?(peer: string): void;
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
    /** False: `post` ignores its notification and `notify` answers false; the agent sends them over another path. */
    readonly notifications: boolean;
    /** Moves only between segments of one agent, which is its own peer (local storage). Absent: false. */
    readonly selfOnly?: boolean;
    readonly kinds: readonly MemoryKind[];
  };
  /** Why it cannot work here (missing library, kernel setting), or undefined. */
  unavailable(): string | undefined;
  open(host: TransportHost): Promise<TransportEndpoint>;
}
