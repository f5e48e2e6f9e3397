import net from 'node:net';
import { TransferStatus } from '@armature/contracts';
import type { Clock, Logger, Timer, TransferPeer, TransportHost } from '@armature/contracts';
import { CHUNK_BYTES, frameInvalid, FrameReader, FrameType, header, MAX_HANDSHAKE_BYTES } from './frames.ts';
import type { FrameHandler } from './frames.ts';
import { ListCursor } from './cursor.ts';
import { encodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from './handshake.ts';
import type { PlanPart } from './parts.ts';

/** Limits and secrets of both link kinds. */
export interface LinkSettings {
  readonly clock: Clock;
  readonly log: Logger;
  readonly token: string;
  readonly connectTimeoutMs: number;
  readonly cancelGraceMs: number;
  readonly randomBytes: (length: number) => Buffer;
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

const SCRATCH_BYTES = 64 << 10;
/** Shorter runs are read through the scratch: one read call per tiny piece costs more than a copy. */
const DIRECT_BYTES = 4096;
const MAX_REQUESTS = 4096;
const MAX_QUEUED_BYTES = 16 << 20;
const MAX_WAITING_NOTIFICATIONS = 1024;

/** The initiator's end of one connection: authenticates, sends requests, lands what comes straight in local memory. */
export class ClientLink implements FrameHandler {
  readonly #host: TransportHost;
  readonly #peer: TransferPeer;
  readonly #settings: LinkSettings;
  readonly #onClosed: (wasReady: boolean) => void;
  readonly #socket: net.Socket;
  /** Resolves when the socket is closed and every request has ended. */
  readonly closed: Promise<void>;
  readonly #reader = new FrameReader(this);
  readonly #scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
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
  #current: Request | undefined = undefined;
  /** Request whose memory the next read may fill; the buffer was given to the socket already. */
  #armed: Request | undefined = undefined;
  #endWhenDisarmed: Request | undefined = undefined;
  #connectTimer: Timer | undefined;

  constructor(host: TransportHost, peer: TransferPeer, settings: LinkSettings, onClosed: (wasReady: boolean) => void) {
    this.#host = host;
    this.#peer = peer;
    this.#settings = settings;
    this.#onClosed = onClosed;
    this.#nonce = settings.randomBytes(NONCE_BYTES);
    this.#connectTimer = settings.clock.setTimer(settings.connectTimeoutMs, () => this.#socket.destroy());
    this.#socket = net.connect({
      host: String(peer.metadata['host']),
      port: Number(peer.metadata['port']),
      noDelay: true,
      onread: { buffer: () => this.#nextBuffer(), callback: (length, buffer) => this.#received(length, buffer as Buffer) },
    });
    this.#socket.on('error', (error) => settings.log.debug('transfer connection failed', { peer: peer.name, error: error.message }));
    this.#socket.on('drain', () => this.#pump());
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

  /** Returns the id for cancel, 0 when it has ended already. */
  post(part: PlanPart, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    if (this.#state === 'closed' || this.#requests.size >= MAX_REQUESTS) {
      done(this.#state === 'closed' ? TransferStatus.RemoteDisconnected : TransferStatus.TransportError);
      return 0;
    }
    if (this.#nextId > 0xffff_ffff) {
      this.#nextId = 1;
      this.#hasWrapped = true;
    }
    const request = new Request(this.#nextId++, part, this.#host, notification, done);
    this.#requests.set(request.id, request);
    if (this.#state === 'ready') this.#begin(request);
    return request.id;
  }

  /** Takes over `payload`. Waits for the connection, in a bounded queue. */
  notify(payload: Uint8Array): boolean {
    if (this.#state === 'ready' && this.#socket.writableLength <= MAX_QUEUED_BYTES) {
      this.#send(FrameType.Notify, 0, 0, payload);
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
    this.#send(FrameType.Cancel, id, 0);
    if (request.part.op === 'read') {
      if (this.#current === request) this.#current = undefined;
      if (this.#armed !== request) {
        this.#finish(request, TransferStatus.Canceled);
        return;
      }
      this.#endWhenDisarmed = request;
    }
    this.#graces.set(id, this.#settings.clock.setTimer(this.#settings.cancelGraceMs, () => this.destroy()));
  }

  /** Cuts the connection; every request ends once the socket is closed. */
  destroy(): void {
    if (this.#socket.connecting) this.#socket.destroy();
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

  #nextBuffer(): Buffer {
    this.#armed = undefined;
    const request = this.#current;
    const left = this.#reader.dataLeft;
    if (request !== undefined && left >= DIRECT_BYTES) {
      const run = request.cursor.run(left);
      if (run !== undefined && run.length >= DIRECT_BYTES) {
        this.#armed = request;
        return run;
      }
    }
    return this.#scratch;
  }

  #received(length: number, buffer: Buffer): boolean {
    try {
      if (this.#armed !== undefined) {
        this.#reader.landed(length);
        this.#armed.cursor.advance(length);
        this.#armed = undefined;
        this.#disarmed();
      } else this.#reader.push(buffer.subarray(0, length));
      this.#pump();
    } catch (error) {
      this.#settings.log.warn('transfer connection closed', { peer: this.#peer.name, error: String(error) });
      this.#socket.destroy();
    }
    return true;
  }

  #wasGivenOut(id: number): boolean {
    return id < this.#nextId || this.#hasWrapped;
  }

  #disarmed(): void {
    const request = this.#endWhenDisarmed;
    this.#endWhenDisarmed = undefined;
    if (request !== undefined) this.#finish(request, TransferStatus.Canceled);
  }

  #answer(challenge: Buffer): void {
    this.#challenge = Buffer.from(challenge);
    const hello = { nonce: this.#nonce, name: this.#host.agentName, incarnation: this.#host.incarnation, peerIncarnation: this.#peer.incarnation };
    this.#send(FrameType.Hello, 0, 0, encodeHello({ ...hello, proof: helloProof(this.#settings.token, this.#challenge, hello) }));
  }

  #welcome(body: Buffer): void {
    if (this.#challenge.length === 0 || !proves(body, welcomeProof(this.#settings.token, this.#challenge, this.#nonce))) throw frameInvalid('a welcome without proof of the token');
    this.#state = 'ready';
    this.#clearConnectTimer();
    for (const request of [...this.#requests.values()]) this.#begin(request);
    for (const payload of this.#notifications.splice(0)) this.#send(FrameType.Notify, 0, 0, payload);
  }

  #begin(request: Request): void {
    request.state = 'sent';
    if (request.part.op === 'read') this.#send(FrameType.Read, request.id, 0, request.part.table);
    else {
      this.#send(FrameType.Write, request.id, 0, request.part.table);
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
    if (request === this.#endWhenDisarmed) return;
    const isShort = value === TransferStatus.Done && request.cursor.left > 0;
    if (value > 0 || value < -12 || (isShort && request.state === 'sent')) throw frameInvalid(`an end with status ${value} too early`);
    this.#finish(request, isShort ? TransferStatus.Canceled : (value as TransferStatus));
  }

  /** Sends data of writes until the socket has enough. */
  #pump(): void {
    const socket = this.#socket;
    while (this.#state === 'ready' && this.#sending.length > 0 && !socket.writableNeedDrain) {
      const request = this.#sending[0]!;
      const bytes = Math.min(request.cursor.left, CHUNK_BYTES);
      if (bytes > 0) {
        const views = request.cursor.gather(bytes);
        if (views === undefined) {
          this.#abandon(request);
          continue;
        }
        socket.cork();
        socket.write(header(FrameType.Data, request.id, 0, bytes));
        for (let i = 0; i < views.length; i++) socket.write(views[i]!);
        socket.uncork();
      }
      if (request.cursor.left === 0) {
        this.#sending.shift();
        this.#send(FrameType.Commit, request.id, request.notification === undefined ? 0 : 1, request.notification);
      }
    }
  }

  /** Local memory of a write is gone: a caller's error that the agent prevents. */
  #abandon(request: Request): void {
    this.#sending.shift();
    this.#send(FrameType.Cancel, request.id, 0);
    this.#finish(request, TransferStatus.NotFound);
  }

  #finish(request: Request, status: TransferStatus): void {
    if (!this.#requests.delete(request.id)) return;
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

  #send(type: number, id: number, value: number, body?: Uint8Array): void {
    const socket = this.#socket;
    if (body === undefined || body.length === 0) {
      socket.write(header(type, id, value, 0));
      return;
    }
    socket.cork();
    socket.write(header(type, id, value, body.length));
    socket.write(body);
    socket.uncork();
  }

  #close(): void {
    const wasReady = this.#state === 'ready';
    this.#state = 'closed';
    this.#clearConnectTimer();
    this.#endWhenDisarmed = undefined;
    for (const request of [...this.#requests.values()]) this.#finish(request, request.state === 'canceling' ? TransferStatus.Canceled : TransferStatus.RemoteDisconnected);
    this.#onClosed(wasReady);
  }

  #clearConnectTimer(): void {
    if (this.#connectTimer !== undefined) this.#settings.clock.clearTimer(this.#connectTimer);
    this.#connectTimer = undefined;
  }
}

