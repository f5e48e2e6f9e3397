import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { ArmatureError } from '@armature/contracts';

export type TensorType = 'F32' | 'F16' | 'BF16';

/** Where one tensor lies; offsets are from the start of the file and checked against its size. */
export interface TensorPlace {
  readonly name: string;
  readonly path: string;
  readonly dtype: TensorType;
  readonly shape: readonly number[];
  readonly byteOffset: number;
  readonly lengthBytes: number;
}

const HEADER_LIMIT_BYTES = 100 * 1024 * 1024; // the format's own limit

function invalid(path: string, what: string): ArmatureError {
  return new ArmatureError('ENGINE_MODEL_FILE_INVALID', `${basename(path)}: ${what}`, { hint: 'the file is cut off or not safetensors: download it again', details: { path } });
}

/** Reads exactly `target.length` bytes. */
export function readFully(file: number, target: Uint8Array, position: number, path: string): void {
  let done = 0;
  while (done < target.length) {
    const count = readSync(file, target, done, target.length - done, position + done);
    if (count === 0) throw invalid(path, `ends at byte ${position + done}, ${target.length - done} bytes early`);
    done += count;
  }
}

function parseHeader(text: string, path: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // falls through
  }
  throw invalid(path, 'the header is not a JSON object');
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

const ELEMENT_BYTES: Readonly<Record<TensorType, number>> = { F32: 4, F16: 2, BF16: 2 };

/** The data part of a file. */
interface DataPart {
  readonly path: string;
  readonly start: number;
  readonly lengthBytes: number;
}

function place(name: string, entry: unknown, data: DataPart): TensorPlace {
  const { path } = data;
  const { dtype, shape, data_offsets: offsets } = (entry ?? {}) as { dtype?: unknown; shape?: unknown; data_offsets?: unknown };
  if (!Array.isArray(shape) || !shape.every(isCount) || !Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw invalid(path, `tensor ${name} has no valid shape and data_offsets`);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > data.lengthBytes) throw invalid(path, `tensor ${name} lies at bytes ${begin}..${end}, the file has ${data.lengthBytes} bytes of data`);
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
    throw new ArmatureError('ENGINE_MODEL_UNSUPPORTED', `tensor ${name} of ${basename(path)} has dtype ${String(dtype)}, the reference engine wants F32, F16 or BF16`, {
      hint: 'convert the weights, or use another engine',
      details: { tensor: name, dtype },
    });
  }
  const elements = shape.reduce<number>((product, size) => product * (size as number), 1);
  if (end - begin !== elements * ELEMENT_BYTES[dtype]) {
    throw invalid(path, `tensor ${name} of shape [${shape.join(', ')}] and dtype ${dtype} takes ${elements * ELEMENT_BYTES[dtype]} bytes, the header gives it ${end - begin}`);
  }
  return { name, path, dtype, shape: shape as number[], byteOffset: data.start + begin, lengthBytes: end - begin };
}

/** Tensors of one file. Header length and all offsets are checked against the file's size before anything is read there. */
export function readHeader(path: string): TensorPlace[] {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    throw new ArmatureError('ENGINE_MODEL_FILE_MISSING', `weights file ${basename(path)} cannot be opened`, { hint: 'download the model again', details: { path }, cause: error });
  }
  try {
    const size = fstatSync(file).size;
    if (size < 8) throw invalid(path, `has ${size} bytes, a header length takes 8`);
    const prefix = new Uint8Array(8);
    readFully(file, prefix, 0, path);
    const view = new DataView(prefix.buffer);
    const headerBytes = view.getUint32(0, true) + view.getUint32(4, true) * 0x1_0000_0000;
    if (headerBytes > HEADER_LIMIT_BYTES || headerBytes > size - 8) throw invalid(path, `claims a header of ${headerBytes} bytes in a file of ${size}`);
    const header = new Uint8Array(headerBytes);
    readFully(file, header, 8, path);
    const entries = Object.entries(parseHeader(new TextDecoder().decode(header), path));
    const data = { path, start: 8 + headerBytes, lengthBytes: size - 8 - headerBytes };
    return entries.filter(([name]) => name !== '__metadata__').map(([name, entry]) => place(name, entry, data));
  } finally {
    closeSync(file);
  }
}

const f32Bits = new Uint32Array(1);
const f32Value = new Float32Array(f32Bits.buffer);

/** Exact value of a half-precision number. */
export function halfToFloat(bits: number): number {
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 0x3ff;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  f32Bits[0] = ((bits & 0x8000) << 16) | ((exponent + 112) << 23) | (fraction << 13);
  return f32Value[0]!;
}

let halfTable: Float32Array | undefined;

/** Little-endian tensor bytes as f32. `bytes.byteOffset` is a multiple of 4. */
export function toFloats(bytes: Uint8Array, dtype: TensorType): Float32Array {
  if (dtype === 'F32') return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  const out = new Float32Array(words.length);
  if (dtype === 'BF16') {
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < words.length; i++) bits[i] = words[i]! << 16;
    return out;
  }
  halfTable ??= Float32Array.from({ length: 65536 }, (_, value) => halfToFloat(value));
  for (let i = 0; i < words.length; i++) out[i] = halfTable[words[i]!]!;
  return out;
}
