import { TransferStatus } from '@armature/contracts';
import type { Clock, Logger, TransferPeer, TransferPlan, TransferSegment, TransportEndpoint, TransportHost, TransportMetadata } from '@armature/contracts';
import type { NixlAgent, NixlHandle, NixlLibrary } from './binding.ts';
import { agentOf, BYE, decodeFrame, goneFrame, helloFrame, MAX_NOTIFICATION_BYTES, nixlName, PING, userFrame } from './frames.ts';
import { PeerLink } from './peer-link.ts';
import { Poller } from './poller.ts';
import { LocalSegments } from './segments.ts';
import { Transfers } from './transfers.ts';
import { Visitors } from './visitors.ts';

export interface NixlEndpointOptions {
  readonly host: TransportHost;
  readonly library: NixlLibrary;
  readonly agent: NixlAgent;
  readonly backend: string;
  readonly fabric: NixlHandle;
  readonly storage: NixlHandle | undefined;
  readonly clock: Clock;
  readonly log: Logger;
  readonly splitBytes: number;
  readonly spinMs: number;
  readonly idleMs: number;
  readonly pingMs: number;
  readonly cancelGraceMs: number;
  readonly settleMs: number;
  readonly retryMs: number;
}

const MAX_SPIN_MS = 50;
const VERSION = 1;

/** One agent's NIXL agent: the same life, the same name, one backend for the network and one for files. */
export class NixlEndpoint implements TransportEndpoint {
  readonly #options: NixlEndpointOptions;
  readonly #segments: LocalSegments;
  readonly #transfers: Transfers;
  readonly #poller: Poller;
  readonly #links = new Map<string, PeerLink>();
  readonly #byNixlName = new Map<string, PeerLink>();
  readonly #visitors: Visitors;
  readonly #connection: string;
  readonly #hello: Uint8Array;
  /** Cut links whose transfers are not reported yet. */
  #settling = 0;
  readonly #settled = new Set<() => void>();
  #closing: Promise<void> | undefined = undefined;
  /** Frames that nobody of ours sent. */
  malformed = 0;

