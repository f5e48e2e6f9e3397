/** An object of the library; 0n is none. */
export type NixlHandle = bigint;

/** Memory types as the C API numbers them. */
export const NixlMemory = { Dram: 0, Vram: 1, File: 4 } as const;
export type NixlMemory = (typeof NixlMemory)[keyof typeof NixlMemory];

/**
 * Results of the C API. It collapses the errors of the C++ one: a lost peer, a mismatch and a refused repost are all `Backend`.
 * A lost peer is told apart by `NixlAgent.knows`: the library forgets its metadata on the way.
 */
export const NixlResult = { Success: 0, InProgress: 1, InvalidParam: -1, Backend: -2, InvalidState: -3, Exception: -4, NoTelemetry: -5, NotFound: -6 } as const;

/** Prepared descriptor rows. */
export interface NixlRows {
  readonly count: number;
  readonly addresses: BigUint64Array;
  readonly lengths: Float64Array;
  /** Same for all rows of one registration: what told it apart when it was registered. */
  readonly devices: BigUint64Array;
}

/** Registered memory. */
export interface NixlRegistration {
  readonly memory: NixlMemory;
  readonly list: NixlHandle;
  readonly backend: NixlHandle;
}

/**
 * What this package uses of one NIXL agent: the C API nearly call by call, without pointers to pointers. Calls marked "throws" are control
 * path and throw `TRANSFER_NIXL_FAILED`; the others return a `NixlResult`. Not thread safe; all calls come from one thread.
 */
export interface NixlAgent {
  readonly name: string;
  plugins(): readonly string[];
  /** Throws. */
  createBackend(plugin: string, params: Readonly<Record<string, string>>): NixlHandle;
  /** Throws. The memory must stay until deregistered. */
  register(backend: NixlHandle, memory: NixlMemory, row: { readonly address: bigint; readonly length: number; readonly device: bigint }): NixlRegistration;
  deregister(registration: NixlRegistration): number;
  /** Throws. The keys of one registration, or (undefined) how to connect, without any key. */
  metadata(backend: NixlHandle, registration: NixlRegistration | undefined): Uint8Array;
  /** Loads what another agent's `metadata` gave. Returns that agent's name, or a negative result. */
  load(metadata: Uint8Array): string | number;
  /** Forgets another agent and closes the connection to it. */
  invalidate(name: string): number;
  /** Whether metadata of that agent is loaded. False right after the library has seen it disconnect. */
  knows(name: string): boolean;
  /** Prepares rows of own memory (`peer` empty) or of a peer's. 0n: some row is in no registered memory. */
  prepare(backend: NixlHandle, peer: string, memory: NixlMemory, rows: NixlRows): NixlHandle;
  releasePrepared(prepared: NixlHandle): void;
  /** A transfer between rows of two prepared lists, by index. 0n: refused. */
  request(backend: NixlHandle, op: 'read' | 'write', local: NixlHandle, localRows: Int32Array, remote: NixlHandle, remoteRows: Int32Array): NixlHandle;
  /** Starts a request, again after it has ended. `notification` reaches the peer after the data. */
  post(request: NixlHandle, notification: Uint8Array | undefined): number;
  status(request: NixlHandle): number;
  /** Gives the request back; one that runs is abandoned, which does not mean that its bytes have stopped. */
  releaseRequest(request: NixlHandle): void;
  notify(peer: string, payload: Uint8Array): number;
  /** Progress, and what has arrived since: `payload` is the receiver's. In order per sender. Returns how many. */
  notifications(receive: (peer: string, payload: Uint8Array) => void): number;
  /** Ends the agent and everything it holds. */
  destroy(): void;
}

export interface NixlLibrary {
  /** File it was loaded from. */
  readonly path: string;
  /** `1.5.1`, or empty when it cannot be told. */
  readonly version: string;
  /** Where the bytes lie. Stable: registered memory lies outside the JavaScript heap. */
  address(bytes: Uint8Array): bigint;
  /** Throws. `progressThread`: a thread of the library moves data and answers peers while JavaScript is busy. */
  createAgent(name: string, options: { readonly progressThread: boolean }): NixlAgent;
}
