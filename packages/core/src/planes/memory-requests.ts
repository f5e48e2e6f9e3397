import { ArmatureError } from '@armature/contracts';
import type { ErrorData, PlaneMessage, PlaneStream, RequestPlane, ServedEndpoint, StreamHandler, StreamOpen, StreamSink, Timer } from '@armature/contracts';
import type { MemoryPlaneOptions } from './memory-discovery.ts';
import { SerialQueue } from './serial-queue.ts';

export interface MemoryRequestOptions extends MemoryPlaneOptions {
  /** Undelivered messages of one direction of a stream, above which `send` says false. */
  readonly highWaterMessages: number;
  /** Above it the stream fails with `PLANE_STREAM_OVERFLOW`. */
  readonly maxBufferedMessages: number;
}

const SCHEME = 'memory:';
/** Deliveries per turn, before sockets and timers get theirs. */
const MAX_DELIVERIES = 10_000;
/** setTimeout's own limit; a longer budget needs no timer. */
const MAX_TIMER_MS = 2_147_483_647;

interface Endpoint {
  readonly name: string;
  readonly handler: StreamHandler;
  readonly streams: Set<Duplex>;
  isServing: boolean;
}

/**
 * Request streams inside one process. A message is delivered in the microtasks of the turn it was sent in, never inside `send` or
 * `open`, as over a network; all deliveries of the plane are in the order of the calls. A message belongs to the receiver once sent.
 */
export class MemoryRequestPlane implements RequestPlane {
  readonly supports = { processes: false } as const;
  readonly options: MemoryRequestOptions;
  readonly queue: SerialQueue;
  readonly #endpoints = new Map<string, Endpoint>();
  #isScheduled = false;
  #isClosed = false;

  constructor(options: MemoryRequestOptions) {
    this.options = options;
    this.queue = new SerialQueue((error) => options.log.error('stream callback threw', { error: String(error) }));
  }

