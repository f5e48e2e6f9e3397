import { randomUUID } from 'node:crypto';
import { TransferStatus } from '@armature/contracts';
import type { Clock, TransferPeer, TransferPlan, TransferTransport, TransportEndpoint, TransportHost, TransportMetadata } from '@armature/contracts';
import { PathEstimate } from './estimate.ts';

export interface MemoryTransportOptions {
  readonly clock: Clock;
  /**
   * `inline`: the copy happens inside post. `deferred`: copy and completion come with `clock.defer`, or after `delayMs` when given.
   * Until then nothing has been copied. Either way transfers over 4 MiB go on with `clock.defer`, 4 MiB a turn (about 0.5 ms).
   */
  readonly completion?: 'inline' | 'deferred';
  /** Duration of a transfer with deferred completion; for simulated links. */
  readonly delayMs?: (bytes: number, count: number) => number;
  /** Sees the destination bytes of each piece after the copy; sabotage tests change them. */
  readonly tap?: (bytes: Uint8Array) => void;
}

/** Copies between registered memories of agents in one process. Agents meet when they use the same instance of this class. */
export class MemoryTransport implements TransferTransport {
  readonly name = 'memory';
  readonly supports = { sameProcess: true, sameHost: false, remoteHosts: false, notifications: true, kinds: ['dram'] as const };
  readonly #endpoints = new Map<string, MemoryEndpoint>();
  readonly #options: MemoryTransportOptions;

  constructor(options: MemoryTransportOptions) {
    this.#options = options;
  }

  unavailable(): undefined {
    return undefined;
  }

