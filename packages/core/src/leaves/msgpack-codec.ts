import { ArmatureError } from '@armature/contracts';
import type { Codec, PlainData } from '@armature/contracts';
import { Packr } from 'msgpackr';
import { findInvalid } from './msgpack-check.ts';

/**
 * Plain data ⇄ MessagePack; typed arrays are extension 0x74 (type byte, then little-endian elements).
 * Every message is checked against its own length before anything is allocated, so that hostile bytes end as `CODEC_INVALID`.
 * What is decoded owns its memory: no view into the received bytes.
 */
export class MsgpackCodec implements Codec {
  readonly #packr = new Packr({ moreTypes: true, useRecords: false, copyBuffers: true });

  encode(value: PlainData): Uint8Array {
    const problem = findForeign(value, 0);
    if (problem !== undefined) {
      throw new ArmatureError('CODEC_NOT_PLAIN', `a ${problem} cannot cross a plane`, {
        hint: 'send numbers, strings, booleans, bigints up to 64 bits, typed arrays, arrays and plain objects',
      });
    }
    return this.#packr.encode(value);
  }

  decode(bytes: Uint8Array): PlainData {
    const problem = findInvalid(bytes);
    if (problem !== undefined) throw invalid(problem, bytes);
    try {
      return this.#packr.decode(bytes) as PlainData;
    } catch (error) {
      throw invalid(error instanceof Error ? error.message : String(error), bytes, error);
    }
  }
}

function invalid(problem: string, bytes: Uint8Array, cause?: unknown): ArmatureError {
  return new ArmatureError('CODEC_INVALID', `${bytes.length} bytes are not a plane message: ${problem}`, {
    hint: 'the sender speaks another protocol, or another version of it',
    ...(cause === undefined ? {} : { cause }),
  });
}

const MAX_DEPTH = 64;
const MIN_INT64 = -(2n ** 63n);
const MAX_UINT64 = 2n ** 64n;
const COLUMNS: readonly unknown[] = [Uint8Array, Int32Array, Uint32Array, Float32Array, Float64Array, BigUint64Array, Buffer];

/** What in `value` is not plain data, or undefined. */
function findForeign(value: unknown, depth: number): string | undefined {
  switch (typeof value) {
    case 'undefined':
    case 'boolean':
    case 'number':
    case 'string':
      return undefined;
    case 'bigint':
      return value >= MIN_INT64 && value < MAX_UINT64 ? undefined : 'bigint of more than 64 bits';
    case 'object':
      break;
    default:
      return typeof value;
  }
  if (value === null) return undefined;
  if (depth >= MAX_DEPTH) return `value nested deeper than ${MAX_DEPTH} levels`;
  return Array.isArray(value) ? findForeignItem(value, depth) : findForeignField(value as object, depth);
}

function findForeignItem(list: readonly unknown[], depth: number): string | undefined {
  for (let i = 0; i < list.length; i++) {
    const problem = findForeign(list[i], depth + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function findForeignField(object: object, depth: number): string | undefined {
  const prototype = Object.getPrototypeOf(object) as object | null;
  if (prototype !== Object.prototype && prototype !== null) {
    const made = object.constructor;
    return COLUMNS.includes(made) ? undefined : (made?.name ?? 'object with a prototype');
  }
  for (const key in object as Record<string, unknown>) {
    if (key === '__proto__') return 'key "__proto__"';
    const problem = findForeign((object as Record<string, unknown>)[key], depth + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}
