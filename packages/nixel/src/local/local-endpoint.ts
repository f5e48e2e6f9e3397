import type net from 'node:net';
import { TransferStatus } from '@armature/contracts';
import type { TransferPeer, TransferPlan, TransferSegment, TransportEndpoint, TransportHost, TransportMetadata } from '@armature/contracts';
import { ControlClient } from './control-client.ts';
import type { ControlSettings, LocalFacts } from './control-client.ts';
import type { ControlPage } from './control-page.ts';
import { ControlServer } from './control-server.ts';
import { LocalTransfer } from './local-transfer.ts';
import type { Mover } from './pieces.ts';
import { PeerState } from './peer-state.ts';
import type { Turns } from './turns.ts';

export interface LocalEndpointOptions {
  readonly host: TransportHost;
  readonly mover: Mover;
  readonly settings: ControlSettings;
  readonly turns: Turns;
  /** Listening already on the abstract socket `facts.socket`. */
  readonly server: net.Server;
  readonly facts: LocalFacts;
  readonly page: ControlPage;
  /** What both sides must have in common. */
  readonly locality: string;
  /** Transfers up to this length are copied inside `post`. */
  readonly inlineBytes: number;
}

const MAX_INBOUND = 4096;
/** Copied inside `post` between two turns of the event loop; more is queued. */
const INLINE_PER_TURN_BYTES = 4 << 20;
const SOCKET_NAME = /^[\w-]{1,90}$/;

/** One agent's endpoint of a same-host transport. Copies are made by the initiator; the owner's process only answers what may be touched. */
export class LocalEndpoint implements TransportEndpoint {
  readonly #options: LocalEndpointOptions;
  readonly #peers = new Map<string, PeerState>();
  readonly #transfers = new Map<number, LocalTransfer>();
  readonly #links = new Set<ControlClient>();
  readonly #inbound = new Map<net.Socket, ControlServer>();
  readonly #turnEnded: { step(): boolean };
  #inlineBytes = 0;
  #nextToken = 1;
  #closing: Promise<void> | undefined = undefined;
  /** Connections refused, by code. For tests and logs. */
  readonly refused = new Map<string, number>();

  constructor(options: LocalEndpointOptions) {
    this.#options = options;
    this.#turnEnded = {
      step: () => {
        this.#inlineBytes = 0;
        return true;
      },
    };
    options.server.on('connection', (socket) => this.#accept(socket));
  }