  /** Streams that are open now. */
  get openStreams(): number {
    let count = 0;
    for (const endpoint of this.#endpoints.values()) count += endpoint.streams.size;
    return count;
  }

  async serve(name: string, handler: StreamHandler): Promise<ServedEndpoint> {
    if (this.#isClosed) throw new ArmatureError('PLANE_CLOSED', `"${name}" was served after the request plane was closed`, { hint: 'serve before close' });
    if (this.#endpoints.has(name)) {
      throw new ArmatureError('PLANE_ENDPOINT_TAKEN', `the endpoint "${name}" is served already`, { hint: 'give this endpoint another name' });
    }
    const endpoint: Endpoint = { name, handler, streams: new Set(), isServing: true };
    this.#endpoints.set(name, endpoint);
    return { address: `${SCHEME}${name}`, close: async () => this.#closeEndpoint(endpoint) };
  }

  open(address: string, open: StreamOpen, sink: StreamSink): PlaneStream {
    const endpoint = address.startsWith(SCHEME) && !this.#isClosed ? this.#endpoints.get(address.slice(SCHEME.length)) : undefined;
    const stream = new Duplex(this, sink, endpoint);
    if (endpoint === undefined) {
      stream.end({ code: 'PLANE_UNREACHABLE', message: `nothing is served at ${address}`, hint: 'the worker has gone, or belongs to another process', retryable: true });
      return stream.caller;
    }
    endpoint.streams.add(stream);
    stream.begin(open, endpoint.handler);
    return stream.caller;
  }

  close(): void {
    if (this.#isClosed) return;
    for (const endpoint of this.#endpoints.values()) this.#closeEndpoint(endpoint);
    this.#isClosed = true;
    this.queue.drain();
  }

  #closeEndpoint(endpoint: Endpoint): void {
    endpoint.isServing = false;
    if (this.#endpoints.get(endpoint.name) === endpoint) this.#endpoints.delete(endpoint.name);
    for (const stream of [...endpoint.streams]) {
      stream.end({ code: 'PLANE_DISCONNECTED', message: `the endpoint "${endpoint.name}" was closed`, hint: 'send the request elsewhere', retryable: true });
    }
  }

  /** Sees that the queue is drained in this turn. */
  schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(this.#drain);
  }

  readonly #drain = (): void => {
    this.#isScheduled = false;
    this.queue.drain(MAX_DELIVERIES);
    if (this.queue.length === 0) return;
    this.#isScheduled = true;
    this.options.clock.defer(this.#drain);
  };
}

/** Both ends of one stream. */
class Duplex {
  readonly caller: PlaneStream;
  readonly #server: PlaneStream;
  readonly #plane: MemoryRequestPlane;
  readonly #endpoint: Endpoint | undefined;
  readonly #callerSink: StreamSink;
  #serverSink: StreamSink | undefined = undefined;
  #timer: Timer | undefined = undefined;
  #isEnded = false;
  /** Undelivered messages towards [caller, server]. */
  readonly #buffered = [0, 0];

  constructor(plane: MemoryRequestPlane, sink: StreamSink, endpoint: Endpoint | undefined) {
    this.#plane = plane;
    this.#endpoint = endpoint;
    this.#callerSink = sink;
    this.caller = { send: (message) => this.#send(message, 1), close: (error) => this.end(error) };
    this.#server = { send: (message) => this.#send(message, 0), close: (error) => this.end(error) };
  }

  begin(open: StreamOpen, handler: StreamHandler): void {
    const { clock } = this.#plane.options;
    const deadlineMs = open.deadlineMs;
    const endsAtMs = clock.nowMs() + deadlineMs;
    if (deadlineMs <= MAX_TIMER_MS) this.#timer = clock.setTimer(deadlineMs, () => this.#expire(open));
    const packed = this.#pack(open.message);
    this.#plane.queue.push(() => {
      if (this.#endpoint?.isServing !== true) return;
      const leftMs = deadlineMs <= MAX_TIMER_MS ? Math.max(0, endsAtMs - clock.nowMs()) : deadlineMs;
      this.#accept({ ...open, message: this.#unpack(packed), deadlineMs: leftMs }, handler);
    });
    this.#plane.schedule();
  }

  #accept(open: StreamOpen, handler: StreamHandler): void {
    try {
      this.#serverSink = handler(open, this.#server);
    } catch (error) {
      this.end(ArmatureError.from(error, 'PLANE_HANDLER_FAILED').toData());
    }
  }

  #expire(open: StreamOpen): void {
    this.#timer = undefined;
    this.end({ code: 'PLANE_DEADLINE_EXCEEDED', message: `${open.method} used up its ${Math.round(open.deadlineMs)} ms`, hint: 'raise the deadline, or find out what was slow' });
  }

  #send(message: PlaneMessage, towards: 0 | 1): boolean {
    if (this.#isEnded) return false;
    const { highWaterMessages, maxBufferedMessages } = this.#plane.options;
    const waiting = this.#buffered[towards] + 1;
    if (waiting > maxBufferedMessages) {
      this.end({ code: 'PLANE_STREAM_OVERFLOW', message: `more than ${maxBufferedMessages} messages of one stream wait for their receiver`, hint: 'heed the false that send returns' });
      return false;
    }
    this.#buffered[towards] = waiting;
    const packed = this.#pack(message);
    this.#plane.queue.push(() => this.#deliver(packed, towards));
    this.#plane.schedule();
    return waiting < highWaterMessages;
  }

  #deliver(packed: PlaneMessage | Uint8Array, towards: 0 | 1): void {
    this.#buffered[towards]--;
    const sink = towards === 0 ? this.#callerSink : this.#serverSink;
    if (sink === undefined) return;
    try {
      sink.message(this.#unpack(packed));
    } catch (error) {
      this.end(ArmatureError.from(error, 'PLANE_HANDLER_FAILED').toData());
    }
  }

  /** Messages sent before are delivered first; both sides then get `closed`, once. */
  end(error: ErrorData | undefined): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#endpoint?.streams.delete(this);
    if (this.#timer !== undefined) this.#plane.options.clock.clearTimer(this.#timer);
    const data = error === undefined ? undefined : ArmatureError.fromData(error).toData();
    this.#plane.queue.push(() => this.#callerSink.closed(data));
    this.#plane.queue.push(() => this.#serverSink?.closed(data));
    this.#plane.schedule();
  }

  #pack(message: PlaneMessage): PlaneMessage | Uint8Array {
    return this.#plane.options.encode ? this.#plane.options.codec.encode(message) : message;
  }

  #unpack(packed: PlaneMessage | Uint8Array): PlaneMessage {
    return this.#plane.options.encode ? (this.#plane.options.codec.decode(packed as Uint8Array) as PlaneMessage) : (packed as PlaneMessage);
  }
}
