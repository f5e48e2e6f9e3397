import { randomUUID } from 'node:crypto';
import { TransferStatus } from '@armature/contracts';
import type { Clock, TransferPeer, TransferPlan, TransferTransport, TransportEndpoint, TransportHost, TransportMetadata } from '@armature/contracts';
import { PathEstimate } from './estimate.ts';

export interface MemoryTransportOptions {
  readonly clock: Clock;
  /**
   * `inline`: the copy happens inside post. `deferred`: copy and completion come with `clock.defer`, or after `delayMs` when given.
   * Until then nothing has been copied.
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

interface Running {
  readonly plan: TransferPlan;
  readonly notification: Uint8Array | undefined;
  readonly done: (status: TransferStatus) => void;
}

class MemoryEndpoint implements TransportEndpoint {
  readonly host: TransportHost;
  readonly #id = randomUUID();
  readonly #all: Map<string, MemoryEndpoint>;
  readonly #options: MemoryTransportOptions;
  /** Peer name → endpoint id. */
  readonly #peers = new Map<string, string>();
  readonly #running = new Map<number, Running>();
  readonly #estimate = new PathEstimate(1, 8000);
  #nextToken = 1;
  #isClosed = false;

  constructor(host: TransportHost, all: Map<string, MemoryEndpoint>, options: MemoryTransportOptions) {
    this.host = host;
    this.#all = all;
    this.#options = options;
    all.set(this.#id, this);
  }

  metadata(): TransportMetadata {
    return { endpoint: this.#id };
  }

  canReach(metadata: TransportMetadata): boolean {
    return typeof metadata['endpoint'] === 'string' && this.#all.has(metadata['endpoint']);
  }

  connect(peer: TransferPeer): void {
    this.#peers.set(peer.name, String(peer.metadata['endpoint']));
  }

  disconnect(peer: string): void {
    this.#peers.delete(peer);
    this.#failWith(peer);
  }

  estimateMicros(peer: string, bytes: number, count: number): number {
    return this.#peer(peer) === undefined ? Infinity : this.#estimate.micros(bytes, count, 0.1);
  }

  post(plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    if (this.#options.completion !== 'deferred') {
      done(this.#execute(plan, notification));
      return 0;
    }
    const token = this.#nextToken++;
    this.#running.set(token, { plan, notification, done });
    const { clock, delayMs } = this.#options;
    if (delayMs === undefined) clock.defer(() => this.#complete(token));
    else clock.setTimer(delayMs(plan.bytes, plan.local.count), () => this.#complete(token));
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
    this.#all.delete(this.#id);
    for (const other of [...this.#all.values()]) other.#left(this.#id);
    return Promise.resolve();
  }

  #left(id: string): void {
    for (const [name, endpoint] of this.#peers) {
      if (endpoint !== id) continue;
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

  #complete(token: number): void {
    const running = this.#running.get(token);
    if (running === undefined) return;
    this.#running.delete(token);
    running.done(this.#execute(running.plan, running.notification));
  }

  #end(token: number, status: TransferStatus): void {
    const running = this.#running.get(token);
    if (running === undefined) return;
    this.#running.delete(token);
    running.done(status);
  }

  #execute(plan: TransferPlan, notification: Uint8Array | undefined): TransferStatus {
    const other = this.#peer(plan.peer);
    if (other === undefined) return this.#peers.has(plan.peer) ? TransferStatus.RemoteDisconnected : TransferStatus.NotFound;
    const refused = this.#refusal(plan, other);
    if (refused !== TransferStatus.Done) return refused;
    const startMs = this.#options.clock.nowMs();
    this.#copy(plan, other);
    this.#estimate.observe(plan.bytes, (this.#options.clock.nowMs() - startMs) * 1000);
    if (notification !== undefined) this.#deliver(other, notification);
    return TransferStatus.Done;
  }

  /** Every descriptor is checked before the first byte moves. */
  #refusal(plan: TransferPlan, other: MemoryEndpoint): TransferStatus {
    const { local, remote } = plan;
    if (local.count !== remote.count) return TransferStatus.InvalidDescriptor;
    for (let i = 0; i < local.count; i++) {
      const length = local.lengths[i]!;
      const segment = this.host.segment(local.segments[i]!);
      if (segment === undefined) return TransferStatus.NotFound;
      if (length !== remote.lengths[i] || length < 0 || local.offsets[i]! < 0 || local.offsets[i]! + length > segment.lengthBytes) return TransferStatus.InvalidDescriptor;
      const allowed = other.host.allows(this.host.agentName, remote.segments[i]!, remote.offsets[i]!, length, plan.op);
      if (allowed !== TransferStatus.Done) return allowed;
    }
    return TransferStatus.Done;
  }

  #copy(plan: TransferPlan, other: MemoryEndpoint): void {
    const isRead = plan.op === 'read';
    const { local, remote } = plan;
    const tap = this.#options.tap;
    for (let i = 0; i < local.count; i++) {
      const length = local.lengths[i]!;
      const here = this.host.segment(local.segments[i]!)!.bytes.subarray(local.offsets[i]!, local.offsets[i]! + length);
      const there = other.host.segment(remote.segments[i]!)!.bytes.subarray(remote.offsets[i]!, remote.offsets[i]! + length);
      const target = isRead ? here : there;
      target.set(isRead ? there : here);
      tap?.(target);
    }
  }

  #deliver(other: MemoryEndpoint, payload: Uint8Array): void {
    other.host.notified(this.host.agentName, payload.slice());
  }
}
