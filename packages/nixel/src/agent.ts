import { randomUUID } from 'node:crypto';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { Clock, Logger, TransferSegment, TransferTransport, TransportHost, TransportMetadata } from '@armature/contracts';
import { TransferCounters } from './counters.ts';
import { defaultTransports, silentLog } from './defaults.ts';
import { GrantTable } from './grants.ts';
import type { Grant } from './grants.ts';
import type { PreparedTransfer, TransferDone, TransferHandle } from './handle.ts';
import { NotificationInbox } from './inbox.ts';
import type { ReceivedNotification } from './inbox.ts';
import type { KvLayout } from './layout/kv-layout.ts';
import { realClock } from './leaves/real-clock.ts';
import { decodeMetadata, encodeMetadata } from './metadata.ts';
import type { SegmentMetadata } from './metadata.ts';
import { Peer } from './peers.ts';
import type { Opened } from './peers.ts';
import { TransferPlanner } from './planner.ts';
import type { MakeOptions, PrepareBlocksOptions, PrepareOptions } from './planner.ts';
import type { ListSource, PreparedList } from './prepared-list.ts';
import { TransferRunner } from './runner.ts';
import type { PostOptions } from './runner.ts';
import { SegmentTable } from './segments.ts';
import type { RegisterOptions } from './segments.ts';

export interface AgentOptions {
  /** Unique among the agents that meet. */
  readonly name: string;
  /**
   * In order of preference when estimates are equal. Unavailable ones are left out with a log line. At most 31.
   * Default: the built-in ones that work here, on loopback (`defaultTransports`).
   */
  readonly transports?: readonly TransferTransport[];
  /** Of the default transports: shared secret of all agents that may connect. Transports that are passed have their own. */
  readonly token?: string;
  /** Default: real time. */
  readonly clock?: Clock;
  /** Default: silent. */
  readonly log?: Logger;
  /** Names this life of the agent; default a random UUID. */
  readonly incarnation?: string;
  /** For posts without their own. Default 30 s. */
  readonly deadlineMs?: number;
  /** Transfers running with one peer; posts beyond end as Overloaded at once. Default 1,024. */
  readonly maxRunningPerPeer?: number;
}

/** Opens an endpoint on each transport. Throws `TRANSFER_NO_TRANSPORT` when none is available. */
export async function createAgent(options: AgentOptions): Promise<Agent> {
  const { clock = realClock, log = silentLog, token } = options;
  const agent = new Agent(options);
  try {
    await agent.open(options.transports ?? defaultTransports({ clock, log, token }));
  } catch (error) {
    await agent.close();
    throw error;
  }
  return agent;
}

/**
 * One party of data transfer, after NIXL: owns registered memory, knows peers by their metadata, runs prepared transfers.
 * Control path (register, addPeer, prepare, make) throws ArmatureError; data path (post, check) returns TransferStatus.
 */
export class Agent {
  readonly name: string;
  readonly incarnation: string;
  readonly counters: TransferCounters;
  readonly #log: Logger;
  readonly #opened: Opened[] = [];
  readonly #segments = new SegmentTable();
  readonly #grants = new GrantTable();
  readonly #peers = new Map<string, Peer>();
  readonly #inbox: NotificationInbox;
  readonly #runner: TransferRunner;
  readonly #planner: TransferPlanner;
  /** This agent as its own peer, made at first use. */
  #self: Peer | undefined = undefined;
  #onPeerLost: ((peer: string, transport: string) => void) | undefined = undefined;
  readonly #onSegments = new Set<() => void>();
  #closing: Promise<void> | undefined = undefined;

