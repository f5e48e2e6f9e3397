import { ArmatureError } from '@armature/contracts';
import { MAX_METADATA_BYTES } from '../metadata.ts';

// One message: "AXM", u8 version, u8 type, 3 zero bytes, u32 body length; then the body. Little endian.
export const EXCHANGE_VERSION = 1;
const HEAD_BYTES = 12;
const MAGIC = [0x41, 0x58, 0x4d];

export const MessageType = {
  /** s→c, 16 random bytes. */
  Challenge: 1,
  /** c→s, name, incarnation, nonce, proof of the token. */
  Hello: 2,
  /** s→c, proof of the token. */
  Welcome: 3,
  /** c→s, body: JSON `{segments}` or nothing for whole metadata. Answered with Metadata. */
  Fetch: 4,
  /** s→c, body: agent metadata. */
  Metadata: 5,
  /** c→s, body: the sender's own metadata. Answered with Ack. */
  Push: 6,
  /** c→s, body: JSON `{segments}`, or nothing: the sender is gone. Answered with Ack. */
  Invalidate: 7,
  Ack: 8,
  /** Body: code, newline, message. The sender closes after it. */
  Error: 9,
} as const;

const SMALL = 4096;
const SELECTION_BYTES = 64 << 10;

/** Longest body by type; -1: not from that side, or not now. */
export function limitOf(type: number, from: 'client' | 'server', isAuthenticated: boolean): number {
  if (from === 'server') {
    if (type === MessageType.Error) return SMALL;
    if (!isAuthenticated) return type === MessageType.Challenge || type === MessageType.Welcome ? SMALL : -1;
    return type === MessageType.Metadata ? MAX_METADATA_BYTES : type === MessageType.Ack ? 0 : -1;
  }
  if (!isAuthenticated) return type === MessageType.Hello ? SMALL : -1;
  if (type === MessageType.Push) return MAX_METADATA_BYTES;
  return type === MessageType.Fetch || type === MessageType.Invalidate ? SELECTION_BYTES : -1;
}

export function message(type: number, body: Uint8Array = new Uint8Array(0)): Buffer {
  const bytes = Buffer.alloc(HEAD_BYTES + body.length);
  MAGIC.forEach((byte, i) => (bytes[i] = byte));
  bytes[3] = EXCHANGE_VERSION;
  bytes[4] = type;
  bytes.writeUInt32LE(body.length, 8);
  bytes.set(body, HEAD_BYTES);
  return bytes;
}

export function exchangeInvalid(found: string): ArmatureError {
  return new ArmatureError('TRANSFER_EXCHANGE_INVALID', `metadata exchange peer sent ${found}`, { hint: 'check that the port is that of a MetadataListener' });
}

/** Cuts a byte stream into messages. Keeps at most one body of its type's limit. `push` throws ArmatureError only; the stream is then over. */
export class MessageReader {
  readonly #limit: (type: number) => number;
  readonly #received: (type: number, body: Buffer) => void;
  readonly #head = Buffer.alloc(HEAD_BYTES);
  #headBytes = 0;
  #body: Buffer | undefined = undefined;
  #bodyBytes = 0;

  constructor(limit: (type: number) => number, received: (type: number, body: Buffer) => void) {
    this.#limit = limit;
    this.#received = received;
  }

  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length || this.#isWhole(); ) {
      if (this.#isWhole()) this.#emit();
      else if (this.#body === undefined) at += this.#takeHead(chunk, at);
      else {
        const take = Math.min(this.#body.length - this.#bodyBytes, chunk.length - at);
        chunk.copy(this.#body, this.#bodyBytes, at, at + take);
        this.#bodyBytes += take;
        at += take;
      }
    }
  }

  #isWhole(): boolean {
    return this.#body !== undefined && this.#bodyBytes === this.#body.length;
  }

  #takeHead(chunk: Buffer, from: number): number {
    const take = Math.min(HEAD_BYTES - this.#headBytes, chunk.length - from);
    chunk.copy(this.#head, this.#headBytes, from, from + take);
    this.#headBytes += take;
    if (this.#headBytes < HEAD_BYTES) return take;
    const head = this.#head;
    if (!MAGIC.every((byte, i) => head[i] === byte) || head[5] !== 0 || head.readUInt16LE(6) !== 0) throw exchangeInvalid('no message header');
    if (head[3] !== EXCHANGE_VERSION) {
      throw new ArmatureError('TRANSFER_EXCHANGE_VERSION', `the other side speaks metadata exchange version ${head[3]}, this one version ${EXCHANGE_VERSION}`, {
        hint: 'run the same version of @armature/nixel on both sides',
        details: { found: head[3], supported: EXCHANGE_VERSION },
      });
    }
    const length = head.readUInt32LE(8);
    const limit = this.#limit(head[4]!);
    if (limit < 0) throw exchangeInvalid(`a message of type ${head[4]}, which is not allowed now`);
    if (length > limit) throw exchangeInvalid(`a message of type ${head[4]} with ${length} bytes, limit ${limit}`);
    this.#body = Buffer.allocUnsafe(length);
    this.#bodyBytes = 0;
    return take;
  }

  #emit(): void {
    const body = this.#body!;
    this.#body = undefined;
    this.#headBytes = 0;
    this.#received(this.#head[4]!, body);
  }
}

/** Segment ids, or undefined for all. Throws `TRANSFER_EXCHANGE_INVALID`. */
export function decodeSelection(body: Buffer): number[] | undefined {
  if (body.length === 0) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch {
    throw exchangeInvalid('a selection that is not JSON');
  }
  const segments = (value as { segments?: unknown } | null)?.segments;
  if (!Array.isArray(segments) || !segments.every((id) => Number.isInteger(id) && id >= 0 && id <= 0x7fff_ffff)) throw exchangeInvalid('a selection without segment ids');
  return segments as number[];
}

export function encodeSelection(segments: readonly number[] | undefined): Buffer {
  return segments === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify({ segments }));
}

export function encodeError({ code, message: text }: ArmatureError): Buffer {
  return Buffer.from(`${code}\n${text}`.slice(0, 1024));
}

/** What the other side answered with, as an error of this side. */
export function decodeError(body: Buffer): ArmatureError {
  const [code = '', ...rest] = body.toString('utf8').split('\n');
  const isOurs = /^TRANSFER_[A-Z_]{1,40}$/.test(code);
  return new ArmatureError(isOurs ? code : 'TRANSFER_EXCHANGE_FAILED', `the metadata listener refused: ${rest.join(' ').slice(0, 512)}`, { hint: 'see the log of the other side' });
}