  open(host: TransportHost): Promise<TransportEndpoint> {
    return Promise.resolve(new MemoryEndpoint(host, this.#endpoints, this.#options));
  }
}

/** A transfer that is not over when its post returns, and how far it is. */
interface Running {
  readonly plan: TransferPlan;
  readonly notification: Uint8Array | undefined;
  readonly done: (status: TransferStatus) => void;
  /** Next byte to copy: row, and offset in it. */
  row: number;
  offset: number;
}

const TURN_BYTES = 4 << 20;
/** Fixed cost of one scattered piece. */
const PIECE_MICROS = 0.1;

class MemoryEndpoint implements TransportEndpoint {
  static #opened = 0;
  readonly host: TransportHost;
  readonly #id = randomUUID();
  readonly #all: Map<string, MemoryEndpoint>;
  readonly #options: MemoryTransportOptions;
  /** Peer name → endpoint id, and back. */
  readonly #peers = new Map<string, string>();
  readonly #namesOf = new Map<string, string[]>();
  /** Who is connected to this endpoint, and is told when it closes: in the order of their opening. */
  readonly #watchers = new Set<MemoryEndpoint>();
  readonly #number: number;
  readonly #running = new Map<number, Running>();
  readonly #estimate = new PathEstimate(1, 8000);
  #nextToken = 1;
  #isClosed = false;

  constructor(host: TransportHost, all: Map<string, MemoryEndpoint>, options: MemoryTransportOptions) {
    this.host = host;
    this.#all = all;
    this.#options = options;
    this.#number = MemoryEndpoint.#opened++;
    all.set(this.#id, this);
  }

  metadata(): TransportMetadata {
    return { endpoint: this.#id };
  }

  canReach(metadata: TransportMetadata): boolean {
    return typeof metadata['endpoint'] === 'string' && this.#all.has(metadata['endpoint']);
  }

  connect(peer: TransferPeer): void {
    this.#forget(peer.name);
    const endpoint = String(peer.metadata['endpoint']);
    this.#peers.set(peer.name, endpoint);
    this.#namesOf.set(endpoint, [...(this.#namesOf.get(endpoint) ?? []), peer.name]);
    const other = this.#all.get(endpoint);
    if (other !== undefined) other.#watchers.add(this);
  }

  disconnect(peer: string): void {
    this.#forget(peer);
    this.#failWith(peer);
  }

  estimateMicros(peer: string, bytes: number, count: number): number {
    return this.#peer(peer) === undefined ? Infinity : this.#estimate.micros(bytes, count, PIECE_MICROS);
  }

  post(plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    const { completion, clock, delayMs } = this.#options;
    const isInline = completion !== 'deferred';
    if (isInline && plan.bytes <= TURN_BYTES) {
      const refused = this.#refusal(plan);
      if (refused === TransferStatus.Done) this.#copy(plan, 0, 0, plan.bytes);
      if (refused === TransferStatus.Done && notification !== undefined) this.#deliver(this.#peer(plan.peer)!, notification);
      done(refused);
      return 0;
    }
    const token = this.#nextToken++;
    this.#running.set(token, { plan, notification, done, row: 0, offset: 0 });
    if (isInline) this.#turn(token, true);
    else if (delayMs === undefined) clock.defer(() => this.#turn(token, true));
    else clock.setTimer(delayMs(plan.bytes, plan.local.count), () => this.#turn(token, true));
    return token;
  }

  cancel(token: number): void {
    this.#end(token, TransferStatus.Canceled);
  }

  notify(peer: string, payload: Uint8Array): boolean {
    const other = this.#peer(peer);
    if (other === undefined) return false;
    this.#deliver(other, payload);
    return true;
  }

  close(): Promise<void> {
    if (this.#isClosed) return Promise.resolve();
    this.#isClosed = true;
    for (const token of [...this.#running.keys()]) this.#end(token, TransferStatus.Canceled);
    for (const endpoint of this.#namesOf.keys()) this.#unwatch(endpoint);
    this.#all.delete(this.#id);
    for (const other of [...this.#watchers].sort((a, b) => a.#number - b.#number)) other.#left(this.#id);
    return Promise.resolve();
  }

  #forget(peer: string): void {
    const endpoint = this.#peers.get(peer);
    if (endpoint === undefined) return;
    this.#peers.delete(peer);
    const others = this.#namesOf.get(endpoint)?.filter((name) => name !== peer) ?? [];
    if (others.length > 0) {
      this.#namesOf.set(endpoint, others);
      return;
    }
    this.#namesOf.delete(endpoint);
    this.#unwatch(endpoint);
  }

  #unwatch(endpoint: string): void {
    const other = this.#all.get(endpoint);
    if (other !== undefined) other.#watchers.delete(this);
  }

  #left(id: string): void {
    for (const name of this.#namesOf.get(id) ?? []) {
      this.#failWith(name);
      this.host.disconnected(name);
    }
  }

  #failWith(peer: string): void {
    for (const [token, running] of [...this.#running]) if (running.plan.peer === peer) this.#end(token, TransferStatus.RemoteDisconnected);
  }

  #peer(name: string): MemoryEndpoint | undefined {
    const id = this.#peers.get(name);
    return id === undefined || this.#isClosed ? undefined : this.#all.get(id);
  }

  /** Copies for one turn of the event loop; checks again what may have changed since the last one. */
  #turn(token: number, isFirst: boolean): void {
    const running = this.#running.get(token);
    if (running === undefined) return;
    const { plan, notification } = running;
    const refused = isFirst ? this.#refusal(plan) : this.#missing(plan);
    if (refused !== TransferStatus.Done) {
      this.#end(token, refused);
      return;
    }
    const { row, offset } = this.#copy(plan, running.row, running.offset, TURN_BYTES);
    if (row < plan.local.count) {
      running.row = row;
      running.offset = offset;
      this.#options.clock.defer(() => this.#turn(token, false));
      return;
    }
    if (notification !== undefined) this.#deliver(this.#peer(plan.peer)!, notification);
    this.#end(token, TransferStatus.Done);
  }

  #end(token: number, status: TransferStatus): void {
    const running = this.#running.get(token);
    if (running === undefined) return;
    this.#running.delete(token);
    running.done(status);
  }

  /** Every descriptor is checked before the first byte moves. */
  #refusal(plan: TransferPlan): TransferStatus {
    const other = this.#peer(plan.peer);
    if (other === undefined) return this.#peers.has(plan.peer) ? TransferStatus.RemoteDisconnected : TransferStatus.NotFound;
    const { local, remote } = plan;
    if (local.count !== remote.count) return TransferStatus.InvalidDescriptor;
    for (let i = 0; i < local.count; i++) {
      const length = local.lengths[i]!;
      const segment = this.host.segment(local.segments[i]!);
      if (segment === undefined) return TransferStatus.NotFound;
      if (length !== remote.lengths[i] || length < 0 || local.offsets[i]! < 0 || local.offsets[i]! + length > segment.lengthBytes) return TransferStatus.InvalidDescriptor;
      const allowed = other.host.allows(this.host.agentName, remote.segments[i]!, remote.offsets[i]!, length, plan.op);
      if (allowed !== TransferStatus.Done) return allowed;
      if (segment.kind !== 'dram' || other.host.segment(remote.segments[i]!)?.kind !== 'dram') return TransferStatus.NotSupported;
    }
    return TransferStatus.Done;
  }

  /** Whether both sides still have their memory. */
  #missing(plan: TransferPlan): TransferStatus {
    const other = this.#peer(plan.peer);
    if (other === undefined) return TransferStatus.RemoteDisconnected;
    for (let i = 0; i < plan.local.count; i++) {
      if (this.host.segment(plan.local.segments[i]!) === undefined || other.host.segment(plan.remote.segments[i]!) === undefined) return TransferStatus.NotFound;
    }
    return TransferStatus.Done;
  }

  /** At most `limit` bytes from the given row and offset; returns where it stopped. Call after a check: nothing is looked at twice. */
  #copy(plan: TransferPlan, row: number, offset: number, limit: number): { row: number; offset: number } {
    const other = this.#peer(plan.peer)!;
    const isRead = plan.op === 'read';
    const { local, remote } = plan;
    const { clock, tap } = this.#options;
    const startMs = clock.nowMs();
    const first = row;
    let left = limit;
    while (row < local.count) {
      const length = Math.min(local.lengths[row]! - offset, left);
      const from = local.offsets[row]! + offset;
      const fromThere = remote.offsets[row]! + offset;
      const here = this.host.segment(local.segments[row]!)!.bytes.subarray(from, from + length);
      const there = other.host.segment(remote.segments[row]!)!.bytes.subarray(fromThere, fromThere + length);
      const target = isRead ? here : there;
      target.set(isRead ? there : here);
      tap?.(target);
      left -= length;
      offset += length;
      if (offset < local.lengths[row]!) break;
      row++;
      offset = 0;
    }
    this.#estimate.observe(limit - left, row - first, PIECE_MICROS, (clock.nowMs() - startMs) * 1000);
    return { row, offset };
  }

  #deliver(other: MemoryEndpoint, payload: Uint8Array): void {
    other.host.notified(this.host.agentName, payload.slice());
  }
}
