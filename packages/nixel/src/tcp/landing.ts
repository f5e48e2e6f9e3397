import { FrameReader, HEADER_BYTES } from './frames.ts';
import type { FrameHandler } from './frames.ts';
import type { ListCursor } from './cursor.ts';
import { VectorTable } from './vector-io.ts';
import type { VectorIo } from './vector-io.ts';

/** What a link tells its landing besides the frames. */
export interface LandingHandler extends FrameHandler {
  /** Where the payload of the current Data frame goes; undefined: it is dropped. */
  target(): ListCursor | undefined;
}

/** Read by libuv when no long payload is expected: a whole small answer, header to End, in one call. */
const SCRATCH_BYTES = 48 << 10;
/** Read by libuv inside a long payload: only a sign that there is more, the rest is read straight to its place. */
const SIGN_BYTES = 512;
/** A shorter rest of a frame is copied from the scratch: cheaper than another call. */
const DIRECT_BYTES = 8 << 10;
/** Copied by the kernel in one turn of the event loop, per link: a tenth to a quarter of a millisecond. */
export const TURN_BYTES = 512 << 10;

/**
 * Receives frames. Payload is read by `readv` straight into the target segments, from within libuv's read callback; no memory of a
 * segment is ever handed to libuv, so that a cancel or a deregistration takes effect at once (Node chooses the buffer of the next read
 * right after the last one). Without vector calls, and over TLS, payload is copied from the scratch.
 */
export class Landing {
  readonly reader: FrameReader;
  readonly #handler: LandingHandler;
  readonly #io: VectorIo | undefined;
  readonly #scratch: Buffer;
  readonly #sign: Buffer;
  readonly #tail: Buffer;
  readonly #table: VectorTable;
  #buffer: Buffer;
  #turnBytes = 0;
  #isTurnOpen = false;
  /** Payload bytes that went straight to their place. */
  directBytes = 0;

  constructor(handler: LandingHandler, io: VectorIo | undefined) {
    this.#handler = handler;
    this.#io = io;
    this.reader = new FrameReader(handler);
    this.#scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
    this.#sign = this.#scratch.subarray(0, SIGN_BYTES);
    this.#tail = Buffer.allocUnsafeSlow(HEADER_BYTES);
    this.#table = new VectorTable();
    this.#buffer = this.#scratch;
  }

  /** Payload bytes that were copied. */
  get copiedBytes(): number {
    return this.reader.payloadBytes;
  }

  /** For the socket's `onread`. */
  readonly nextBuffer = (): Buffer => {
    const isLong = this.#io !== undefined && this.reader.dataLeft >= SCRATCH_BYTES && this.#handler.target() !== undefined;
    return (this.#buffer = isLong ? this.#sign : this.#scratch);
  };

  /** `length` bytes lie in the buffer given last. False: this turn has copied enough, stop reading until the next. May throw as the handler does. */
  received(length: number, fd: number | undefined): boolean {
    this.push(this.#buffer.subarray(0, length));
    if (fd !== undefined && this.#io !== undefined) this.#drain(fd, this.#io);
    return this.#turnBytes < TURN_BYTES;
  }

  /** Bytes from elsewhere: the path without vector calls. */
  push(bytes: Buffer): void {
    this.#count(bytes.length);
    this.reader.push(bytes);
  }

  #drain(fd: number, io: VectorIo): void {
    const table = this.#table;
    while (this.#turnBytes < TURN_BYTES) {
      const cursor = this.#handler.target();
      const left = this.reader.dataLeft;
      if (cursor === undefined || left < DIRECT_BYTES) return;
      table.clear();
      // A segment that is gone is met again by the copying path, which reports it.
      if (!cursor.vectors(table, Math.min(left, TURN_BYTES), io) || table.bytes === 0) return;
      const asked = table.bytes;
      if (asked === left) table.add(io.addressOf(this.#tail), HEADER_BYTES);
      const got = io.readv(fd, table.words, table.count);
      if (got <= 0) return;
      const payload = Math.min(got, asked);
      this.reader.landed(payload);
      cursor.skip(payload);
      this.directBytes += payload;
      this.#count(got);
      if (got > payload) this.reader.push(this.#tail.subarray(0, got - payload));
      if (got < table.bytes) return;
    }
  }

  #count(bytes: number): void {
    this.#turnBytes += bytes;
    if (this.#isTurnOpen) return;
    this.#isTurnOpen = true;
    setImmediate(this.#endTurn);
  }

  readonly #endTurn = (): void => {
    this.#isTurnOpen = false;
    this.#turnBytes = 0;
  };
}