  constructor(options: AgentOptions) {
    const { name, clock = realClock, log = silentLog, deadlineMs = 30_000, maxRunningPerPeer = 1024 } = options;
    if (name === '') throw new ArmatureError('TRANSFER_AGENT_INVALID', 'an agent needs a name', { hint: 'pass a name unique among the agents that meet' });
    const counters = new TransferCounters();
    this.name = name;
    this.incarnation = options.incarnation ?? randomUUID();
    this.counters = counters;
    this.#log = log;
    this.#inbox = new NotificationInbox(counters);
    this.#planner = new TransferPlanner(name, this.#segments, (peer) => this.#peer(peer), (transfer, status) => this.#runner.ended(transfer, status));
    this.#runner = new TransferRunner({
      clock,
      log,
      counters,
      deadlineMs,
      maxRunningPerPeer,
      isCurrent: (transfer) => this.#planner.isCurrent(transfer),
      recheck: (transfer) => {
        counters.rechecks++;
        return this.#planner.recheck(transfer);
      },
      notify: (peer, payload) => this.#send(peer, payload),
    });
  }

  /** Called once by `createAgent`. */
  async open(transports: readonly TransferTransport[]): Promise<void> {
    for (const transport of transports) {
      const reason = transport.unavailable();
      if (reason !== undefined) {
        this.#log.warn('transfer transport is not available', { transport: transport.name, reason });
        continue;
      }
      this.#opened.push({ name: transport.name, transport, endpoint: await transport.open(this.#hostFor(transport.name)) });
    }
    if (this.#opened.length === 0) {
      throw new ArmatureError('TRANSFER_NO_TRANSPORT', `agent "${this.name}" has no transport`, { hint: 'name at least one available transport, for example tcp' });
    }
  }

  /** Names of the transports in use. */
  transports(): readonly string[] {
    return this.#opened.map(({ name }) => name);
  }

  /** Makes memory known. Register few large regions, once. The memory must not be resized, detached or unmapped until deregistered. */
  register(options: RegisterOptions): TransferSegment {
    const segment = this.#segments.add(options);
    this.#grants.addSegment(segment.id, segment.lengthBytes, options.access ?? 'peers');
    for (const { endpoint } of this.#opened) endpoint.registered?.(segment);
    this.#self?.put(this.#describe(segment, options.layout));
    this.#segmentsChanged();
    return segment;
  }

  /** Peers' later transfers with it end as NotFound. Throws `TRANSFER_SEGMENT_BUSY` while an own transfer uses it. Idempotent. */
  deregister(id: number): void {
    const segment = this.#segments.get(id);
    if (segment === undefined) return;
    for (const { plan } of this.#runner.running()) {
      if (plan.local.segments.includes(id) || (plan.peer === this.name && plan.remote.segments.includes(id))) {
        throw new ArmatureError('TRANSFER_SEGMENT_BUSY', `segment ${id} is used by a running transfer with "${plan.peer}"`, { hint: 'cancel it and wait for its terminal status' });
      }
    }
    this.#segments.remove(id);
    this.#grants.removeSegment(id);
    this.#self?.drop([id]);
    for (const { endpoint } of this.#opened) endpoint.deregistered?.(segment);
    this.#segmentsChanged();
  }

  /** Allows a peer a range of a segment registered with access `granted` or `peers-read`. Returns the revoke function. */
  grant(grant: Grant): () => void {
    const segment = this.#segments.get(grant.segment);
    if (segment === undefined || grant.offset < 0 || grant.length < 0 || grant.offset + grant.length > segment.lengthBytes) {
      throw new ArmatureError('TRANSFER_GRANT_INVALID', `grant names bytes outside segment ${grant.segment}`, { hint: 'grant a range of a registered segment' });
    }
    const revoke = this.#grants.add(grant);
    this.#accessChanged(grant.peer);
    return () => {
      revoke();
      this.#accessChanged(grant.peer);
    };
  }

  /** For peers: name, incarnation, connection facts, and the segments registered so far or those chosen (partial metadata). */
  metadata(options: { readonly segments?: readonly number[] } = {}): Uint8Array {
    const chosen = options.segments === undefined ? undefined : new Set(options.segments);
    const segments = [...this.#segments.all()].filter(({ segment }) => chosen === undefined || chosen.has(segment.id));
    return encodeMetadata({
      name: this.name,
      incarnation: this.incarnation,
      revision: this.#segments.revision,
      isPartial: chosen !== undefined,
      segments: segments.map(({ segment, layout }) => this.#describe(segment, layout)),
      transports: this.#connectionFacts(),
    });
  }

  /**
   * Makes a peer known, or refreshes it: new segments are added, those that whole metadata no longer names are invalidated. Another incarnation
   * replaces the earlier one. Returns its name. Throws `TRANSFER_METADATA_INVALID`, `TRANSFER_METADATA_VERSION`, `TRANSFER_PEER_UNREACHABLE`,
   * `TRANSFER_PEER_NAME_TAKEN`.
   */
  addPeer(metadata: Uint8Array): string {
    const facts = decodeMetadata(metadata);
    if (facts.name === this.name) {
      throw new ArmatureError('TRANSFER_PEER_NAME_TAKEN', `metadata of an agent named "${facts.name}", like this one`, { hint: 'give each agent its own name; for its own memory an agent needs no metadata' });
    }
    const known = this.#peers.get(facts.name);
    if (known !== undefined && known.incarnation === facts.incarnation) {
      this.#cancelOver(known, known.refresh(facts));
      return facts.name;
    }
    const opened = this.#opened.filter(({ name, endpoint }) => facts.transports[name] !== undefined && endpoint.canReach(facts.transports[name]));
    if (opened.length === 0) {
      const theirs = Object.keys(facts.transports).join(', ');
      throw new ArmatureError('TRANSFER_PEER_UNREACHABLE', `no common transport reaches agent "${facts.name}" (it has ${theirs || 'none'})`, {
        hint: 'give both sides a transport that works between them, for example tcp',
      });
    }
    if (known !== undefined) this.removePeer(facts.name);
    const peer = new Peer(facts.name, facts.incarnation, opened);
    peer.refresh(facts);
    peer.connect(facts.transports);
    this.#peers.set(facts.name, peer);
    return facts.name;
  }

  /** Forgets a peer and what it was granted; running transfers with it end as RemoteDisconnected, later posts as NotFound. Idempotent. */
  removePeer(name: string): void {
    const peer = this.#peers.get(name);
    if (peer === undefined) return;
    this.#peers.delete(name);
    this.#grants.removePeer(name);
    peer.remove();
    this.#accessChanged(name);
  }

  /** Some of a peer's segments are no more: running transfers over them are cancelled, they and later posts end as NotFound. */
  invalidateSegments(peer: string, segments: readonly number[]): void {
    const known = this.#peers.get(peer);
    if (known === undefined) return;
    known.drop(segments);
    this.#cancelOver(known, segments);
  }

  peers(): readonly string[] {
    return [...this.#peers.keys()];
  }

  /** Which life of the peer is known; undefined: none. */
  peerIncarnation(peer: string): string | undefined {
    return this.#peers.get(peer)?.incarnation;
  }

  /** Length of a peer's segment, undefined when its metadata does not name it. */
  peerSegmentBytes(peer: string, segment: number): number | undefined {
    return this.#peer(peer)?.lengthOf(segment);
  }

  peerSegmentLayout(peer: string, segment: number): KvLayout | undefined {
    return this.#peer(peer)?.layoutOf(segment);
  }

  /**
   * Checks everything that can be checked before: post is then cheap. Throws `TRANSFER_PEER_UNKNOWN`, `TRANSFER_DESCRIPTOR_INVALID`,
   * `TRANSFER_LAYOUT_MISMATCH`.
   */
  prepare(options: PrepareOptions): TransferHandle {
    return this.#planner.prepare(options);
  }

  /** Whole KV blocks between segments with layout facts, converted on the way. Throws `TRANSFER_LAYOUT_UNKNOWN`, `_MISMATCH`, `_SCATTERED`. */
  prepareBlocks(options: PrepareBlocksOptions): TransferHandle {
    return this.#planner.prepareBlocks(options);
  }

  /** A list for `make`, checked once: of own memory, or of a peer's. Kept until its peer or a segment of it goes. */
  prepareList(source: ListSource & { readonly peer?: string }): PreparedList {
    return this.#planner.list(source.peer, source);
  }

  /** A transfer of the picked pieces, first with first. Cheap: about 30 ns a row. Throws `TRANSFER_DESCRIPTOR_INVALID`, `TRANSFER_LAYOUT_MISMATCH`. */
  make(options: MakeOptions): TransferHandle {
    return this.#planner.make(options);
  }

  /** Starts a prepared transfer; again after it has ended. `done` comes exactly once, before return when it ends at once. */
  post(handle: TransferHandle, options?: PostOptions, done?: TransferDone): TransferStatus {
    return this.#runner.post(handle as PreparedTransfer, options, done);
  }

  /** `post` for those who await. A handle that runs already resolves to RepostActive. */
  run(handle: TransferHandle, options?: PostOptions): Promise<TransferStatus> {
    return new Promise((resolve) => {
      const status = this.post(handle, options, resolve);
      if (status !== TransferStatus.InProgress) resolve(status);
    });
  }

  check(handle: TransferHandle): TransferStatus {
    return (handle as PreparedTransfer).status;
  }

  /** Asks to stop. The status turns terminal only when no byte of the local memory can change any more. */
  cancel(handle: TransferHandle): void {
    this.#runner.cancel(handle as PreparedTransfer, TransferStatus.Canceled);
  }

  /** Ends the handle; a running transfer is cancelled and still reports `done`. Idempotent. */
  release(handle: TransferHandle): void {
    (handle as PreparedTransfer).isReleased = true;
    this.cancel(handle);
  }

  /** Sends a notification without data, after those posted before on the same path. False: peer not connected or queue full. */
  notify(peer: string, payload: Uint8Array): boolean {
    const isSent = this.#send(peer, payload);
    if (isSent) this.counters.notificationsSent++;
    return isSent;
  }

  /** One listener; replaces the earlier one. Called after the notification's data is visible. Must not throw. */
  onNotification(listener: (peer: string, payload: Uint8Array) => void): void {
    this.#inbox.listen(listener);
  }

  /** Without a listener: what has arrived since the last call. At most 1,024 are kept, then the oldest go (`counters.notificationsDropped`). */
  takeNotifications(): ReceivedNotification[] {
    return this.#inbox.take();
  }

  /** One listener: a transport has lost a peer. It stays known: a later post tries again, or another path; a restarted peer needs new metadata. */
  onPeerLost(listener: (peer: string, transport: string) => void): void {
    this.#onPeerLost = listener;
  }

  /** Called when own segments have come or gone: time to publish metadata again. Returns the function that stops it. */
  onSegmentsChanged(listener: () => void): () => void {
    this.#onSegments.add(listener);
    return () => this.#onSegments.delete(listener);
  }

  /** Transfers posted and not ended. */
  running(): number {
    return this.#runner.count;
  }

  /** Ends every transfer, then the endpoints. Idempotent. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#runner.close();
    const results = await Promise.allSettled(this.#opened.map(({ endpoint }) => endpoint.close()));
    this.#peers.clear();
    this.#onSegments.clear();
    const failures = results.filter((result) => result.status === 'rejected').map((result) => result.reason as unknown);
    if (failures.length > 0) throw new AggregateError(failures, `agent "${this.name}" did not close cleanly`);
  }

  #hostFor(transport: string): TransportHost {
    return {
      agentName: this.name,
      incarnation: this.incarnation,
      segment: (id) => this.#segments.get(id),
      allows: (peer, segment, offset, length, op) => this.#grants.check(peer === this.name ? undefined : peer, segment, offset, length, op),
      notified: (peer, payload) => this.#inbox.received(peer, payload),
      disconnected: (peer) => this.#lost(peer, transport),
    };
  }

  #connectionFacts(): Record<string, TransportMetadata> {
    return Object.fromEntries(this.#opened.map(({ name, endpoint }) => [name, endpoint.metadata()]));
  }

  #describe({ id, kind, lengthBytes }: TransferSegment, layout: KvLayout | undefined): SegmentMetadata {
    const transports: Record<string, TransportMetadata> = {};
    for (const { name, endpoint } of this.#opened) {
      const facts = endpoint.segmentMetadata?.(this.#segments.get(id)!);
      if (facts !== undefined) transports[name] = facts;
    }
    return { id, kind, lengthBytes, transports, layout };
  }

  #peer(name: string): Peer | undefined {
    if (name !== this.name || this.#closing !== undefined) return this.#peers.get(name);
    if (this.#self !== undefined) return this.#self;
    const transports = this.#connectionFacts();
    const self = new Peer(name, this.incarnation, this.#opened.filter(({ name: transport, endpoint }) => endpoint.canReach(transports[transport]!)));
    for (const { segment, layout } of this.#segments.all()) self.put(this.#describe(segment, layout));
    self.connect(transports);
    return (this.#self = self);
  }

  #send(peer: string, payload: Uint8Array): boolean {
    if (peer === this.name) {
      this.#inbox.received(peer, payload.slice());
      return true;
    }
    return this.#peers.get(peer)?.paths.some((path) => path.notifies && path.endpoint.notify(peer, payload)) ?? false;
  }

  #cancelOver(peer: Peer, segments: readonly number[]): void {
    if (segments.length === 0) return;
    const gone = new Set(segments);
    this.#runner.cancelAll(({ target, plan }) => target === peer && plan.remote.segments.some((id) => gone.has(id)), TransferStatus.NotFound);
  }

  #accessChanged(peer: string): void {
    for (const { endpoint } of this.#opened) endpoint.accessChanged?.(peer);
  }

  #segmentsChanged(): void {
    for (const listener of this.#onSegments) listener();
  }

  #lost(peer: string, transport: string): void {
    if (!this.#peers.has(peer)) return;
    this.counters.peersLost++;
    this.#log.debug('transfer peer lost', { peer, transport }); // whoever uses the peer says what it means
    this.#onPeerLost?.(peer, transport);
  }
}
