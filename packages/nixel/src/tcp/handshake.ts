import { createHmac, timingSafeEqual } from 'node:crypto';
import { frameInvalid, WIRE_VERSION } from './frames.ts';

/** What an initiator says of itself; `proof` shows knowledge of the shared token for this connection's nonce. */
export interface Hello {
  readonly nonce: Buffer;
  readonly proof: Buffer;
  readonly name: string;
  readonly incarnation: string;
  /** Life of the peer it means to reach. */
  readonly peerIncarnation: string;
}

export const NONCE_BYTES = 16;
const PROOF_BYTES = 32;

export function helloProof(token: string, challenge: Buffer, hello: Omit<Hello, 'proof'>): Buffer {
  return mac(token, 'hello', [challenge, hello.nonce, Buffer.from(hello.name), Buffer.from(hello.incarnation), Buffer.from(hello.peerIncarnation)]);
}

export function welcomeProof(token: string, challenge: Buffer, nonce: Buffer): Buffer {
  return mac(token, 'welcome', [challenge, nonce]);
}

/** Constant time. */
export function proves(found: Buffer, expected: Buffer): boolean {
  return found.length === expected.length && timingSafeEqual(found, expected);
}

function mac(token: string, role: string, parts: readonly Buffer[]): Buffer {
  const hmac = createHmac('sha256', token).update(`armature-transfer-${WIRE_VERSION}-${role}`);
  for (const part of parts) {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(part.length);
    hmac.update(length).update(part);
  }
  return hmac.digest();
}

export function encodeHello(hello: Hello): Buffer {
  const strings = [hello.name, hello.incarnation, hello.peerIncarnation].map((text) => {
    const bytes = Buffer.from(text);
    const length = Buffer.alloc(2);
    length.writeUInt16LE(bytes.length);
    return Buffer.concat([length, bytes]);
  });
  return Buffer.concat([hello.nonce, hello.proof, ...strings]);
}

/** Throws `TRANSFER_FRAME_INVALID`. */
export function decodeHello(body: Buffer): Hello {
  let at = NONCE_BYTES + PROOF_BYTES;
  const text = (): string => {
    if (at + 2 > body.length) throw frameInvalid('a torn hello');
    const end = at + 2 + body.readUInt16LE(at);
    if (end > body.length) throw frameInvalid('a torn hello');
    const value = body.toString('utf8', at + 2, end);
    at = end;
    return value;
  };
  const name = text();
  const incarnation = text();
  const peerIncarnation = text();
  if (at !== body.length || name === '') throw frameInvalid('a hello with rubbish');
  return { nonce: Buffer.from(body.subarray(0, NONCE_BYTES)), proof: Buffer.from(body.subarray(NONCE_BYTES, NONCE_BYTES + PROOF_BYTES)), name, incarnation, peerIncarnation };
}