  constructor(options: NixlEndpointOptions) {
    const { host, library, agent, fabric, storage, clock, log } = options;
    this.#options = options;
    this.#segments = new LocalSegments({ host, library, agent, fabric, storage, log });
    this.#visitors = new Visitors(agent);
    const connection = agent.metadata(fabric, undefined);
    this.#connection = Buffer.from(connection).toString('base64');
    this.#hello = helloFrame(connection);
    this.#transfers = new Transfers({
      agent,
      clock,
      cancelGraceMs: options.cancelGraceMs,
      onBroken: (link, status) => this.#cut(link, { culprit: status, next: 'down', tell: true }),
      onSelfNotified: (payload) => host.notified(host.agentName, payload),
    });
    this.#poller = new Poller({ clock, spinMs: options.spinMs, idleMs: options.idleMs, isBusy: () => this.#transfers.size > 0, poll: () => this.#poll() });
    this.#poller.start();
  }

  /** Looks at the library so far. */
  get looks(): number {
    return this.#poller.looks;
  }

  metadata(): TransportMetadata {
    return { version: VERSION, backend: this.#options.backend, library: release(this.#options.library.version), agent: this.#options.agent.name, connection: this.#connection };
  }

  segmentMetadata(segment: TransferSegment): TransportMetadata | undefined {
    return this.#segments.metadata(segment.id);
  }

  canReach(metadata: TransportMetadata): boolean {
    const { version, backend, library, agent, connection } = metadata;
    const isOurs = version === VERSION && backend === this.#options.backend && typeof agent === 'string' && typeof connection === 'string';
    const mine = release(this.#options.library.version);
    return isOurs && (library === mine || library === '' || mine === '');
  }

  canMove(plan: TransferPlan): boolean {
    const link = this.#links.get(plan.peer);
    if (link === undefined || !link.serves(plan)) return false;
    // Prepared here, so that the first post is as cheap as the others.
    if (link.state === 'up') link.compiled(plan);
    return true;
  }

  connect(peer: TransferPeer): void {
    const known = this.#links.get(peer.name);
    if (known !== undefined) this.#drop(known);
    const { host, agent, fabric, storage, splitBytes } = this.#options;
    const isSelf = peer.name === host.agentName && peer.incarnation === host.incarnation;
    const name = isSelf ? agent.name : nixlName(peer.name, peer.incarnation);
    const link = new PeerLink(peer, name, { agent, segments: this.#segments, fabric, storage, splitBytes, isSelf });
    this.#links.set(peer.name, link);
    this.#byNixlName.set(name, link);
    // The connection is made by the first transfer or notification; loading it now lets peers' notifications of loss find us.
    if (!this.#open(link)) this.#options.log.warn('NIXL does not take the metadata of a peer', { peer: peer.name, backend: this.#options.backend });
    link.lastPingMs = this.#options.clock.nowMs();
  }

  disconnect(peer: string): void {
    const link = this.#links.get(peer);
    if (link !== undefined) this.#drop(link);
  }

  estimateMicros(peer: string, bytes: number, count: number): number {
    return this.#links.get(peer)?.estimate.micros(bytes, count) ?? Infinity;
  }

  post(plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    const link = this.#links.get(plan.peer);
    // What peers have given up meanwhile must be known before their memory is touched.
    this.#receive();
    const compiled = link === undefined || this.#closing !== undefined ? TransferStatus.NotFound : this.#ready(link) ? link.compiled(plan) : TransferStatus.RemoteDisconnected;
    if (typeof compiled === 'number' || link === undefined) {
      done(compiled as TransferStatus);
      return 0;
    }
    const token = this.#transfers.start(link, compiled, notification, done);
    if (token !== 0) this.#poller.wake(Math.min(MAX_SPIN_MS, (2 * link.estimate.micros(plan.bytes, plan.local.count)) / 1000));
    return token;
  }

  cancel(token: number): void {
    this.#transfers.cancel(token);
    this.#poller.wake();
  }

  notify(peer: string, payload: Uint8Array): boolean {
    const link = this.#links.get(peer);
    if (link === undefined || this.#closing !== undefined || payload.length > MAX_NOTIFICATION_BYTES || !this.#ready(link)) return false;
    if (link.isSelf) this.#options.host.notified(peer, payload.slice());
    else if (this.#options.agent.notify(link.nixlName, userFrame(payload)) < 0) {
      this.#cut(link, { culprit: TransferStatus.RemoteDisconnected, next: 'down', tell: true });
      return false;
    }
    this.#poller.wake();
    return true;
  }

  registered(segment: TransferSegment): void {
    this.#segments.add(segment);
  }

  /** Peers are told, then the key dies. One that is reading at this moment may lose its connection: fabrics treat a dead key as a broken peer. */
  deregistered(segment: TransferSegment): void {
    if (this.#segments.get(segment.id) === undefined) return;
    for (const link of this.#links.values()) {
      if (link.isSelf) link.forget([segment.id]);
      else if (link.state === 'up') this.#options.agent.notify(link.nixlName, goneFrame(segment.id));
    }
    this.#visitors.tell(goneFrame(segment.id));
    this.#segments.remove(segment.id);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    const { agent, clock } = this.#options;
    this.#transfers.cancelAll();
    const untilMs = clock.nowMs() + this.#options.cancelGraceMs;
    while (this.#transfers.size > 0 && clock.nowMs() < untilMs) await turn(clock);
    this.#visitors.tell(BYE);
    for (const link of this.#links.values()) {
      if (!link.isSelf && link.state === 'up') agent.notify(link.nixlName, BYE);
      this.#cut(link, { culprit: TransferStatus.Canceled, next: 'left', tell: false });
    }
    // What was said last is sent by the library's progress.
    for (let i = 0; i < 3; i++) {
      this.#receive();
      await turn(clock);
    }
    this.#visitors.removeAll();
    if (this.#settling > 0) await new Promise<void>((resolve) => this.#settled.add(resolve));
    this.#poller.close();
    this.#links.clear();
    this.#byNixlName.clear();
    this.#segments.removeAll();
    agent.destroy();
  }

  #poll(): boolean {
    const received = this.#receive();
    const moved = this.#transfers.poll();
    if (this.#options.pingMs > 0) this.#ping();
    return received || moved;
  }

  #receive(): boolean {
    if (this.#settledAgent()) return false;
    return this.#options.agent.notifications((from, bytes) => this.#notified(from, bytes)) > 0;
  }

  #settledAgent(): boolean {
    return this.#closing !== undefined && this.#links.size === 0;
  }

  #notified(from: string, bytes: Uint8Array): void {
    const frame = decodeFrame(bytes);
    const name = agentOf(from);
    if (frame === undefined || name === undefined) {
      this.malformed++;
      return;
    }
    const link = this.#byNixlName.get(from);
    if (frame.type === 'hello' || (frame.type === 'bye' && link === undefined)) {
      if (frame.type === 'bye') this.#visitors.remove(from);
      else if (link === undefined && this.#closing === undefined) this.#visitors.add(from, frame.connection);
      return;
    }
    // An earlier or later life of a peer that we know otherwise has nothing to say here.
    if (link === undefined && this.#links.has(name)) return;
    if (frame.type === 'user') this.#options.host.notified(name, frame.payload);
    else if (frame.type === 'gone') link?.forget(frame.segments);
    else if (frame.type === 'bye' && link !== undefined && this.#closing === undefined) this.#cut(link, { culprit: TransferStatus.RemoteDisconnected, next: 'left', tell: true });
  }

  /** A connection that nobody uses is looked at now and then: its loss must not wait for the next transfer. */
  #ping(): void {
    const { clock, pingMs, agent } = this.#options;
    const nowMs = clock.nowMs();
    for (const link of this.#links.values()) {
      if (link.state !== 'up' || link.isSelf || nowMs - link.lastPingMs < pingMs) continue;
      link.lastPingMs = nowMs;
      if (agent.notify(link.nixlName, PING) < 0) this.#cut(link, { culprit: TransferStatus.RemoteDisconnected, next: 'down', tell: true });
    }
  }

  /** Up, or brought up again: a lost connection to a peer that lives on is made anew from the metadata at hand. */
  #ready(link: PeerLink): boolean {
    if (link.state === 'up') return true;
    if (link.state === 'down' && this.#options.clock.nowMs() < link.retryAtMs) return false;
    link.retryAtMs = this.#options.clock.nowMs() + this.#options.retryMs;
    return this.#open(link);
  }

  #open(link: PeerLink): boolean {
    if (!link.open()) return false;
    this.#visitors.promote(link.nixlName);
    if (!link.isSelf) this.#options.agent.notify(link.nixlName, this.#hello);
    return true;
  }

  #drop(link: PeerLink): void {
    this.#links.delete(link.peer.name);
    if (this.#byNixlName.get(link.nixlName) === link) this.#byNixlName.delete(link.nixlName);
    this.#cut(link, { culprit: TransferStatus.RemoteDisconnected, next: 'left', tell: false });
  }

  /**
   * Closes the connection to a peer. Its transfers are reported `settleMs` later, with the library making progress meanwhile: until the
   * connection is closed NIXL does not say that an abandoned request moves no more bytes.
   */
  #cut(link: PeerLink, how: { culprit: TransferStatus; next: 'down' | 'left'; tell: boolean }): void {
    if (link.state === 'closing') return;
    const wasUp = link.state === 'up';
    const endings = this.#transfers.takeAll(link);
    link.state = 'closing';
    if (wasUp) link.close();
    const { clock, settleMs, retryMs, host } = this.#options;
    const report = (): void => {
      link.state = how.next;
      link.retryAtMs = clock.nowMs() + retryMs;
      const isLoss = how.culprit === TransferStatus.TransportError;
      for (const { done, status } of endings) done(isLoss && status === TransferStatus.RemoteDisconnected ? how.culprit : status);
      if (how.tell && !link.isTold && !link.isSelf) {
        link.isTold = true;
        host.disconnected(link.peer.name);
      }
    };
    if (endings.length === 0 || settleMs === 0) {
      report();
      return;
    }
    this.#settling++;
    clock.setTimer(settleMs, () => {
      this.#receive();
      report();
      if (--this.#settling === 0) for (const settled of this.#settled) settled();
    });
  }
}

/** Metadata is compatible within one minor release. */
function release(version: string): string {
  return version.split('.').slice(0, 2).join('.');
}

function turn(clock: Clock): Promise<void> {
  return new Promise((resolve) => clock.defer(resolve));
}
