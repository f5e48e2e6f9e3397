import { ArmatureError } from '@armature/contracts';
import type { PlaneMessage } from '@armature/contracts';

// The wire format is API: docs/reference/request-plane.md describes it for workers in other languages.

/** Spoken by both ends, or the connection is refused. */
export const WIRE_PROTOCOL = 2;
/** From this version on an end that leaves says which streams it has taken. */
export const LEAVE_PROTOCOL = 2;

export const Frame = {
  Hello: 1,
  Welcome: 2,
  Refuse: 3,
  Open: 4,
  Message: 5,
  Tokens: 6,
  Close: 7,
  Ping: 8,
  Pong: 9,
  Register: 10,
  Unregister: 11,
  Event: 12,
  Leave: 13,
} as const;

/** u32 length of what follows, u8 type, u32 stream. Little endian. */
export const HEADER_BYTES = 9;
/** Largest frame before the peer has shown its token. */
export const MAX_HELLO_BYTES = 16 << 10;

export function wireInvalid(found: string): ArmatureError {
  return new ArmatureError('PLANE_FRAME_INVALID', `request-plane peer sent ${found}`, { hint: 'check that both ends run the same version and that nothing else connects to this port' });
}

export type FrameListener = (type: number, stream: number, body: Buffer) => void;

/** Cuts a byte stream into frames. Allocates at most `limitBytes`, and only for a frame that spans reads. */
export class FrameReader {
  readonly #onFrame: FrameListener;
  readonly #head = Buffer.alloc(4);
  #headBytes = 0;
  #frame: Buffer | undefined = undefined;
  #frameBytes = 0;
  limitBytes: number;

  constructor(limitBytes: number, onFrame: FrameListener) {
    this.limitBytes = limitBytes;
    this.#onFrame = onFrame;
  }

  /** Throws `PLANE_FRAME_INVALID`; the reader is useless afterwards. Bodies are views, valid until the listener returns. */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#frame !== undefined) at = this.#fill(this.#frame, chunk, at);
      else if (this.#headBytes === 0 && chunk.length - at >= 4) at = this.#begin(chunk.readUInt32LE(at), chunk, at + 4);
      else {
        this.#head[this.#headBytes++] = chunk[at++]!;
        if (this.#headBytes < 4) continue;
        this.#headBytes = 0;
        at = this.#begin(this.#head.readUInt32LE(0), chunk, at);
      }
    }
  }

  #begin(length: number, chunk: Buffer, at: number): number {
    if (length < HEADER_BYTES - 4) throw wireInvalid(`a frame of ${length} bytes`);
    if (length > this.limitBytes) throw wireInvalid(`a frame of ${length} bytes, limit ${this.limitBytes}`);
    if (chunk.length - at >= length) {
      this.#emit(chunk.subarray(at, at + length));
      return at + length;
    }
    this.#frame = Buffer.allocUnsafe(length);
    this.#frameBytes = 0;
    return at;
  }

  #fill(frame: Buffer, chunk: Buffer, at: number): number {
    const take = Math.min(frame.length - this.#frameBytes, chunk.length - at);
    chunk.copy(frame, this.#frameBytes, at, at + take);
    this.#frameBytes += take;
    if (this.#frameBytes === frame.length) {
      this.#frame = undefined;
      this.#emit(frame);
    }
    return at + take;
  }

  #emit(frame: Buffer): void {
    this.#onFrame(frame[0]!, frame.readUInt32LE(1), frame.subarray(5));
  }
}

/** A `tokens` message with exactly the fields of a TokenBatch. Everything else goes through the codec. */
interface TokensMessage {
  readonly type: 'tokens';
  readonly count: number;
  readonly tokenIds: Int32Array;
  readonly choices: Uint8Array | undefined;
  readonly finish: Uint8Array;
  readonly logprobs: Float32Array | undefined;
  readonly topCount: number;
  readonly topTokenIds: Int32Array | undefined;
  readonly topLogprobs: Float32Array | undefined;
}

const FIELDS: ReadonlySet<string> = new Set(['type', 'count', 'tokenIds', 'choices', 'finish', 'logprobs', 'topCount', 'topTokenIds', 'topLogprobs']);
const HAS_CHOICES = 1;
const HAS_LOGPROBS = 2;
const HAS_TOP = 4;
/** u32 count, u8 flags, u8 topCount, u16 zero. */
const TOKENS_HEAD_BYTES = 8;

/** Whether a message fits the binary `tokens` frame without loss. */
export function isTokens(message: PlaneMessage): boolean {
  if (message.type !== 'tokens') return false;
  let fields = 0;
  for (const key in message) {
    if (!FIELDS.has(key)) return false;
    fields++;
  }
  return fields === FIELDS.size && hasTokenColumns(message as unknown as TokensMessage);
}

