import { ArmatureError } from '@armature/contracts';
import type { DescriptorColumns } from '@armature/contracts';
import { allocateDescriptors } from '../descriptors.ts';

// One frame: u32 magic, u8 type, 3 zero bytes, u32 request, i32 value, u32 body length, u32 zero; then the body. Little endian.
export const HEADER_BYTES = 24;
const MAGIC = 0x3154_5841; // "AXT1"
export const WIRE_VERSION = 1;

export const FrameType = {
  /** s→c, 16 random bytes. */
  Challenge: 1,
  Hello: 2,
  Welcome: 3,
  /** c→s, body: descriptor table of the owner's memory. Answered with Data frames, then End. */
  Read: 4,
  /** Payload of a request, in list order. */
  Data: 5,
  /** s→c, value: terminal TransferStatus. */
  End: 6,
  /** c→s, body: descriptor table. Followed by Data frames, then Commit. */
  Write: 7,
  /** c→s, all data sent; value 1: the body is a notification. Answered with End. */
  Commit: 8,
  /** c→s. A running request is answered with End(Canceled). */
  Cancel: 9,
  /** c→s, body: payload. */
  Notify: 10,
  /** Body: error code. The sender closes after it. */
  Error: 11,
} as const;

/** Largest payload of one Data frame. */
export const CHUNK_BYTES = 1 << 20;
/** Largest descriptor table: 262,144 rows. */
export const MAX_TABLE_BYTES = 4 << 20;
export const MAX_NOTIFICATION_BYTES = 1 << 20;
export const MAX_HANDSHAKE_BYTES = 4096;
export const ROW_BYTES = 16;

export function header(type: number, request: number, value: number, bodyBytes: number): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES);
  writeHeader(bytes, { at: 0, type, id: request, value, bodyBytes });
  return bytes;
}

/** A header at `at` of `target`. */
export function writeHeader(target: Buffer, { at, type, id, value, bodyBytes }: { at: number; type: number; id: number; value: number; bodyBytes: number }): void {
  target.writeUInt32LE(MAGIC, at);
  target.writeUInt32LE(type, at + 4);
  target.writeUInt32LE(id, at + 8);
  target.writeInt32LE(value, at + 12);
  target.writeUInt32LE(bodyBytes, at + 16);
  target.writeUInt32LE(0, at + 20);
}

/** Rows of 16 bytes: u32 segment, u32 length, u64 offset. */
export function encodeTable(columns: DescriptorColumns): Buffer {
  const bytes = Buffer.allocUnsafe(columns.count * ROW_BYTES);
  for (let i = 0, at = 0; i < columns.count; i++, at += ROW_BYTES) {
    const offset = columns.offsets[i]!;
    bytes.writeUInt32LE(columns.segments[i]!, at);
    bytes.writeUInt32LE(columns.lengths[i]!, at + 4);
    bytes.writeUInt32LE(offset >>> 0, at + 8);
    bytes.writeUInt32LE(Math.floor(offset / 0x1_0000_0000), at + 12);
  }
  return bytes;
}

/** Throws `TRANSFER_FRAME_INVALID` when the table is torn or a number is out of range. */
export function decodeTable(bytes: Buffer): DescriptorColumns {
  if (bytes.length % ROW_BYTES !== 0) throw frameInvalid(`descriptor table of ${bytes.length} bytes`);
  const columns = allocateDescriptors(bytes.length / ROW_BYTES);
  for (let i = 0, at = 0; i < columns.count; i++, at += ROW_BYTES) {
    const segment = bytes.readUInt32LE(at);
    const length = bytes.readUInt32LE(at + 4);
    const high = bytes.readUInt32LE(at + 12);
    if (segment > 0x7fff_ffff || length > 0x7fff_ffff || high > 0x1f_ffff) throw frameInvalid(`descriptor row ${i} out of range`);
    columns.segments[i] = segment;
    columns.lengths[i] = length;
    columns.offsets[i] = bytes.readUInt32LE(at + 8) + high * 0x1_0000_0000;
  }
  return columns;
}

