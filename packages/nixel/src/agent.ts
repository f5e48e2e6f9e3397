import { randomUUID } from 'node:crypto';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { Clock, DescriptorColumns, Logger, TransferPlan, TransferSegment, TransferTransport, TransportEndpoint, TransportHost, TransportMetadata } from '@armature/contracts';
import { TransferCounters } from './counters.ts';
import { assertInside, mergeAdjacent, mismatch, totalBytes } from './descriptors.ts';
import { GrantTable } from './grants.ts';
import type { Grant, SegmentAccess } from './grants.ts';
import { PreparedTransfer } from './handle.ts';
import type { TransferDone, TransferHandle } from './handle.ts';
import { decodeMetadata, encodeMetadata } from './metadata.ts';

export interface AgentOptions {
  /** Unique among the agents that meet. */
  readonly name: string;
  /** In order of preference when estimates are equal. Unavailable ones are left out with a log line. */
  readonly transports: readonly TransferTransport[];
  readonly clock: Clock;
  readonly log: Logger;
  /** Names this life of the agent; default a random UUID. */
  readonly incarnation?: string;
  /** For posts without their own. Default 30 s. */
  readonly deadlineMs?: number;
}

export interface RegisterOptions {
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  readonly byteOffset?: number;
  readonly lengthBytes?: number;
  /** Default `peers`. */
  readonly access?: SegmentAccess;
}

export interface PrepareOptions {
  readonly op: 'read' | 'write';
  readonly peer: string;
  readonly local: DescriptorColumns;
  readonly remote: DescriptorColumns;
}

export interface PostOptions {
  /** Delivered to the peer after the data; not when the transfer fails. */
  readonly notification?: Uint8Array;
  readonly deadlineMs?: number;
}

interface Opened {
  readonly name: string;
  readonly endpoint: TransportEndpoint;
}

interface Peer {
  readonly name: string;
  readonly incarnation: string;
  readonly segments: Map<number, number>;
  readonly paths: readonly Opened[];
}

/** Opens an endpoint on each transport. Throws `TRANSFER_NO_TRANSPORT` when none is available. */
export async function createAgent(options: AgentOptions): Promise<Agent> {
  const agent = new Agent(options);
  try {
    await agent.open(options.transports);
  } catch (error) {
    await agent.close();
    throw error;
  }
  return agent;
}

/**
 * One party of data transfer, after NIXL: owns registered memory, knows peers by their metadata, runs prepared transfers.
 * Control path (register, addPeer, prepare) throws ArmatureError; data path (post, check) returns TransferStatus.
 */
export class Agent {
  readonly name: string;
  readonly incarnation: string;
  readonly counters = new TransferCounters();
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #deadlineMs: number;
  readonly #opened: Opened[] = [];
  readonly #segments = new Map<number, TransferSegment>();
  readonly #grants = new GrantTable();
  readonly #peers = new Map<string, Peer>();
  readonly #running = new Set<PreparedTransfer>();
  readonly #host: TransportHost;
  readonly #ended: (transfer: PreparedTransfer, status: TransferStatus) => void;
  #onNotification: ((peer: string, payload: Uint8Array) => void) | undefined = undefined;
  #onPeerLost: ((peer: string) => void) | undefined = undefined;
  #nextSegment = 1;
  #closing: Promise<void> | undefined = undefined;