function hasTokenColumns(message: TokensMessage): boolean {
  const { count, tokenIds, finish, choices, logprobs, topCount } = message;
  if (!(tokenIds instanceof Int32Array) || tokenIds.length !== count || !(finish instanceof Uint8Array) || finish.length !== count) return false;
  if (choices !== undefined && (!(choices instanceof Uint8Array) || choices.length !== count)) return false;
  if (logprobs !== undefined && (!(logprobs instanceof Float32Array) || logprobs.length !== count)) return false;
  return Number.isInteger(topCount) && topCount >= 0 && topCount <= 255 && hasAlternatives(message);
}

function hasAlternatives({ count, topCount, topTokenIds, topLogprobs }: TokensMessage): boolean {
  if (topTokenIds === undefined || topLogprobs === undefined) return topTokenIds === topLogprobs;
  return topTokenIds instanceof Int32Array && topLogprobs instanceof Float32Array && topTokenIds.length === count * topCount && topLogprobs.length === count * topCount;
}

export function tokensBytes(message: PlaneMessage): number {
  const { count, choices, logprobs, topCount, topTokenIds } = message as unknown as TokensMessage;
  return TOKENS_HEAD_BYTES + count * (5 + (choices === undefined ? 0 : 1) + (logprobs === undefined ? 0 : 4) + (topTokenIds === undefined ? 0 : 8 * topCount));
}

/** Writes `tokensBytes(message)` bytes at `at`. `message` must satisfy `isTokens`. */
export function writeTokens(message: PlaneMessage, target: Buffer, at: number): void {
  const { count, tokenIds, choices, finish, logprobs, topCount, topTokenIds, topLogprobs } = message as unknown as TokensMessage;
  target.writeUInt32LE(count, at);
  target[at + 4] = (choices === undefined ? 0 : HAS_CHOICES) | (logprobs === undefined ? 0 : HAS_LOGPROBS) | (topTokenIds === undefined ? 0 : HAS_TOP);
  target[at + 5] = topCount;
  target[at + 6] = target[at + 7] = 0;
  at += TOKENS_HEAD_BYTES;
  for (let i = 0; i < count; i++, at += 4) target.writeInt32LE(tokenIds[i]!, at);
  if (logprobs !== undefined) for (let i = 0; i < count; i++, at += 4) target.writeFloatLE(logprobs[i]!, at);
  if (topTokenIds !== undefined && topLogprobs !== undefined) {
    for (let i = 0; i < topTokenIds.length; i++, at += 4) target.writeInt32LE(topTokenIds[i]!, at);
    for (let i = 0; i < topLogprobs.length; i++, at += 4) target.writeFloatLE(topLogprobs[i]!, at);
  }
  for (let i = 0; i < count; i++) target[at++] = finish[i]!;
  if (choices !== undefined) for (let i = 0; i < count; i++) target[at++] = choices[i]!;
}

/** Reads a `tokens` frame; its columns are the receiver's. Throws `PLANE_FRAME_INVALID`. */
export function readTokens(body: Buffer): PlaneMessage {
  if (body.length < TOKENS_HEAD_BYTES) throw wireInvalid('a torn tokens frame');
  const count = body.readUInt32LE(0);
  const flags = body[4]!;
  const topCount = body[5]!;
  const hasTop = (flags & HAS_TOP) !== 0;
  const rowBytes = 5 + (flags & HAS_CHOICES ? 1 : 0) + (flags & HAS_LOGPROBS ? 4 : 0) + (hasTop ? 8 * topCount : 0);
  if (flags > 7 || body.length !== TOKENS_HEAD_BYTES + count * rowBytes) throw wireInvalid('a tokens frame whose length does not fit its count');
  let at = TOKENS_HEAD_BYTES;
  const ints = (length: number): Int32Array => {
    const column = new Int32Array(length);
    for (let i = 0; i < length; i++, at += 4) column[i] = body.readInt32LE(at);
    return column;
  };
  const floats = (length: number): Float32Array => {
    const column = new Float32Array(length);
    for (let i = 0; i < length; i++, at += 4) column[i] = body.readFloatLE(at);
    return column;
  };
  const bytes = (length: number): Uint8Array => {
    const column = new Uint8Array(length);
    for (let i = 0; i < length; i++) column[i] = body[at++]!;
    return column;
  };
  const tokenIds = ints(count);
  const logprobs = flags & HAS_LOGPROBS ? floats(count) : undefined;
  const topTokenIds = hasTop ? ints(count * topCount) : undefined;
  const topLogprobs = hasTop ? floats(count * topCount) : undefined;
  const finish = bytes(count);
  const choices = flags & HAS_CHOICES ? bytes(count) : undefined;
  return { type: 'tokens', count, tokenIds, choices, finish, logprobs, topCount, topTokenIds, topLogprobs };
}