  metadata(): TransportMetadata {
    return { ...this.#options.facts, locality: this.#options.locality };
  }

  /** Addresses and descriptors are told on the control socket only, to peers that may touch the segment. */
  segmentMetadata(segment: TransferSegment): TransportMetadata | undefined {
    return this.#options.mover.place(segment) === undefined ? undefined : { reachable: true };
  }

  canMove(plan: TransferPlan): boolean {
    const segments = this.#peers.get(plan.peer)?.peer.segments;
    for (let i = 0; i < plan.local.count; i++) {
      if (this.#options.host.segment(plan.local.segments[i]!)?.kind !== 'dram') return false;
      const there = segments?.get(plan.remote.segments[i]!);
      // Registered after the metadata was made: the owner tells.
      if (there !== undefined && (there.kind !== 'dram' || there.metadata === undefined)) return false;
    }
    return true;
  }

  canReach(metadata: TransportMetadata): boolean {
    return metadata['locality'] === this.#options.locality && localFacts(metadata) !== undefined;
  }

  connect(peer: TransferPeer): void {
    if (this.#peers.has(peer.name)) this.disconnect(peer.name);
    this.#peers.set(peer.name, new PeerState(peer, this.#options.mover));
  }

  disconnect(peer: string): void {
    const state = this.#peers.get(peer);
    if (state === undefined) return;
    this.#peers.delete(peer);
    this.#endAll(state, TransferStatus.RemoteDisconnected);
    state.link?.destroy();
  }

  estimateMicros(peer: string, bytes: number, count: number): number {
    return this.#peers.get(peer)?.micros(bytes, count) ?? Infinity;
  }

  post(plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    const state = this.#peers.get(plan.peer);
    if (state === undefined || this.#closing !== undefined) {
      done(TransferStatus.NotFound);
      return 0;
    }
    const link = this.#link(state);
    const { settings, host, turns } = this.#options;
    const transfer = new LocalTransfer({ state, link, plan, notification, done, clock: settings.clock, host, turns, stepBytes: this.#options.mover.stepBytes });
    if (plan.bytes <= this.#options.inlineBytes && this.#inlineBytes + plan.bytes <= INLINE_PER_TURN_BYTES) {
      if (this.#inlineBytes === 0) turns.add(this.#turnEnded);
      this.#inlineBytes += plan.bytes;
      if (transfer.runInline()) return 0;
    }
    const token = this.#nextToken++;
    transfer.onEnd = () => this.#transfers.delete(token);
    this.#transfers.set(token, transfer);
    transfer.start();
    return token;
  }

  /** Copies are steps on this event loop: between two of them nothing is in flight, so the answer comes at once. */
  cancel(token: number): void {
    this.#transfers.get(token)?.end(TransferStatus.Canceled);
  }

  notify(peer: string, payload: Uint8Array): boolean {
    const state = this.#peers.get(peer);
    if (state === undefined || this.#closing !== undefined) return false;
    return this.#link(state).notify(payload.slice());
  }

  deregistered(segment: TransferSegment): void {
    if (this.#closing !== undefined) return;
    this.#options.page.changed();
    for (const server of this.#inbound.values()) server.gone(segment.id);
  }

  /** The peer asks again before its next copy. */
  accessChanged(peer: string): void {
    for (const server of this.#inbound.values()) if (server.peer === peer) this.#options.page.changed(server.slot);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    for (const transfer of [...this.#transfers.values()]) transfer.end(TransferStatus.Canceled);
    this.#options.page.close();
    const closed = new Promise<void>((resolve) => this.#options.server.close(() => resolve()));
    const links = [...this.#links].map((link) => link.closed);
    for (const link of this.#links) link.destroy();
    for (const socket of this.#inbound.keys()) socket.destroy();
    this.#peers.clear();
    await Promise.all([closed, ...links]);
  }

  #link(state: PeerState): ControlClient {
    if (state.link !== undefined && !state.link.isClosed) return state.link;
    const { host, mover, settings } = this.#options;
    const link: ControlClient = new ControlClient({
      host,
      mover,
      settings,
      peer: state.peer,
      facts: localFacts(state.peer.metadata)!,
      onReady: () => this.#ready(link),
      onClosed: (wasReady) => this.#lost(state, link, wasReady),
    });
    state.link = link;
    state.forget();
    this.#links.add(link);
    return link;
  }

  #ready(link: ControlClient): void {
    for (const transfer of [...this.#transfers.values()]) if (transfer.link === link) transfer.resolve();
  }

  #lost(state: PeerState, link: ControlClient, wasReady: boolean): void {
    this.#links.delete(link);
    if (state.link === link) state.link = undefined;
    for (const transfer of [...this.#transfers.values()]) if (transfer.link === link) transfer.end(TransferStatus.RemoteDisconnected);
    if (wasReady && this.#peers.get(state.peer.name) === state && this.#closing === undefined) this.#options.host.disconnected(state.peer.name);
  }

  #endAll(state: PeerState, status: TransferStatus): void {
    for (const transfer of [...this.#transfers.values()]) if (transfer.state === state) transfer.end(status);
  }

  #accept(socket: net.Socket): void {
    if (this.#inbound.size >= MAX_INBOUND || this.#closing !== undefined) {
      socket.destroy();
      return;
    }
    const { host, settings, page, mover } = this.#options;
    socket.on('close', () => this.#inbound.delete(socket));
    const server = new ControlServer({
      host,
      socket,
      settings,
      page,
      place: (segment) => mover.place(segment),
      onRefused: (error) => {
        this.refused.set(error.code, (this.refused.get(error.code) ?? 0) + 1);
        settings.log.warn('transfer connection refused', { code: error.code, reason: error.message });
      },
    });
    this.#inbound.set(socket, server);
  }
}

function localFacts(metadata: TransportMetadata): LocalFacts | undefined {
  const { socket, pid, startTicks, page } = metadata;
  if (typeof socket !== 'string' || !SOCKET_NAME.test(socket)) return undefined;
  if (!Number.isInteger(pid) || !Number.isSafeInteger(startTicks) || !Number.isInteger(page) || Number(pid) <= 0 || Number(page) < 0) return undefined;
  return { socket, pid: Number(pid), startTicks: Number(startTicks), page: Number(page) };
}
