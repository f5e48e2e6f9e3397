import type net from 'node:net';
import { TransferStatus } from '@armature/contracts';
import type { TransferPeer, TransferPlan, TransferSegment, TransportEndpoint, TransportHost, TransportMetadata } from '@armature/contracts';
import { ControlClient } from '../local/control-client.ts';
import type { ControlSettings, LocalFacts } from '../local/control-client.ts';
import type { ControlPage } from '../local/control-page.ts';
import { ControlServer } from '../local/control-server.ts';
import { PeerState } from '../local/peer-state.ts';
import type { Mover, SegmentFacts } from '../local/pieces.ts';
import { CopyEngine } from './copy-engine.ts';
import type { CopyEngineOptions } from './copy-engine.ts';
import { CudaCounters } from './counters.ts';
import { CudaTransfer } from './cuda-transfer.ts';
import { HostPins } from './host-pins.ts';
import { PeerDeviceMemory } from './peer-memory.ts';
import { encodePlace, placeOf } from './places.ts';
import type { CudaRuntime } from './runtime.ts';
import { canMove, SelfPlans } from './self-plans.ts';

export interface CudaEndpointOptions {
  readonly host: TransportHost;
  readonly runtime: CudaRuntime;
  /** Listening already on the abstract socket `facts.socket`. */
  readonly server: net.Server;
  readonly page: ControlPage;
  readonly facts: LocalFacts;
  /** What both sides must have in common. */
  readonly locality: string;
  readonly settings: ControlSettings;
  readonly engine: Pick<CopyEngineOptions, 'batch' | 'turnBudgetMs' | 'spinMs'>;
  readonly pin: boolean;
  readonly closeTimeoutMs: number;
}

const MAX_INBOUND = 4096;
const SOCKET_NAME = /^[\w-]{1,90}$/;
/** Before anything was measured: a small copy and its event, PCIe 4 x16. */
const FIRST_LATENCY_MICROS = 15;
const FIRST_BYTES_PER_MICRO = 20_000;

/** One agent's endpoint. Identity, grants, notifications and peer loss are those of the other same-host transports (`../local`). */
export class CudaEndpoint implements TransportEndpoint {
  readonly counters = new CudaCounters();
  readonly #options: CudaEndpointOptions;
  readonly #mover: Mover;
  readonly #pins: HostPins;
  readonly #self: SelfPlans;
  readonly #engines = new Map<number, CopyEngine>();
  readonly #peers = new Map<string, PeerState>();
  readonly #places = new Map<number, SegmentFacts['place']>();
  readonly #transfers = new Map<number, CudaTransfer>();
  readonly #links = new Set<ControlClient>();
  readonly #inbound = new Map<net.Socket, ControlServer>();
  #nextToken = 1;
  #closing: Promise<void> | undefined = undefined;

