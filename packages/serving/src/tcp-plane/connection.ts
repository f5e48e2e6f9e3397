import { createHash, timingSafeEqual } from 'node:crypto';
import type net from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Codec, ErrorData, Logger, PlainData, PlaneMessage, StreamOpen, StreamSink, Timer } from '@armature/contracts';
import type { TlsMaterial } from '@armature/nixel';
import { OutBuffer } from './out-buffer.ts';
import { TcpStream } from './stream.ts';
import type { StreamLink } from './stream.ts';
import { Frame, FrameReader, HEADER_BYTES, isTokens, LEAVE_PROTOCOL, MAX_HELLO_BYTES, readTokens, tokensBytes, wireInvalid, WIRE_PROTOCOL, writeTokens } from './wire.ts';

export interface ConnectionOptions {
  readonly clock: Clock;
  readonly codec: Codec;
  readonly log: Logger;
  /** Names this process; new in each life. */
  readonly node: string;
  readonly token: string;
  readonly maxFrameBytes: number;
  readonly highWaterBytes: number;
  readonly pingIntervalMs: number;
  readonly pingDeadlineMs: number;
  readonly connectTimeoutMs: number;
  /** Wire versions this process speaks. Default: the one it was built for and the one before. */
  readonly protocols?: ProtocolRange;
  readonly tls?: TlsMaterial | undefined;
}

/** Both ends use the newest version that both speak. */
export interface ProtocolRange {
  readonly oldest: number;
  readonly newest: number;
}

const PROTOCOLS: ProtocolRange = { oldest: Math.max(1, WIRE_PROTOCOL - 1), newest: WIRE_PROTOCOL };

/** What the plane does with a connection. */
export interface ConnectionOwner {
  /** `host:port` this process listens on, or ''. */
  address(): string;
  ready(connection: Connection): void;
  /** The peer opens a stream; returns the sink or throws ArmatureError to refuse. */
  accept(name: string, open: StreamOpen, stream: TcpStream): StreamSink;
  /** A bridge frame. */
  control(connection: Connection, type: number, body: PlainData): void;
  /** The peer takes no more streams: later ones need another connection. */
  leaving(connection: Connection): void;
  closed(connection: Connection): void;
}

type Fields = Readonly<Record<string, PlainData>>;

/** Streams of one hundred full ones may wait; beyond it the peer is taken for dead. */
const MAX_QUEUE_FACTOR = 128;

function fields(value: PlainData): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) throw wireInvalid('a body that is no map');
  return value as Fields;
}

function text(value: PlainData, name: string): string {
  if (typeof value !== 'string') throw wireInvalid(`no ${name}`);
  return value;
}

/** One TCP connection between two processes: handshake, streams both ways, one write per tick, keep-alive. */
export class Connection implements StreamLink {
  readonly clock: Clock;
  readonly log: Logger;
  readonly highWaterBytes: number;
  readonly maxStreamBytes: number;
  /** `host:port` dialled, or what the peer says it listens on. */
  address: string;
  /** Version of the frames, 0 until ready. */
  protocol = 0;
  /** The peer's node, '' until ready. */
  node = '';
  /** Socket writes so far: shows that frames of a tick travel together. */
  writes = 0;
  readonly #socket: net.Socket;
  readonly #options: ConnectionOptions;
  readonly #owner: ConnectionOwner;
  readonly #isDialer: boolean;
  readonly #out = new OutBuffer();
  readonly #reader: FrameReader;
  readonly #streams = new Map<number, TcpStream>();
  /** Streams whose bytes wait in `#out`. */
  readonly #waiting: TcpStream[] = [];
  readonly #flush = (): void => this.#write();
  #state: 'handshake' | 'ready' | 'closed' = 'handshake';
  #isFlushScheduled = false;
  #isLeaving = false;
  /** Of the peer's streams, the last that was taken or refused. */
  #lastTaken = 0;
  #nextStream: number;
  #timer: Timer | undefined = undefined;
  #heardAtMs: number;
  #failure: ErrorData | undefined = undefined;

