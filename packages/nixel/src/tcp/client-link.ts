import net from 'node:net';
import { TransferStatus } from '@armature/contracts';
import type { Clock, Logger, Timer, TransferPeer, TransportHost } from '@armature/contracts';
import { connectTls } from './tls.ts';
import type { TlsMaterial } from './tls.ts';
import { CHUNK_BYTES, frameInvalid, FrameType, MAX_HANDSHAKE_BYTES } from './frames.ts';
import { FrameSender } from './frame-sender.ts';
import { ListCursor } from './cursor.ts';
import { encodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from './handshake.ts';
import { Landing, TURN_BYTES } from './landing.ts';
import type { LandingHandler } from './landing.ts';
import type { PlanPart } from './parts.ts';
import { descriptorOf, vectorIo } from './vector-io.ts';

/** For tests, benchmarks and logs; only grow. */
export interface LinkCounters {
  /** Payload received straight into its place, and through a copy. */
  directBytes: number;
  copiedBytes: number;
}

/** Limits and secrets of both link kinds. */
export interface LinkSettings {
  readonly clock: Clock;
  readonly log: Logger;
  readonly token: string;
  readonly connectTimeoutMs: number;
  readonly cancelGraceMs: number;
  readonly randomBytes: (length: number) => Buffer;
  readonly tls?: TlsMaterial | undefined;
  /** Counts what the links of an endpoint did. */
  readonly counters?: LinkCounters | undefined;
}

/** One part of a transfer on one connection. */
class Request {
  readonly id: number;
  readonly part: PlanPart;
  readonly cursor: ListCursor;
  readonly notification: Uint8Array | undefined;
  readonly done: (status: TransferStatus) => void;
  state: 'queued' | 'sent' | 'canceling';

  constructor(id: number, part: PlanPart, host: TransportHost, notification: Uint8Array | undefined, done: (status: TransferStatus) => void) {
    this.id = id;
    this.part = part;
    this.cursor = new ListCursor(part.local, part.bytes, (segment) => host.segment(segment));
    this.notification = notification;
    this.done = done;
    this.state = 'queued';
  }
}

/** After this much silence the kernel asks whether the other host is there. */
export const KEEP_ALIVE_MS = 30_000;
const MAX_REQUESTS = 4096;
const MAX_QUEUED_BYTES = 16 << 20;
const MAX_WAITING_NOTIFICATIONS = 1024;

/** The initiator's end of one connection: authenticates, sends requests, lands what comes straight in local memory. */
export class ClientLink implements LandingHandler {
  readonly #host: TransportHost;
  readonly #peer: TransferPeer;
  readonly #settings: LinkSettings;
  readonly #onClosed: (wasReady: boolean) => void;
  readonly #socket: net.Socket;
  /** Resolves when the socket is closed and every request has ended. */
  readonly closed: Promise<void>;
  readonly #landing: Landing;
  readonly #sender: FrameSender;
  readonly #requests = new Map<number, Request>();
  /** Writes with data still to send, in order. */
  readonly #sending: Request[] = [];
  readonly #graces = new Map<number, Timer>();
  /** Until the connection is ready. */
  readonly #notifications: Uint8Array[] = [];
  readonly #nonce: Buffer;
  #challenge: Buffer = Buffer.alloc(0);
  #state: 'connecting' | 'ready' | 'closed' = 'connecting';
  #nextId = 1;
  #hasWrapped = false;
  #pendingBytes = 0;
  #current: Request | undefined = undefined;
  #pumpsLater = false;
  #connectTimer: Timer | undefined;
  /** Runs after a cancelled read. */
  #silence: Timer | undefined = undefined;
  /** Times that something was received. */
  #turns = 0;

  constructor(host: TransportHost, peer: TransferPeer, settings: LinkSettings, onClosed: (wasReady: boolean) => void) {
    this.#host = host;
    this.#peer = peer;
    this.#settings = settings;
    this.#onClosed = onClosed;
    this.#nonce = settings.randomBytes(NONCE_BYTES);
    this.#connectTimer = settings.clock.setTimer(settings.connectTimeoutMs, () => this.#socket.destroy());
    const io = settings.tls === undefined ? vectorIo() : undefined;
    this.#landing = new Landing(this, io);
    const onread = { buffer: this.#landing.nextBuffer, callback: (length: number) => this.#received(length) };
    const address = { host: String(peer.metadata['host']), port: Number(peer.metadata['port']) };
    this.#socket = settings.tls === undefined ? net.connect({ ...address, noDelay: true, onread }) : connectTls(address, settings.tls, (chunk) => this.#chunk(chunk));
    this.#sender = new FrameSender(this.#socket, io, () => this.#pump());
    this.#socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.#socket.on('error', (error) => this.#failed(error));
    this.#socket.on('end', () => this.#socket.destroy());
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

  /** Of requests that have not ended, at least one each. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** Returns the id for cancel, 0 when it has ended already. */
  post(part: PlanPart, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    if (this.#state === 'closed' || this.#requests.size >= MAX_REQUESTS) {
      done(this.#state === 'closed' ? TransferStatus.RemoteDisconnected : TransferStatus.Overloaded);
      return 0;
    }
    if (this.#nextId > 0xffff_ffff) {
      this.#nextId = 1;
      this.#hasWrapped = true;
    }
    const request = new Request(this.#nextId++, part, this.#host, notification, done);
    this.#requests.set(request.id, request);
    this.#pendingBytes += 1 + part.bytes;
    if (this.#state === 'ready') this.#begin(request);
    return request.id;
  }

  /** Takes over `payload`. Waits for the connection, in a bounded queue. */
  notify(payload: Uint8Array): boolean {
    if (this.#state === 'ready' && this.#socket.writableLength <= MAX_QUEUED_BYTES) {
      this.#sender.send(FrameType.Notify, 0, 0, payload);
      return true;
    }
    if (this.#state !== 'connecting' || this.#notifications.length >= MAX_WAITING_NOTIFICATIONS) return false;
    this.#notifications.push(payload);
    return true;
  }

  cancel(id: number): void {
    const request = this.#requests.get(id);
    if (request === undefined || request.state === 'canceling') return;
    if (request.state === 'queued') {
      this.#finish(request, TransferStatus.Canceled);
      return;
    }
    request.state = 'canceling';
    const sending = this.#sending.indexOf(request);
    if (sending >= 0) this.#sending.splice(sending, 1);
    this.#sender.send(FrameType.Cancel, id, 0);
    // From here on its payload is dropped: nothing else holds the memory.
    if (request.part.op === 'read') {
      this.#finish(request, TransferStatus.Canceled);
      this.#expectWord();
      return;
    }
    this.#graces.set(id, this.#settings.clock.setTimer(this.#settings.cancelGraceMs, () => this.destroy()));
  }

  /** The owner answers a cancel. One from which nothing at all comes is gone, though its socket does not know: later transfers must not wait for it. */
  #expectWord(): void {
    const heard = this.#turns;
    const { clock, connectTimeoutMs } = this.#settings;
    this.#silence ??= clock.setTimer(connectTimeoutMs, () => {
      this.#silence = undefined;
      if (this.#turns === heard) this.destroy();
    });
  }

  /** Cuts the connection; every request ends once the socket is closed. */
  destroy(): void {
    // TLS has no reset.
    if (this.#socket.connecting || this.#settings.tls !== undefined) this.#socket.destroy();
    else this.#socket.resetAndDestroy();
  }

  limit(type: number): number {
    if (this.#state === 'connecting') return type === FrameType.Challenge || type === FrameType.Welcome || type === FrameType.Error ? MAX_HANDSHAKE_BYTES : -1;
    if (type === FrameType.Data) return CHUNK_BYTES;
    return type === FrameType.End || type === FrameType.Error ? MAX_HANDSHAKE_BYTES : -1;
  }

  frame(type: number, id: number, value: number, body: Buffer): void {
    if (type === FrameType.Challenge) this.#answer(body);
    else if (type === FrameType.Welcome) this.#welcome(body);
    else if (type === FrameType.Error) {
      this.#settings.log.warn('transfer peer refused the connection', { peer: this.#peer.name, code: body.toString('utf8').slice(0, 80) });
      this.#socket.destroy();
    } else this.#ended(id, value);
  }

  dataBegin(id: number, length: number): void {
    const request = this.#requests.get(id);
    if (request === undefined ? !this.#wasGivenOut(id) : request.part.op !== 'read' || length > request.cursor.left) throw frameInvalid('data that was not asked for');
    this.#current = request?.state === 'sent' ? request : undefined;
  }

  data(bytes: Buffer): void {
    const request = this.#current;
    if (request === undefined) return;
    // The agent refuses to deregister memory of a running transfer.
    if (!request.cursor.scatter(bytes)) throw frameInvalid('data for memory that is gone');
  }

  target(): ListCursor | undefined {
    return this.#current?.cursor;
  }

  #received(length: number): boolean {
    const goesOn = this.#guarded(() => this.#landing.received(length, descriptorOf(this.#socket)));
    if (goesOn) return true;
    setImmediate(() => this.#socket.resume());
    return false;
  }

  #chunk(chunk: Buffer): void {
    this.#guarded(() => (this.#landing.push(chunk), true));
  }

  #guarded(receive: () => boolean): boolean {
    const { directBytes, copiedBytes } = this.#landing;
    this.#turns++;
    try {
      const goesOn = receive();
      this.#pump();
      return goesOn;
    } catch (error) {
      this.#settings.log.warn('transfer connection closed', { peer: this.#peer.name, error: String(error) });
      this.#socket.destroy();
      return true;
    } finally {
      const { counters } = this.#settings;
      if (counters !== undefined) {
        counters.directBytes += this.#landing.directBytes - directBytes;
        counters.copiedBytes += this.#landing.copiedBytes - copiedBytes;
      }
    }
  }

  #failed(error: Error): void {
    const code = this.#settings.tls?.codeOf(error);
    if (code === undefined) this.#settings.log.debug('transfer connection failed', { peer: this.#peer.name, error: error.message });
    else this.#settings.log.warn('transfer connection refused', { peer: this.#peer.name, code, reason: error.message });
  }

  #wasGivenOut(id: number): boolean {
    return id < this.#nextId || this.#hasWrapped;
  }

  #answer(challenge: Buffer): void {
    this.#challenge = Buffer.from(challenge);
    const hello = { nonce: this.#nonce, name: this.#host.agentName, incarnation: this.#host.incarnation, peerIncarnation: this.#peer.incarnation };
    this.#sender.send(FrameType.Hello, 0, 0, encodeHello({ ...hello, proof: helloProof(this.#settings.token, this.#challenge, hello) }));
  }

  #welcome(body: Buffer): void {
    if (this.#challenge.length === 0 || !proves(body, welcomeProof(this.#settings.token, this.#challenge, this.#nonce))) throw frameInvalid('a welcome without proof of the token');
    this.#state = 'ready';
    this.#clearConnectTimer();
    for (const request of [...this.#requests.values()]) this.#begin(request);
    for (const payload of this.#notifications.splice(0)) this.#sender.send(FrameType.Notify, 0, 0, payload);
  }

  #begin(request: Request): void {
    request.state = 'sent';
    if (request.part.op === 'read') this.#sender.send(FrameType.Read, request.id, 0, request.part.table);
    else {
      this.#sender.send(FrameType.Write, request.id, 0, request.part.table);
      this.#sending.push(request);
      this.#pump();
    }
  }

  #ended(id: number, value: number): void {
    const request = this.#requests.get(id);
    if (request === undefined) {
      if (!this.#wasGivenOut(id)) throw frameInvalid('an end that was not asked for');
      return;
    }
    const isShort = value === TransferStatus.Done && request.cursor.left > 0;
    if (value > 0 || value < TransferStatus.Overloaded || (isShort && request.state === 'sent')) throw frameInvalid(`an end with status ${value} too early`);
    this.#finish(request, isShort ? TransferStatus.Canceled : (value as TransferStatus));
  }

  /** Sends data of writes until the socket has enough, a turn's worth at a time. */
  #pump(): void {
    let turnBytes = 0;
    while (this.#state === 'ready' && this.#sending.length > 0 && this.#sender.hasRoom && !this.#socket.destroyed) {
      if (turnBytes >= TURN_BYTES) {
        this.#pumpLater();
        return;
      }
      const request = this.#sending[0]!;
      const before = request.cursor.left;
      if (before > 0 && !this.#sender.data(request.id, request.cursor, TURN_BYTES)) {
        this.#abandon(request);
        continue;
      }
      turnBytes += before - request.cursor.left;
      if (request.cursor.left === 0) {
        this.#sending.shift();
        this.#sender.send(FrameType.Commit, request.id, request.notification === undefined ? 0 : 1, request.notification);
      }
    }
  }

  #pumpLater(): void {
    if (this.#pumpsLater) return;
    this.#pumpsLater = true;
    setImmediate(() => {
      this.#pumpsLater = false;
      this.#pump();
    });
  }

  /** Local memory of a write is gone: a caller's error that the agent prevents. */
  #abandon(request: Request): void {
    this.#sending.shift();
    this.#sender.send(FrameType.Cancel, request.id, 0);
    this.#finish(request, TransferStatus.NotFound);
  }

  #finish(request: Request, status: TransferStatus): void {
    if (!this.#requests.delete(request.id)) return;
    this.#pendingBytes -= 1 + request.part.bytes;
    const grace = this.#graces.get(request.id);
    if (grace !== undefined) {
      this.#settings.clock.clearTimer(grace);
      this.#graces.delete(request.id);
    }
    if (this.#current === request) this.#current = undefined;
    const sending = this.#sending.indexOf(request);
    if (sending >= 0) this.#sending.splice(sending, 1);
    request.done(status);
  }

  #close(): void {
    const wasReady = this.#state === 'ready';
    this.#state = 'closed';
    this.#clearSilence();
    this.#clearConnectTimer();
    for (const request of [...this.#requests.values()]) this.#finish(request, request.state === 'canceling' ? TransferStatus.Canceled : TransferStatus.RemoteDisconnected);
    this.#onClosed(wasReady);
  }

  #clearConnectTimer(): void {
    if (this.#connectTimer !== undefined) this.#settings.clock.clearTimer(this.#connectTimer);
    this.#connectTimer = undefined;
  }

  #clearSilence(): void {
    if (this.#silence !== undefined) this.#settings.clock.clearTimer(this.#silence);
    this.#silence = undefined;
  }
}