export function frameInvalid(found: string): ArmatureError {
  return new ArmatureError('TRANSFER_FRAME_INVALID', `transfer peer sent ${found}`, { hint: 'check that both ends run the same version and that nothing else connects to this port' });
}

/** Receives what a FrameReader finds. May throw ArmatureError: the connection is then closed with its code. */
export interface FrameHandler {
  /** Longest body this side accepts for a type now; -1: the type is not allowed. */
  limit(type: number): number;
  /** A whole frame other than Data. The body is a view, valid until return. */
  frame(type: number, request: number, value: number, body: Buffer): void;
  dataBegin(request: number, length: number): void;
  /** Payload of the current Data frame that arrived in shared memory; copy it. */
  data(bytes: Buffer): void;
}

const EMPTY = Buffer.alloc(0);

/** Cuts a byte stream into frames. Allocates at most one body of the type's limit. */
export class FrameReader {
  readonly #handler: FrameHandler;
  readonly #head = Buffer.alloc(HEADER_BYTES);
  #headBytes = 0;
  #type = 0;
  #request = 0;
  #value = 0;
  #body: Buffer = EMPTY;
  #bodyBytes = 0;
  #dataLeft = 0;
  /** Payload handed to `data`; only grows. */
  payloadBytes = 0;

  constructor(handler: FrameHandler) {
    this.#handler = handler;
  }

  /** Payload bytes of the current Data frame still to come. */
  get dataLeft(): number {
    return this.#dataLeft;
  }

  /** `bytes` of the current Data frame went straight to their place. */
  landed(bytes: number): void {
    this.#dataLeft -= bytes;
  }

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#dataLeft > 0) {
        const take = Math.min(this.#dataLeft, chunk.length - at);
        this.#dataLeft -= take;
        this.payloadBytes += take;
        this.#handler.data(chunk.subarray(at, at + take));
        at += take;
      } else if (this.#headBytes < HEADER_BYTES) at = this.#pushHead(chunk, at);
      else at = this.#pushBody(chunk, at);
    }
  }

  #pushHead(chunk: Buffer, from: number): number {
    const take = Math.min(HEADER_BYTES - this.#headBytes, chunk.length - from);
    chunk.copy(this.#head, this.#headBytes, from, from + take);
    this.#headBytes += take;
    if (this.#headBytes < HEADER_BYTES) return from + take;
    this.#begin();
    return from + take;
  }

  #begin(): void {
    const head = this.#head;
    const length = head.readUInt32LE(16);
    this.#type = head[4]!;
    this.#request = head.readUInt32LE(8);
    this.#value = head.readInt32LE(12);
    if (head.readUInt32LE(0) !== MAGIC || head[5] !== 0 || head.readUInt16LE(6) !== 0 || head.readUInt32LE(20) !== 0) throw frameInvalid('no frame header');
    const limit = this.#handler.limit(this.#type);
    if (limit < 0) throw frameInvalid(`a frame of type ${this.#type}, which is not allowed now`);
    if (length > limit) throw frameInvalid(`a frame of type ${this.#type} with ${length} bytes, limit ${limit}`);
    if (this.#type === FrameType.Data) {
      this.#headBytes = 0;
      this.#dataLeft = length;
      this.#handler.dataBegin(this.#request, length);
    } else if (length === 0) this.#emit(EMPTY);
    else {
      this.#body = Buffer.allocUnsafe(length);
      this.#bodyBytes = 0;
    }
  }

  #pushBody(chunk: Buffer, from: number): number {
    const take = Math.min(this.#body.length - this.#bodyBytes, chunk.length - from);
    chunk.copy(this.#body, this.#bodyBytes, from, from + take);
    this.#bodyBytes += take;
    if (this.#bodyBytes === this.#body.length) {
      const body = this.#body;
      this.#body = EMPTY;
      this.#emit(body);
    }
    return from + take;
  }

  #emit(body: Buffer): void {
    this.#headBytes = 0;
    this.#handler.frame(this.#type, this.#request, this.#value, body);
  }
}
