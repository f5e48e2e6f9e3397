import net from 'node:net';
import { TransferStatus } from '@armature/contracts';
import type { Clock, DescriptorColumns, Logger, Timer, TransferPeer, TransportHost } from '@armature/contracts';
import { peerCredentials, PinnedProcess } from '../native/process.ts';
import { encodeTable, frameInvalid, FrameReader, FrameType, MAX_HANDSHAKE_BYTES } from '../tcp/frames.ts';
import type { FrameHandler } from '../tcp/frames.ts';
import { encodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from '../tcp/handshake.ts';
import { decodeVerdict, LocalFrame, MAX_QUEUED_BYTES, MAX_VERDICT_BYTES, send, socketFd } from './control-frames.ts';
import type { Verdict } from './control-frames.ts';
import { ControlPageView } from './control-page.ts';
import type { Mover, PeerMemory } from './pieces.ts';

/** Limits and secrets of both ends. */
export interface ControlSettings {
  readonly clock: Clock;
  readonly log: Logger;
  readonly token: string;
  readonly connectTimeoutMs: number;
  readonly randomBytes: (length: number) => Buffer;
}

/** What a metadata of a same-host transport says. */
export interface LocalFacts {
  /** Abstract Unix socket, without its leading zero byte. */
  readonly socket: string;
  readonly pid: number;
  readonly startTicks: number;
  /** Descriptor of the control page in that process. */
  readonly page: number;
}

export interface ControlClientOptions {
  readonly host: TransportHost;
  readonly peer: TransferPeer;
  readonly facts: LocalFacts;
  readonly mover: Mover;
  readonly settings: ControlSettings;
  readonly onReady: () => void;
  /** Once, after which nothing of the link may be used. */
  readonly onClosed: (wasReady: boolean) => void;
}

type Answered = (status: TransferStatus, verdict: Verdict | undefined) => void;

const MAX_WAITING_NOTIFICATIONS = 1024;

/** The initiator's end: makes sure of who the peer is, then holds its page and memory for as long as the connection lives. */
export class ControlClient implements FrameHandler {
  readonly #options: ControlClientOptions;
  readonly #socket: net.Socket;
  readonly #reader = new FrameReader(this);
  readonly #nonce: Buffer;
  readonly #asked = new Map<number, Answered>();
  /** Until the connection is ready. */
  readonly #notifications: Uint8Array[] = [];
  /** Resolves when the socket is closed and everything of the peer is unmapped. */
  readonly closed: Promise<void>;
  #challenge: Buffer = Buffer.alloc(0);
  #state: 'connecting' | 'ready' | 'closed' = 'connecting';
  #process: PinnedProcess | undefined = undefined;
  #page: ControlPageView | undefined = undefined;
  #memory: PeerMemory | undefined = undefined;
  #nextId = 1;
  #connectTimer: Timer | undefined;

  constructor(options: ControlClientOptions) {
    const { settings, facts, peer } = options;
    this.#options = options;
    this.#nonce = settings.randomBytes(NONCE_BYTES);
    this.#connectTimer = settings.clock.setTimer(settings.connectTimeoutMs, () => this.#socket.destroy());
    this.#socket = net.connect({ path: `\0${facts.socket}` });
    this.#socket.on('connect', () => this.#identify());
    this.#socket.on('data', (chunk: Buffer) => this.#received(chunk));
    this.#socket.on('end', () => this.#socket.destroy());
    this.#socket.on('error', (error) => settings.log.debug('transfer control connection failed', { peer: peer.name, error: error.message }));
    this.closed = new Promise((resolve) => {
      this.#socket.on('close', () => {
        this.#close();
        resolve();
      });
    });
  }

  get isClosed(): boolean {
    return this.#state === 'closed';
  }

  /** The peer's answers of this epoch hold; undefined while connecting and once the peer has closed. */
  get epoch(): number | undefined {
    return this.#page !== undefined && this.#page.isOpen ? this.#page.epoch : undefined;
  }

  /** Undefined until ready. */
  get memory(): PeerMemory | undefined {
    return this.#memory;
  }

  get isReady(): boolean {
    return this.#state === 'ready';
  }

  /** May the peer's memory be touched so, and where is it? Only when ready; answered once, with RemoteDisconnected when the connection closes first. */
  ask(op: 'read' | 'write', rows: DescriptorColumns, answered: Answered): void {
    const id = this.#nextId;
    this.#nextId = (this.#nextId % 0xffff_ffff) + 1;
    this.#asked.set(id, answered);
    send(this.#socket, LocalFrame.Ask, id, op === 'write' ? 1 : 0, encodeTable(rows));
  }

  /** Takes over `payload`. Waits for the connection, in a bounded queue. False: closed, or the peer reads nothing. */
  notify(payload: Uint8Array): boolean {
    if (this.#state === 'ready' && this.#socket.writableLength <= MAX_QUEUED_BYTES) {
      send(this.#socket, FrameType.Notify, 0, 0, payload);
      return true;
    }
    if (this.#state !== 'connecting' || this.#notifications.length >= MAX_WAITING_NOTIFICATIONS) return false;
    this.#notifications.push(payload);
    return true;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  limit(type: number): number {
    if (this.#state === 'connecting') return type === FrameType.Challenge || type === FrameType.Welcome || type === FrameType.Error ? MAX_HANDSHAKE_BYTES : -1;
    if (type === LocalFrame.Verdict) return MAX_VERDICT_BYTES;
    if (type === LocalFrame.Gone) return 0;
    return type === FrameType.Error ? MAX_HANDSHAKE_BYTES : -1;
  }

  frame(type: number, id: number, value: number, body: Buffer): void {
    if (type === FrameType.Challenge) this.#answer(body);
    else if (type === FrameType.Welcome) this.#welcome(value, body);
    else if (type === LocalFrame.Verdict) this.#verdict(id, value, body);
    else if (type === LocalFrame.Gone) this.#memory?.drop(value);
    else {
      this.#options.settings.log.warn('transfer peer refused the connection', { peer: this.#options.peer.name, code: body.toString('utf8').slice(0, 80) });
      this.#socket.destroy();
    }
  }

  dataBegin(): void {
    throw frameInvalid('data on a control connection');
  }

  data(): void {
    throw frameInvalid('data on a control connection');
  }

  #received(chunk: Buffer): void {
    try {
      this.#reader.push(chunk);
    } catch (error) {
      this.#options.settings.log.warn('transfer control connection closed', { peer: this.#options.peer.name, error: String(error) });
      this.#socket.destroy();
    }
  }

  /** Who listens here: the very process that the metadata names, of this user, and still that process. */
  #identify(): void {
    const { facts, settings, peer } = this.#options;
    const fd = socketFd(this.#socket);
    const found = fd === undefined ? undefined : peerCredentials(fd);
    if (found?.pid === facts.pid && found.uid === process.geteuid?.()) this.#process = PinnedProcess.open(facts.pid, facts.startTicks);
    if (this.#process !== undefined) return;
    settings.log.warn('transfer peer is not the process its metadata names', { peer: peer.name, pid: facts.pid, foundPid: found?.pid ?? -1 });
    this.#socket.destroy();
  }

  #answer(challenge: Buffer): void {
    const { host, peer, settings } = this.#options;
    this.#challenge = Buffer.from(challenge);
    const hello = { nonce: this.#nonce, name: host.agentName, incarnation: host.incarnation, peerIncarnation: peer.incarnation };
    send(this.#socket, FrameType.Hello, 0, 0, encodeHello({ ...hello, proof: helloProof(settings.token, this.#challenge, hello) }));
  }

  #welcome(slot: number, body: Buffer): void {
    const { settings, facts, mover, onReady } = this.#options;
    if (this.#process === undefined || this.#challenge.length === 0 || !proves(body, welcomeProof(settings.token, this.#challenge, this.#nonce))) throw frameInvalid('a welcome without proof of the token');
    this.#page = new ControlPageView(facts.pid, facts.page, slot);
    this.#memory = mover.open(this.#process);
    this.#state = 'ready';
    this.#clearConnectTimer();
    for (const payload of this.#notifications.splice(0)) send(this.#socket, FrameType.Notify, 0, 0, payload);
    onReady();
  }

  #verdict(id: number, value: number, body: Buffer): void {
    const answered = this.#asked.get(id);
    if (answered === undefined || value > 0 || value < -12) throw frameInvalid(`a verdict ${value} that was not asked for`);
    const verdict = decodeVerdict(body);
    this.#asked.delete(id);
    answered(value as TransferStatus, verdict);
  }

  #close(): void {
    const wasReady = this.#state === 'ready';
    this.#state = 'closed';
    this.#clearConnectTimer();
    const waiting = [...this.#asked.values()];
    this.#asked.clear();
    for (const answered of waiting) answered(TransferStatus.RemoteDisconnected, undefined);
    this.#options.onClosed(wasReady);
    this.#memory?.close();
    this.#page?.close();
    this.#process?.close();
    this.#memory = undefined;
    this.#page = undefined;
  }

  #clearConnectTimer(): void {
    if (this.#connectTimer !== undefined) this.#options.settings.clock.clearTimer(this.#connectTimer);
    this.#connectTimer = undefined;
  }
}
