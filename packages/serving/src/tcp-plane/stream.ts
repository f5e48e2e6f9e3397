import { ArmatureError } from '@armature/contracts';
import type { Clock, ErrorData, Logger, PlaneMessage, PlaneStream, StreamSink, Timer } from '@armature/contracts';

/** What a stream needs of its connection. */
export interface StreamLink {
  readonly clock: Clock;
  readonly log: Logger;
  /** Per stream and direction: bytes not yet handed to the socket. */
  readonly highWaterBytes: number;
  readonly maxStreamBytes: number;
  /** Queues a message and adds its bytes to `stream.queuedBytes`. Throws ArmatureError when it cannot be encoded. */
  sendMessage(stream: TcpStream, message: PlaneMessage): void;
  /** The stream has ended here; `tell` also tells the peer. */
  ended(stream: TcpStream, error: ErrorData | undefined, tell: boolean): void;
}

/** setTimeout's own limit; a longer budget needs no timer. */
const MAX_TIMER_MS = 2_147_483_647;

/** One end of a stream. `closed` reaches its sink once: in order after received messages, never inside a call of the owner. */
export class TcpStream implements PlaneStream {
  readonly id: number;
  readonly method: string;
  queuedBytes = 0;
  #link: StreamLink;
  #sink: StreamSink | undefined;
  #timer: Timer | undefined = undefined;
  #isEnded = false;

  constructor(link: StreamLink, id: number, method: string, sink: StreamSink | undefined) {
    this.#link = link;
    this.id = id;
    this.method = method;
    this.#sink = sink;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** For a served stream, once its handler has answered. */
  attach(sink: StreamSink): void {
    this.#sink = sink;
  }

  startDeadline(deadlineMs: number): void {
    if (deadlineMs > MAX_TIMER_MS || this.#isEnded) return;
    this.#timer = this.#link.clock.setTimer(Math.max(0, deadlineMs), () => {
      this.#timer = undefined;
      this.close({ code: 'PLANE_DEADLINE_EXCEEDED', message: `${this.method} used up its ${Math.round(deadlineMs)} ms`, hint: 'raise the deadline, or find out what was slow' });
    });
  }

  send(message: PlaneMessage): boolean {
    if (this.#isEnded) return false;
    this.#link.sendMessage(this, message);
    if (this.queuedBytes <= this.#link.maxStreamBytes) return this.queuedBytes <= this.#link.highWaterBytes;
    this.close({ code: 'PLANE_STREAM_OVERFLOW', message: `more than ${this.#link.maxStreamBytes} bytes of one stream wait for the network`, hint: 'heed the false that send returns' });
    return false;
  }

  close(error?: ErrorData): void {
    this.end(error, true);
  }

  /** Ends from this side (`tell`), or because the connection is lost. */
  end(error: ErrorData | undefined, tell: boolean): void {
    if (this.#isEnded) return;
    const data = error === undefined ? undefined : ArmatureError.fromData(error).toData();
    this.#stop();
    this.#link.ended(this, data, tell);
    this.#link.clock.defer(() => this.#closed(data));
  }

  /** A message of the peer. */
  received(message: PlaneMessage): void {
    if (this.#isEnded || this.#sink === undefined) return;
    try {
      this.#sink.message(message);
    } catch (error) {
      this.close(ArmatureError.from(error, 'PLANE_HANDLER_FAILED').toData());
    }
  }

  /** The peer has ended the stream. */
  receivedClose(error: ErrorData | undefined): void {
    if (this.#isEnded) return;
    this.#stop();
    this.#link.ended(this, error, false);
    this.#closed(error);
  }

  #stop(): void {
    this.#isEnded = true;
    if (this.#timer !== undefined) this.#link.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  #closed(error: ErrorData | undefined): void {
    const sink = this.#sink;
    this.#sink = undefined;
    try {
      sink?.closed(error);
    } catch (thrown) {
      this.#link.log.error('stream callback threw', { method: this.method, error: String(thrown) });
    }
  }
}