  constructor(options: CudaEndpointOptions) {
    const { host, runtime, settings } = options;
    this.#options = options;
    this.#mover = {
      stepBytes: 0, // copies are chunked by the lanes
      latencyMicros: FIRST_LATENCY_MICROS,
      bytesPerMicro: FIRST_BYTES_PER_MICRO,
      place: (segment) => this.#place(segment),
      open: () => new PeerDeviceMemory(runtime, settings.log, (ordinal) => void this.#engine(ordinal)),
    };
    this.#pins = new HostPins({ runtime, log: settings.log, counters: this.counters, isOn: options.pin });
    this.#self = new SelfPlans(host, runtime);
    options.server.on('connection', (socket) => this.#accept(socket));
  }

  metadata(): TransportMetadata {
    return { ...this.#options.facts, locality: this.#options.locality };
  }

  /** Handles are told on the control socket only, to peers that may touch the segment: whoever has one can open the whole allocation. */
  segmentMetadata(segment: TransferSegment): TransportMetadata | undefined {
    return segment.kind === 'device' ? { reachable: true } : undefined;
  }

  canMove(plan: TransferPlan): boolean {
    const state = this.#peers.get(plan.peer);
    return state !== undefined && canMove(plan, this.#options.host, this.#isSelf(state.peer) ? undefined : state.peer.segments);
  }

  canReach(metadata: TransportMetadata): boolean {
    return metadata['locality'] === this.#options.locality && localFacts(metadata) !== undefined;
  }

  connect(peer: TransferPeer): void {
    if (this.#peers.has(peer.name)) this.disconnect(peer.name);
    this.#peers.set(peer.name, new PeerState(peer, this.#mover));
  }

  disconnect(peer: string): void {
    const state = this.#peers.get(peer);
    if (state === undefined) return;
    this.#peers.delete(peer);
    for (const transfer of [...this.#transfers.values()]) if (transfer.state === state) transfer.end(TransferStatus.RemoteDisconnected);
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
    const { settings, host } = this.#options;
    const transfer = new CudaTransfer({
      state,
      link: this.#isSelf(state.peer) ? undefined : this.#link(state),
      plan,
      notification,
      done,
      host,
      clock: settings.clock,
      log: settings.log,
      resolveSelf: (own) => this.#self.resolve(own),
      engine: (ordinal) => this.#engine(ordinal),
    });
    const token = this.#nextToken++;
    transfer.onEnd = () => this.#transfers.delete(token);
    this.#transfers.set(token, transfer);
    transfer.start();
    return token;
  }

  /** What is on a stream cannot be taken back: Canceled comes when that is over. */
  cancel(token: number): void {
    this.#transfers.get(token)?.end(TransferStatus.Canceled);
  }

  notify(peer: string, payload: Uint8Array): boolean {
    const state = this.#peers.get(peer);
    if (state === undefined || this.#closing !== undefined || this.#isSelf(state.peer)) return false;
    return this.#link(state).notify(payload.slice());
  }

  /** Device memory: its GPU's context is retained now. Host memory: pinned as soon as a GPU is in use here. */
  registered(segment: TransferSegment): void {
    if (segment.kind === 'dram') this.#pins.add(segment);
    else if (segment.kind === 'device') this.#place(segment);
  }

  deregistered(segment: TransferSegment): void {
    this.#pins.remove(segment.id);
    this.#places.delete(segment.id);
    if (this.#closing !== undefined) return;
    this.#options.page.changed();
    for (const server of this.#inbound.values()) server.gone(segment.id);
  }

  /** The peer asks again before its next chunk. */
  accessChanged(peer: string): void {
    for (const server of this.#inbound.values()) if (server.peer === peer) this.#options.page.changed(server.slot);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  /** Streams that hang keep their transfers without a status and their memory pinned: it must not be used again. */
  async #close(): Promise<void> {
    const { page, server, closeTimeoutMs, settings } = this.#options;
    for (const transfer of [...this.#transfers.values()]) transfer.end(TransferStatus.Canceled);
    page.close();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const waits = [...this.#engines.values()].map((engine) => engine.drain(closeTimeoutMs));
    const areIdle = (await Promise.all(waits)).every(Boolean);
    const links = [...this.#links].map((link) => link.closed);
    for (const link of this.#links) link.destroy();
    for (const socket of this.#inbound.keys()) socket.destroy();
    this.#peers.clear();
    await Promise.all([closed, ...links]);
    if (!areIdle) {
      settings.log.error('GPU copies did not end: their memory stays as it is', { code: 'TRANSFER_CUDA_HUNG', transfers: this.#transfers.size, closeTimeoutMs });
      return;
    }
    this.#pins.close();
    for (const engine of this.#engines.values()) engine.close();
    this.#engines.clear();
  }

  #isSelf(peer: TransferPeer): boolean {
    return peer.name === this.#options.host.agentName && peer.incarnation === this.#options.host.incarnation;
  }

  /** Throws `TRANSFER_CUDA_DEVICE_UNKNOWN`, `TRANSFER_CUDA_FAILED`. */
  #engine(ordinal: number): CopyEngine {
    let engine = this.#engines.get(ordinal);
    if (engine === undefined) {
      const { runtime, settings } = this.#options;
      engine = new CopyEngine(ordinal, { ...this.#options.engine, runtime, clock: settings.clock, log: settings.log, counters: this.counters });
      this.#engines.set(ordinal, engine);
      this.#pins.begin(ordinal);
    }
    return engine;
  }

  /** Where a segment lies, computed once. Undefined: not on a GPU, or not memory of it. */
  #place(segment: TransferSegment): SegmentFacts['place'] {
    const { location } = segment;
    if (location?.type !== 'device') return undefined;
    if (this.#places.has(segment.id)) return this.#places.get(segment.id);
    const { runtime, settings } = this.#options;
    let place: SegmentFacts['place'];
    try {
      this.#engine(location.ordinal);
      const found = placeOf(segment, runtime);
      if (found === undefined) settings.log.warn('registered device memory is none of this process', { segment: segment.id, ordinal: location.ordinal });
      else place = encodePlace(found);
    } catch (error) {
      settings.log.warn('registered device memory cannot be used', { segment: segment.id, ordinal: location.ordinal, error: error instanceof Error ? error.message : String(error) });
    }
    this.#places.set(segment.id, place);
    return place;
  }

  #link(state: PeerState): ControlClient {
    if (state.link !== undefined && !state.link.isClosed) return state.link;
    const { host, settings } = this.#options;
    const link: ControlClient = new ControlClient({
      host,
      mover: this.#mover,
      settings,
      peer: state.peer,
      facts: localFacts(state.peer.metadata)!,
      onReady: () => {
        for (const transfer of [...this.#transfers.values()]) if (transfer.link === link) transfer.resolve();
      },
      onClosed: (wasReady) => this.#lost(state, link, wasReady),
    });
    state.link = link;
    state.forget();
    this.#links.add(link);
    return link;
  }

  #lost(state: PeerState, link: ControlClient, wasReady: boolean): void {
    this.#links.delete(link);
    if (state.link === link) state.link = undefined;
    for (const transfer of [...this.#transfers.values()]) if (transfer.link === link) transfer.end(TransferStatus.RemoteDisconnected);
    if (wasReady && this.#peers.get(state.peer.name) === state && this.#closing === undefined) this.#options.host.disconnected(state.peer.name);
  }

  #accept(socket: net.Socket): void {
    if (this.#inbound.size >= MAX_INBOUND || this.#closing !== undefined) {
      socket.destroy();
      return;
    }
    const { host, settings, page } = this.#options;
    socket.on('close', () => this.#inbound.delete(socket));
    const onRefused = (error: { readonly code: string; readonly message: string }): void => settings.log.warn('transfer connection refused', { code: error.code, reason: error.message });
    this.#inbound.set(socket, new ControlServer({ host, socket, settings, page, place: (segment) => this.#place(segment), onRefused }));
  }
}

function localFacts(metadata: TransportMetadata): LocalFacts | undefined {
  const { socket, pid, startTicks, page } = metadata;
  if (typeof socket !== 'string' || !SOCKET_NAME.test(socket)) return undefined;
  if (!Number.isInteger(pid) || !Number.isSafeInteger(startTicks) || !Number.isInteger(page) || Number(pid) <= 0 || Number(page) < 0) return undefined;
  return { socket, pid: Number(pid), startTicks: Number(startTicks), page: Number(page) };
}
