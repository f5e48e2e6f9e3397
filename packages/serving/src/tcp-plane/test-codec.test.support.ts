import { deserialize, serialize } from 'node:v8';
import { ArmatureError } from '@armature/contracts';
import type { PlainData } from '@armature/contracts';

/** Stands in for the msgpack codec of core, which plug-ins may not import; e2e runs the real one. */
export function encode(value: PlainData): Uint8Array {
  return serialize(value);
}

export function decode(bytes: Uint8Array): PlainData {
  try {
    const value = deserialize(Uint8Array.from(bytes)) as PlainData;
    return value;
  } catch (error) {
    throw new ArmatureError('CODEC_INVALID', 'not a plane message', { cause: error });
  }
}
