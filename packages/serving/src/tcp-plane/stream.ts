import { ArmatureError } from '@armature/contracts';
import type { Clock, ErrorData, Logger, PlaneMessage, PlaneStream, StreamSink, Timer } from '@armature/contracts';

/** What a stream needs of its connection. */
export interface StreamLink {
  readonly clock: Clock;
  readonly log: Logger;
  /** Per stream and direction: bytes not yet handed to the socket. */
  readonly highWaterBytes: number;
  readonly maxStreamBytes: number;
  /** Queues a message and adds its bytes to `stream.queuedBytes`. */
  sendMessage(stream: TcpStream, message: PlaneMessage): void;
  /** Queues the one close frame of this end. */
  sendClose(stream: TcpStream, error: ErrorData | undefined): void;
  /** Nothing of this stream is expected any more. */
  forget(stream: TcpStream): void;
}

/** setTimeout's own limit; a longer budget needs no timer. */
const MAX_TIMER_MS = 2_147_483_647;
/** How long a closing end waits for the close of the other: messages on their way are still delivered. */
const LINGER_MS = 1000;

/**
 * One end of a stream. Each end sends one close frame; `closed` reaches the sink once, when the close of the other end has come
 * (or its time is over, or the connection lost), after all its messages and never inside a call of the owner.
 */
export class TcpStream implements PlaneStream {
  readonly id: number;
  readonly method: string;
  queuedBytes = 0;
  readonly #link: StreamLink;
  #sink: StreamSink | undefined;
  #timer: Timer | undefined = undefined;
  #isClosing = false;
  #isEnded = false;
  #error: ErrorData | undefined = undefined;

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
    if (deadlineMs > MAX_TIMER_MS || this.#isClosing) return;
    this.#setTimer(Math.max(0, deadlineMs), () =>
      this.abort({ code: 'PLANE_DEADLINE_EXCEEDED', message: `${this.method} used up its ${Math.round(deadlineMs)} ms`, hint: 'raise the deadline, or find out what was slow' }),
    );
  }

  send(message: PlaneMessage): boolean {
    if (this.#isClosing) return false;
    this.#link.sendMessage(this, message);
    if (this.queuedBytes <= this.#link.maxStreamBytes) return this.queuedBytes <= this.#link.highWaterBytes;
    this.abort({ code: 'PLANE_STREAM_OVERFLOW', message: `more than ${this.#link.maxStreamBytes} bytes of one stream wait for the network`, hint: 'heed the false that send returns' });
    return false;
  }

  close(error?: ErrorData): void {
    if (this.#isClosing) return;
    this.#begin(error);
    this.#setTimer(LINGER_MS, () => this.#finish(this.#error, true));
  }

  /** Closes without waiting for the other end. */
  abort(error: ErrorData): void {
    if (this.#isClosing) return;
    this.#begin(error);
    this.#finish(this.#error, true);
  }

  /** The connection is gone. */
  lost(error: ErrorData): void {
    if (this.#isEnded) return;
    const data = this.#isClosing ? this.#error : error;
    this.#isClosing = true;
    this.#finish(data, true);
  }

  /** A message of the other end. */
  received(message: PlaneMessage): void {
    try {
      this.#sink?.message(message);
    } catch (error) {
      this.#link.log.error('stream callback threw', { method: this.method, error: error instanceof Error ? error.stack : String(error) });
      this.abort(ArmatureError.from(error, 'PLANE_HANDLER_FAILED').toData());
    }
  }

  receivedClose(error: ErrorData | undefined): void {
    if (this.#isClosing) this.#finish(this.#error, false);
    else {
      this.#begin(undefined);
      this.#finish(error, false);
    }
  }

  #begin(error: ErrorData | undefined): void {
    this.#isClosing = true;
    this.#error = error === undefined ? undefined : ArmatureError.fromData(error).toData();
    this.#clearTimer();
    this.#link.sendClose(this, this.#error);
  }

  #finish(error: ErrorData | undefined, isOwnCall: boolean): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#clearTimer();
    this.#link.forget(this);
    if (isOwnCall) this.#link.clock.defer(() => this.#tell(error));
    else this.#tell(error);
  }

  #tell(error: ErrorData | undefined): void {
    const sink = this.#sink;
    this.#sink = undefined;
    try {
      sink?.closed(error);
    } catch (thrown) {
      this.#link.log.error('stream callback threw', { method: this.method, error: String(thrown) });
    }
  }

  #setTimer(delayMs: number, callback: () => void): void {
    this.#clearTimer();
    this.#timer = this.#link.clock.setTimer(delayMs, () => {
      this.#timer = undefined;
      callback();
    });
  }

  #clearTimer(): void {
    if (this.#timer !== undefined) this.#link.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}