  constructor(options: AgentOptions) {
    if (options.name === '') throw new ArmatureError('TRANSFER_AGENT_INVALID', 'an agent needs a name', { hint: 'pass a name unique among the agents that meet' });
    this.name = options.name;
    this.incarnation = options.incarnation ?? randomUUID();
    this.#clock = options.clock;
    this.#log = options.log;
    this.#deadlineMs = options.deadlineMs ?? 30_000;
    this.#ended = (transfer, status) => this.#finish(transfer, status);
    this.#host = {
      agentName: this.name,
      incarnation: this.incarnation,
      segment: (id) => this.#segments.get(id),
      allows: (peer, segment, offset, length, op) => this.#grants.check(peer, segment, offset, length, op),
      notified: (peer, payload) => this.#notified(peer, payload),
      disconnected: (peer) => this.#lost(peer),
    };
  }

  /** Called once by `createAgent`. */
  async open(transports: readonly TransferTransport[]): Promise<void> {
    for (const transport of transports) {
      const reason = transport.unavailable();
      if (reason !== undefined) {
        this.#log.warn('transfer transport is not available', { transport: transport.name, reason });
        continue;
      }
      this.#opened.push({ name: transport.name, endpoint: await transport.open(this.#host) });
    }
    if (this.#opened.length === 0) {
      throw new ArmatureError('TRANSFER_NO_TRANSPORT', `agent "${this.name}" has no transport`, { hint: 'name at least one available transport, for example tcp' });
    }
  }

  /** Makes memory known. Register few large regions, once. The memory must not be resized or detached until deregistered. */
  register(options: RegisterOptions): TransferSegment {
    const byteOffset = options.byteOffset ?? 0;
    const lengthBytes = options.lengthBytes ?? options.buffer.byteLength - byteOffset;
    if (!(byteOffset >= 0 && lengthBytes >= 0 && byteOffset + lengthBytes <= options.buffer.byteLength)) {
      throw new ArmatureError('TRANSFER_SEGMENT_INVALID', `bytes ${byteOffset} to ${byteOffset + lengthBytes} are outside a buffer of ${options.buffer.byteLength}`, {
        hint: 'register a range inside the buffer',
      });
    }
    const segment: TransferSegment = { id: this.#nextSegment++, kind: 'dram', bytes: new Uint8Array(options.buffer, byteOffset, lengthBytes), lengthBytes };
    this.#segments.set(segment.id, segment);
    this.#grants.addSegment(segment.id, lengthBytes, options.access ?? 'peers');
    for (const { endpoint } of this.#opened) endpoint.registered?.(segment);
    return segment;
  }

  /** Peers' later transfers with it end as NotFound. Throws `TRANSFER_SEGMENT_BUSY` while an own transfer uses it. Idempotent. */
  deregister(id: number): void {
    const segment = this.#segments.get(id);
    if (segment === undefined) return;
    for (const transfer of this.#running) {
      if (transfer.plan.local.segments.includes(id)) {
        throw new ArmatureError('TRANSFER_SEGMENT_BUSY', `segment ${id} is used by a running transfer with "${transfer.peer}"`, { hint: 'cancel it and wait for its terminal status' });
      }
    }
    this.#segments.delete(id);
    this.#grants.removeSegment(id);
    for (const { endpoint } of this.#opened) endpoint.deregistered?.(segment);
  }

  /** Allows a peer a range of a segment registered with access `granted` or `peers-read`. Returns the revoke function. */
  grant(grant: Grant): () => void {
    const segment = this.#segments.get(grant.segment);
    if (segment === undefined || grant.offset < 0 || grant.offset + grant.length > segment.lengthBytes) {
      throw new ArmatureError('TRANSFER_GRANT_INVALID', `grant names bytes outside segment ${grant.segment}`, { hint: 'grant a range of a registered segment' });
    }
    return this.#grants.add(grant);
  }

  /** For peers: name, incarnation, segments registered so far, connection facts. */
  metadata(): Uint8Array {
    const transports = Object.fromEntries(this.#opened.map(({ name, endpoint }) => [name, endpoint.metadata()]));
    const segments = [...this.#segments.values()].map((segment) => {
      const facts = this.#opened.map(({ name, endpoint }) => [name, endpoint.segmentMetadata?.(segment)] as const).filter((entry) => entry[1] !== undefined);
      return { id: segment.id, kind: segment.kind, lengthBytes: segment.lengthBytes, transports: Object.fromEntries(facts) as Record<string, TransportMetadata> };
    });
    return encodeMetadata({ name: this.name, incarnation: this.incarnation, segments, transports });
  }

  /** Makes a peer known, or refreshes it. Returns its name. Throws `TRANSFER_METADATA_INVALID`, `TRANSFER_PEER_UNREACHABLE`. */
  addPeer(metadata: Uint8Array): string {
    const facts = decodeMetadata(metadata);
    const paths = this.#opened.filter(({ name, endpoint }) => facts.transports[name] !== undefined && endpoint.canReach(facts.transports[name]));
    if (paths.length === 0) {
      const theirs = Object.keys(facts.transports).join(', ');
      throw new ArmatureError('TRANSFER_PEER_UNREACHABLE', `no common transport reaches agent "${facts.name}" (it has ${theirs || 'none'})`, {
        hint: 'give both sides a transport that works between them, for example tcp',
      });
    }
    const known = this.#peers.get(facts.name);
    if (known !== undefined && known.incarnation !== facts.incarnation) this.removePeer(facts.name);
    if (known === undefined || known.incarnation !== facts.incarnation) {
      for (const { name, endpoint } of paths) endpoint.connect({ name: facts.name, incarnation: facts.incarnation, metadata: facts.transports[name]!, segments: new Map(facts.segments.map((segment) => [segment.id, { ...segment, metadata: segment.transports[name] }])) });
    }
    const segments = new Map(facts.segments.map((segment) => [segment.id, segment.lengthBytes]));
    this.#peers.set(facts.name, { name: facts.name, incarnation: facts.incarnation, segments, paths });
    return facts.name;
  }

  /** Forgets a peer and what it was granted; running transfers with it end as RemoteDisconnected. Idempotent. */
  removePeer(name: string): void {
    const peer = this.#peers.get(name);
    if (peer === undefined) return;
    this.#peers.delete(name);
    this.#grants.removePeer(name);
    for (const { endpoint } of peer.paths) endpoint.disconnect(name);
  }

  peers(): readonly string[] {
    return [...this.#peers.keys()];
  }

  /** Length of a peer's segment, undefined when its metadata does not name it. */
  peerSegmentBytes(peer: string, segment: number): number | undefined {
    return this.#peers.get(peer)?.segments.get(segment);
  }

  /** Checks everything that can be checked before: post is then cheap. Throws `TRANSFER_PEER_UNKNOWN`, `TRANSFER_DESCRIPTOR_INVALID`. */
  prepare(options: PrepareOptions): TransferHandle {
    const peer = this.#peers.get(options.peer);
    if (peer === undefined) throw new ArmatureError('TRANSFER_PEER_UNKNOWN', `agent "${options.peer}" is not a peer`, { hint: 'call addPeer with its metadata first' });
    const found = mismatch(options.local, options.remote);
    if (found !== undefined) throw new ArmatureError('TRANSFER_DESCRIPTOR_INVALID', found, { hint: 'give both lists the same rows' });
    assertInside(options.local, 'local', (id) => this.#segments.get(id)?.lengthBytes);
    assertInside(options.remote, 'remote', (id) => peer.segments.get(id));
    const { local, remote } = mergeAdjacent(options.local, options.remote);
    const plan: TransferPlan = { op: options.op, peer: peer.name, local, remote, bytes: totalBytes(local) };
    return new PreparedTransfer(plan, options.local.count, this.#ended);
  }

  /** Starts a prepared transfer; again after it has ended. `done` comes exactly once, before return when it ends at once. */
  post(handle: TransferHandle, options: PostOptions = {}, done?: TransferDone): TransferStatus {
    const transfer = handle as PreparedTransfer;
    if (transfer.status === TransferStatus.InProgress) return TransferStatus.RepostActive;
    if (transfer.isReleased) return TransferStatus.NotFound;
    transfer.done = done;
    transfer.hasTimedOut = false;
    transfer.notifies = options.notification !== undefined;
    transfer.status = TransferStatus.InProgress;
    this.counters.posted++;
    this.#running.add(transfer);
    const path = this.#choose(transfer.plan);
    if (path === undefined) {
      this.#finish(transfer, this.#peers.has(transfer.peer) ? TransferStatus.RemoteDisconnected : TransferStatus.NotFound);
      return this.check(handle);
    }
    transfer.endpoint = path.endpoint;
    transfer.transport = path.name;
    transfer.token = 0;
    const token = path.endpoint.post(transfer.plan, options.notification, transfer.ended);
    if (this.check(handle) === TransferStatus.InProgress) {
      transfer.token = token;
      transfer.timer = this.#clock.setTimer(options.deadlineMs ?? this.#deadlineMs, () => this.#expire(transfer));
    }
    return this.check(handle);
  }

  check(handle: TransferHandle): TransferStatus {
    return (handle as PreparedTransfer).status;
  }

  /** Asks to stop. The status turns terminal only when no byte of the local memory can change any more. */
  cancel(handle: TransferHandle): void {
    const transfer = handle as PreparedTransfer;
    if (transfer.status === TransferStatus.InProgress) transfer.endpoint?.cancel(transfer.token);
  }

  /** Ends the handle; a running transfer is cancelled and still reports `done`. Idempotent. */
  release(handle: TransferHandle): void {
    (handle as PreparedTransfer).isReleased = true;
    this.cancel(handle);
  }

  /** Sends a notification without data, after those posted before on the same path. False: peer not connected or queue full. */
  notify(peer: string, payload: Uint8Array): boolean {
    for (const { endpoint } of this.#peers.get(peer)?.paths ?? []) {
      if (!endpoint.notify(peer, payload)) continue;
      this.counters.notificationsSent++;
      return true;
    }
    return false;
  }

  /** One listener; replaces the earlier one. Called after the notification's data is visible. Must not throw. */
  onNotification(listener: (peer: string, payload: Uint8Array) => void): void {
    this.#onNotification = listener;
  }

  /** One listener. The peer stays known: a later post tries again; a restarted peer needs new metadata. */
  onPeerLost(listener: (peer: string) => void): void {
    this.#onPeerLost = listener;
  }

  /** Transfers posted and not ended. */
  running(): number {
    return this.#running.size;
  }

  /** Ends every transfer, then the endpoints. Idempotent. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    for (const transfer of [...this.#running]) this.cancel(transfer);
    const results = await Promise.allSettled(this.#opened.map(({ endpoint }) => endpoint.close()));
    this.#peers.clear();
    const failures = results.filter((result) => result.status === 'rejected').map((result) => result.reason as unknown);
    if (failures.length > 0) throw new AggregateError(failures, `agent "${this.name}" did not close cleanly`);
  }

  #choose(plan: TransferPlan): Opened | undefined {
    const paths = this.#peers.get(plan.peer)?.paths;
    if (paths === undefined || this.#closing !== undefined) return undefined;
    let best: Opened | undefined;
    let bestMicros = Infinity;
    for (let i = 0; i < paths.length; i++) {
      const path = paths[i]!;
      const micros = path.endpoint.estimateMicros(plan.peer, plan.bytes, plan.local.count);
      if (micros < bestMicros) {
        best = path;
        bestMicros = micros;
      }
    }
    return best;
  }

  #expire(transfer: PreparedTransfer): void {
    transfer.timer = undefined;
    transfer.hasTimedOut = true;
    transfer.endpoint?.cancel(transfer.token);
  }

  #finish(transfer: PreparedTransfer, reported: TransferStatus): void {
    if (!this.#running.delete(transfer)) {
      this.#log.error('transport reported a transfer twice', { transport: transfer.transport, peer: transfer.peer, status: reported });
      return;
    }
    const status = reported === TransferStatus.Canceled && transfer.hasTimedOut ? TransferStatus.TimedOut : reported;
    transfer.status = status;
    transfer.endpoint = undefined;
    if (transfer.timer !== undefined) this.#clock.clearTimer(transfer.timer);
    transfer.timer = undefined;
    if (status === TransferStatus.Done) {
      this.counters.finished(transfer.transport, transfer.op, transfer.bytes, transfer.descriptors);
      if (transfer.notifies) this.counters.notificationsSent++;
    } else this.counters.failedWith(status);
    const done = transfer.done;
    transfer.done = undefined;
    done?.(status);
  }

  #notified(peer: string, payload: Uint8Array): void {
    this.counters.notificationsReceived++;
    this.#onNotification?.(peer, payload);
  }

  #lost(peer: string): void {
    if (!this.#peers.has(peer)) return;
    this.counters.peersLost++;
    this.#log.debug('transfer peer lost', { peer }); // whoever uses the peer says what it means
    this.#onPeerLost?.(peer);
  }
}
