import { ArmatureError } from '@armature/contracts';
import type { Codec, PlainData } from '@armature/contracts';

/** What lies in etcd under an entry's key. */
export interface Envelope {
  /** `PROCESS/NUMBER`: one registration, across re-registrations of it. */
  readonly id: string;
  readonly value: PlainData;
}

/** Throws `DISCOVERY_VALUE_TOO_LARGE`. */
export function pack(codec: Codec, key: string, envelope: Envelope, maxValueBytes: number): Buffer {
  const bytes = codec.encode({ id: envelope.id, value: envelope.value });
  if (bytes.length > maxValueBytes) {
    throw new ArmatureError('DISCOVERY_VALUE_TOO_LARGE', `the value of "${key}" has ${bytes.length} bytes, at most ${maxValueBytes} are allowed`, {
      hint: 'register less; etcd itself takes 1.5 MiB per request (--max-request-bytes), discovery.config.maxValueBytes is the bound here',
    });
  }
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Undefined: not one of ours. Each call makes a value of its own. */
export function unpack(codec: Codec, bytes: Uint8Array): Envelope | undefined {
  try {
    const envelope = codec.decode(bytes) as Partial<Envelope> | null | undefined;
    return typeof envelope?.id === 'string' ? { id: envelope.id, value: envelope.value } : undefined;
  } catch {
    return undefined;
  }
}
