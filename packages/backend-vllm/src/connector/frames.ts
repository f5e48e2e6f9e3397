import { ArmatureError } from '@armature/contracts';

/**
 * Frames of the connector's socket: u32 length of what follows, u32 length of the head, the head (JSON), the tail (columns of i32). Little-endian.
 * See docs/reference/vllm-connector.md.
 */
export interface Frame {
  readonly head: Readonly<Record<string, unknown>>;
  readonly tail: Int32Array;
}

/** A prompt of four million tokens. */
export const MAX_FRAME_BYTES = 16 << 20;
const NO_TAIL = new Int32Array(0);

export function encodeFrame(head: Readonly<Record<string, unknown>>, tail: Int32Array = NO_TAIL): Buffer {
  const text = Buffer.from(JSON.stringify(head));
  const frame = Buffer.allocUnsafe(8 + text.length + tail.byteLength);
  frame.writeUInt32LE(4 + text.length + tail.byteLength, 0);
  frame.writeUInt32LE(text.length, 4);
  text.copy(frame, 8);
  frame.set(new Uint8Array(tail.buffer, tail.byteOffset, tail.byteLength), 8 + text.length);
  return frame;
}

/** Cuts a byte stream into frames. */
export class FrameReader {
  #bytes: Buffer = Buffer.alloc(0);

  /** Calls `each` for every frame that is complete now. Throws `VLLM_CONNECTOR_FRAME_INVALID`; nothing can be read after that. */
  push(chunk: Buffer, each: (frame: Frame) => void): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    let at = 0;
    while (this.#bytes.length - at >= 4) {
      const length = this.#bytes.readUInt32LE(at);
      if (length < 4 || length > MAX_FRAME_BYTES) throw invalid(`a frame of ${length} bytes`);
      if (this.#bytes.length - at - 4 < length) break;
      each(decode(this.#bytes.subarray(at + 4, at + 4 + length)));
      at += 4 + length;
    }
    this.#bytes = this.#bytes.subarray(at);
  }
}

function decode(body: Buffer): Frame {
  const headBytes = body.readUInt32LE(0);
  const tailBytes = body.length - 4 - headBytes;
  if (tailBytes < 0 || tailBytes % 4 !== 0) throw invalid(`a head of ${headBytes} bytes in a frame of ${body.length}`);
  const head = parse(body.toString('utf8', 4, 4 + headBytes));
  if (tailBytes === 0) return { head, tail: NO_TAIL };
  // Copied: aligned, and the chunk is free.
  const tail = new Int32Array(tailBytes / 4);
  new Uint8Array(tail.buffer).set(body.subarray(4 + headBytes));
  return { head, tail };
}

function parse(text: string): Frame['head'] {
  try {
    const head: unknown = JSON.parse(text);
    if (typeof head === 'object' && head !== null && !Array.isArray(head)) return head as Frame['head'];
  } catch {
    // said below
  }
  throw invalid('a head that is no JSON object');
}

export function invalid(found: string): ArmatureError {
  return new ArmatureError('VLLM_CONNECTOR_FRAME_INVALID', `vLLM's connector sent ${found}`, { hint: 'install the armature-vllm package of the same release as this backend in the environment of vLLM' });
}