  constructor(socket: net.Socket, address: string, isDialer: boolean, owner: ConnectionOwner, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#owner = owner;
    this.#isDialer = isDialer;
    this.clock = options.clock;
    this.log = options.log;
    this.highWaterBytes = options.highWaterBytes;
    this.maxStreamBytes = options.highWaterBytes * 8;
    this.address = address;
    this.#nextStream = isDialer ? 1 : 2;
    this.#heardAtMs = this.clock.nowMs();
    this.#reader = new FrameReader(Math.min(MAX_HELLO_BYTES, options.maxFrameBytes), (type, stream, body) => this.#frame(type, stream, body));
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#received(chunk));
    socket.on('drain', this.#flush);
    socket.on('error', (error) => this.#socketFailed(error));
    socket.on('close', () => this.#closed());
    this.#timer = this.clock.setTimer(options.connectTimeoutMs, () => this.destroy({ code: 'PLANE_UNREACHABLE', message: `no welcome from ${this.address} within ${options.connectTimeoutMs} ms`, retryable: true }));
    if (isDialer) socket.once(options.tls === undefined ? 'connect' : 'secureConnect', () => this.#hello(Frame.Hello));
  }

  get isReady(): boolean {
    return this.#state === 'ready';
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  /** Opens a stream; before the connection is ready its frames wait. */
  open(name: string, open: StreamOpen, sink: StreamSink): TcpStream {
    const stream = new TcpStream(this, this.#streamId(), open.method, sink);
    this.#streams.set(stream.id, stream);
    stream.startDeadline(open.deadlineMs);
    const { method, message, deadlineMs, traceparent } = open;
    this.#encode(stream, Frame.Open, { name, method, message, deadlineMs, ...(traceparent === undefined ? {} : { traceparent }) });
    return stream;
  }

  sendMessage(stream: TcpStream, message: PlaneMessage): void {
    if (!isTokens(message)) {
      this.#encode(stream, Frame.Message, message);
      return;
    }
    const bytes = tokensBytes(message);
    const { slab, at } = this.#out.begin(Frame.Tokens, stream.id, bytes);
    writeTokens(message, slab, at);
    this.#count(stream, bytes);
  }

  /** A bridge frame, in order with everything else. */
  sendControl(type: number, body: PlainData): void {
    this.#out.append(type, 0, this.#options.codec.encode(body));
    this.#schedule();
  }

  sendClose(stream: TcpStream, error: ErrorData | undefined): void {
    if (this.#state === 'closed') return;
    this.#out.append(Frame.Close, stream.id, error === undefined ? new Uint8Array(0) : this.#options.codec.encode({ ...error }));
    this.#schedule();
  }

  forget(stream: TcpStream): void {
    if (this.#streams.get(stream.id) === stream) this.#streams.delete(stream.id);
  }

  destroy(failure?: ErrorData): void {
    if (failure !== undefined) this.#fail(failure);
    this.#socket.destroy();
  }

  /** Sends what waits and which of the peer's streams have been taken, then ends: those that come later never began. */
  finish(): void {
    if (this.#isLeaving || this.#state === 'closed') return;
    if (this.#state === 'handshake') {
      this.#socket.end();
      return;
    }
    if (this.protocol >= LEAVE_PROTOCOL) this.#out.append(Frame.Leave, this.#lastTaken, new Uint8Array(0));
    this.#isLeaving = true;
    this.#write();
  }

  #streamId(): number {
    while (this.#streams.has(this.#nextStream)) this.#nextStream = this.#after(this.#nextStream);
    const id = this.#nextStream;
    this.#nextStream = this.#after(id);
    return id;
  }

  #after(id: number): number {
    return id + 2 > 0xffff_ffff ? (this.#isDialer ? 1 : 2) : id + 2;
  }

  #encode(stream: TcpStream, type: number, value: PlainData): void {
    let body: Uint8Array;
    try {
      body = this.#options.codec.encode(value);
    } catch (error) {
      stream.abort(ArmatureError.from(error, 'PLANE_MESSAGE_INVALID').toData());
      return;
    }
    if (body.length + HEADER_BYTES - 4 > this.#options.maxFrameBytes) {
      stream.abort({ code: 'PLANE_MESSAGE_TOO_LARGE', message: `a message of ${body.length} bytes exceeds the frame limit of ${this.#options.maxFrameBytes}`, hint: 'raise requests.config.maxFrameBytes on both ends' });
      return;
    }
    this.#out.append(type, stream.id, body);
    this.#count(stream, body.length);
  }

  #count(stream: TcpStream, bytes: number): void {
    if (stream.queuedBytes === 0) this.#waiting.push(stream);
    stream.queuedBytes += bytes + HEADER_BYTES;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#out.bytes > this.highWaterBytes * MAX_QUEUE_FACTOR) this.destroy({ code: 'PLANE_DISCONNECTED', message: `${this.address} does not read: ${this.#out.bytes} bytes wait`, retryable: true });
    if (this.#isFlushScheduled || this.#state !== 'ready') return;
    this.#isFlushScheduled = true;
    this.clock.defer(this.#flush);
  }

  #write(): void {
    this.#isFlushScheduled = false;
    if (this.#state === 'closed' || this.#socket.writableNeedDrain || this.#socket.writableEnded) return;
    if (this.#out.bytes > 0) this.#writeWaiting();
    if (this.#isLeaving) this.#socket.end();
  }

  /** Everything that waits in one gathered write, unless the socket is full: then at its drain. */
  #writeWaiting(): void {
    const chunks = this.#out.take();
    for (let i = 0; i < this.#waiting.length; i++) this.#waiting[i]!.queuedBytes = 0;
    this.#waiting.length = 0;
    this.writes++;
    if (chunks.length === 1) {
      this.#socket.write(chunks[0]!);
      return;
    }
    this.#socket.cork();
    for (let i = 0; i < chunks.length; i++) this.#socket.write(chunks[i]!);
    this.#socket.uncork();
  }

  /** Handshake frames go out alone, before anything that waits. */
  #sendNow(type: number, body: PlainData): void {
    const out = new OutBuffer();
    out.append(type, 0, this.#options.codec.encode(body));
    for (const chunk of out.take()) this.#socket.write(chunk);
  }

  /** `protocol` and `newest` of a hello are the versions the dialler speaks; `protocol` of a welcome is the one that is used. */
  #hello(type: number): void {
    const { oldest, newest } = this.#options.protocols ?? PROTOCOLS;
    const what = type === Frame.Hello ? { protocol: oldest, newest, token: this.#options.token } : { protocol: this.protocol };
    this.#sendNow(type, { ...what, node: this.#options.node, address: this.#owner.address() });
  }

  #socketFailed(error: Error): void {
    const code = this.#options.tls?.codeOf(error) ?? (this.node === '' ? 'PLANE_UNREACHABLE' : 'PLANE_DISCONNECTED');
    const hint = code === 'PLANE_TLS_FAILED' ? { hint: 'check that both ends have certificates of the same authority, for the right name, not expired' } : {};
    if (hint.hint !== undefined) this.log.warn('request-plane connection failed', { peer: this.address, code, reason: error.message });
    this.#fail({ code, message: `connection to ${this.address}: ${error.message}`, retryable: true, ...hint });
  }

  #received(chunk: Buffer): void {
    this.#heardAtMs = this.clock.nowMs();
    try {
      this.#reader.push(chunk);
    } catch (thrown) {
      const error = ArmatureError.from(thrown, 'PLANE_FRAME_INVALID');
      this.log.warn('request-plane connection closed', { peer: this.address, code: error.code, reason: error.message });
      if (this.#state !== 'closed' && !this.#isDialer) this.#sendNow(Frame.Refuse, { ...error.toData() });
      this.#fail({ code: 'PLANE_DISCONNECTED', message: error.message, retryable: true });
      this.#socket.destroySoon();
    }
  }

  #frame(type: number, id: number, body: Buffer): void {
    if (this.#state === 'closed') return;
    if (this.#state === 'handshake') {
      this.#handshake(type, body);
      return;
    }
    switch (type) {
      case Frame.Tokens:
        this.#streams.get(id)?.received(readTokens(body));
        return;
      case Frame.Message:
        this.#message(id, body);
        return;
      case Frame.Open:
        this.#accept(id, fields(this.#decode(body)));
        return;
      case Frame.Close:
        this.#streams.get(id)?.receivedClose(body.length === 0 ? undefined : errorFrom(this.#decode(body)));
        return;
      case Frame.Ping:
        this.#out.append(Frame.Pong, 0, new Uint8Array(0));
        this.#schedule();
        return;
      case Frame.Pong:
        return;
      case Frame.Leave:
        this.#peerLeaves(id);
        return;
      case Frame.Register:
      case Frame.Unregister:
      case Frame.Event:
        this.#owner.control(this, type, this.#decode(body));
        return;
      default:
        throw wireInvalid(`a frame of unknown type ${type}`);
    }
  }

  #message(id: number, body: Buffer): void {
    const message = fields(this.#decode(body));
    text(message['type'], 'message type');
    this.#streams.get(id)?.received(message as PlaneMessage);
  }

  #handshake(type: number, body: Buffer): void {
    if (type === Frame.Refuse) {
      const error = errorFrom(this.#decode(body));
      this.log.warn('request-plane peer refused the connection', { peer: this.address, ...error });
      this.destroy({ ...error, code: error.code === 'PLANE_FRAME_INVALID' ? 'PLANE_UNREACHABLE' : error.code });
      return;
    }
    if (type !== (this.#isDialer ? Frame.Welcome : Frame.Hello)) throw wireInvalid(`a frame of type ${type} before the handshake`);
    const hello = fields(this.#decode(body));
    this.protocol = this.#agree(hello);
    if (!this.#isDialer && !isSameSecret(text(hello['token'] ?? '', 'token'), this.#options.token)) {
      throw new ArmatureError('PLANE_AUTH_FAILED', 'the token of the other end is wrong', { hint: 'configure the same requests.config.token everywhere' });
    }
    this.node = text(hello['node'], 'node');
    if (!this.#isDialer) {
      this.address = text(hello['address'], 'address') || this.address;
      this.#hello(Frame.Welcome);
    }
    this.#becomeReady();
  }

  /** The newest version that both ends speak. Throws `PLANE_PROTOCOL_MISMATCH`. */
  #agree(hello: Fields): number {
    const { oldest, newest } = this.#options.protocols ?? PROTOCOLS;
    const from = hello['protocol'];
    const to = typeof hello['newest'] === 'number' ? hello['newest'] : from;
    if (typeof from === 'number' && typeof to === 'number' && from <= newest && to >= oldest) return Math.min(newest, to);
    const theirs = from === to ? String(from).slice(0, 20) : `${String(from).slice(0, 20)} to ${String(to).slice(0, 20)}`;
    throw new ArmatureError('PLANE_PROTOCOL_MISMATCH', `the other end speaks request-plane protocol ${theirs}, this end ${oldest} to ${newest}`, {
      hint: 'run versions of armature on both ends that are at most one release apart',
    });
  }

  #becomeReady(): void {
    this.#state = 'ready';
    this.#reader.limitBytes = this.#options.maxFrameBytes;
    this.#restartTimer();
    this.#owner.ready(this);
    if (this.#out.bytes > 0) this.#schedule();
  }

  /** What it has not taken can safely begin elsewhere; the rest goes on until the connection ends. */
  #peerLeaves(lastTaken: number): void {
    this.#owner.leaving(this);
    const error: ErrorData = { code: 'PLANE_UNREACHABLE', message: `${this.address} takes no more streams`, hint: 'send the request elsewhere', retryable: true };
    const ours = this.#isDialer ? 1 : 0;
    for (const stream of [...this.#streams.values()]) {
      // Ids wrap around: later is what is less than half the circle ahead.
      if (stream.id % 2 === ours && ((stream.id - lastTaken) | 0) > 0) stream.lost(error);
    }
  }

  #accept(id: number, open: Fields): void {
    if (this.#isLeaving) return;
    // Ids of the dialler are odd, those of the other end even.
    if (id === 0 || (id % 2 === 1) === this.#isDialer || this.#streams.has(id)) throw wireInvalid(`an open of stream ${id}`);
    this.#lastTaken = id;
    const { deadlineMs, traceparent } = open;
    const message = fields(open['message']);
    text(message['type'], 'message type');
    if (typeof deadlineMs !== 'number' || !(deadlineMs >= 0)) throw wireInvalid('an open without a deadline');
    const name = text(open['name'], 'endpoint name');
    const method = text(open['method'], 'method');
    const stream = new TcpStream(this, id, method, undefined);
    this.#streams.set(id, stream);
    stream.startDeadline(deadlineMs);
    try {
      stream.attach(this.#owner.accept(name, { method, message: message as PlaneMessage, deadlineMs, ...(typeof traceparent === 'string' ? { traceparent } : {}) }, stream));
    } catch (error) {
      // A refusal is an ArmatureError; anything else is a bug of the handler and needs its stack.
      if (!ArmatureError.is(error)) this.log.error('stream handler threw', { endpoint: name, method, error: error instanceof Error ? error.stack : String(error) });
      stream.abort(ArmatureError.from(error, 'PLANE_HANDLER_FAILED').toData());
    }
  }

  #decode(body: Buffer): PlainData {
    return this.#options.codec.decode(body);
  }

  #restartTimer(): void {
    if (this.#timer !== undefined) this.clock.clearTimer(this.#timer);
    this.#timer = this.clock.setTimer(this.#options.pingIntervalMs, () => {
      this.#timer = undefined;
      const silentMs = this.clock.nowMs() - this.#heardAtMs;
      if (silentMs >= this.#options.pingDeadlineMs) {
        this.destroy({ code: 'PLANE_DISCONNECTED', message: `${this.address} has been silent for ${Math.round(silentMs)} ms`, retryable: true });
        return;
      }
      this.#out.append(Frame.Ping, 0, new Uint8Array(0));
      this.#schedule();
      this.#restartTimer();
    });
  }

  #fail(failure: ErrorData): void {
    this.#failure ??= { hint: 'send the request elsewhere', ...failure };
  }

  #closed(): void {
    const wasReady = this.#state === 'ready';
    this.#state = 'closed';
    if (this.#timer !== undefined) this.clock.clearTimer(this.#timer);
    this.#timer = undefined;
    const code = wasReady ? 'PLANE_DISCONNECTED' : 'PLANE_UNREACHABLE';
    const failure = this.#failure ?? { code, message: `the connection to ${this.address} was lost`, hint: 'send the request elsewhere', retryable: true };
    for (const stream of [...this.#streams.values()]) stream.lost(failure);
    this.#owner.closed(this);
  }
}

function isSameSecret(found: string, expected: string): boolean {
  const digest = (secret: string): Buffer => createHash('sha256').update(secret).digest();
  return timingSafeEqual(digest(found), digest(expected));
}

/** An error of the peer, with only the known fields. */
function errorFrom(value: PlainData): ErrorData {
  const { code, message, hint, retryable } = fields(value);
  return {
    code: text(code, 'error code'),
    message: text(message, 'error message'),
    ...(typeof hint === 'string' ? { hint } : {}),
    ...(retryable === true ? { retryable: true } : {}),
  };
}
