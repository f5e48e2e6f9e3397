import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { hashToHex } from '@armature/tokens';

/** docs/kvbm-s3.md describes the format. Each block of an object is preceded by its record. */
export const RECORD_BYTES = 64;
const MAGIC = 0x42_56_4b_41; // "AKVB"
const VERSION = 1;
const CRC_AT = 60;
/** Of the metadata header: 2 KiB is what S3 takes, names included. */
export const MAX_BLOCKS_PER_OBJECT = 128;
export const CHAIN_HEADER = 'x-amz-meta-armature-chain';

/** Whose blocks these are: 16 bytes of a hash over both fingerprints. */
export function fingerprintBytes(model: string, layout: string): Uint8Array {
  return createHash('sha256').update(`${model}\0${layout}`).digest().subarray(0, 16);
}

/** Folder of one model and layout, with a slash at its end. Fingerprints that are no plain names are hashed. */
export function keyFolder(prefix: string, model: string, layout: string): string {
  const root = prefix.replace(/^\/+|\/+$/g, '');
  return `${root === '' ? '' : `${root}/`}${plainName(model)}/${plainName(layout)}/`;
}

function plainName(text: string): string {
  const isPlain = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(text) && !text.startsWith('sha-');
  return isPlain ? text : `sha-${createHash('sha256').update(text).digest('hex').slice(0, 32)}`;
}

/** An object is named by its first block. */
export function objectKey(folder: string, lo: number, hi: number): string {
  return folder + hashToHex(lo, hi);
}

export interface RecordFields {
  readonly blockBytes: number;
  readonly index: number;
  readonly count: number;
  readonly lo: number;
  readonly hi: number;
  readonly parentLo: number;
  readonly parentHi: number;
  readonly checksumLo: number;
  readonly checksumHi: number;
}

export function writeRecord(fields: RecordFields, fingerprint: Uint8Array): Buffer {
  const record = Buffer.alloc(RECORD_BYTES);
  record.writeUInt32LE(MAGIC, 0);
  record.writeUInt16LE(VERSION, 4);
  record.writeUInt16LE(RECORD_BYTES, 6);
  record.writeUInt32LE(fields.blockBytes, 8);
  record.writeUInt16LE(fields.index, 12);
  record.writeUInt16LE(fields.count, 14);
  record.writeInt32LE(fields.lo, 16);
  record.writeInt32LE(fields.hi, 20);
  record.writeInt32LE(fields.parentLo, 24);
  record.writeInt32LE(fields.parentHi, 28);
  record.writeInt32LE(fields.checksumLo, 32);
  record.writeInt32LE(fields.checksumHi, 36);
  record.set(fingerprint, 40);
  record.writeUInt32LE(crc32(record.subarray(0, CRC_AT)), CRC_AT);
  return record;
}

/** `damaged`: these are not the bytes that were written. `foreign`: a whole record, of something else. */
export type RecordVerdict = 'good' | 'damaged' | 'foreign';

/** Is `record` that of block (lo, hi) with these fingerprints and this size? */
export function checkRecord(record: Buffer, lo: number, hi: number, blockBytes: number, fingerprint: Uint8Array): RecordVerdict {
  if (record.readUInt32LE(CRC_AT) !== crc32(record.subarray(0, CRC_AT))) return 'damaged';
  const isOurs =
    record.readUInt32LE(0) === MAGIC &&
    record.readUInt16LE(4) === VERSION &&
    record.readUInt32LE(8) === blockBytes &&
    record.readInt32LE(16) === lo &&
    record.readInt32LE(20) === hi &&
    record.subarray(40, 56).equals(fingerprint);
  return isOurs ? 'good' : 'foreign';
}

/** The object's sequence hashes for its metadata: 8 bytes each, base64url. */
export function encodeChain(hashes: Int32Array): string {
  return Buffer.from(hashes.buffer, hashes.byteOffset, hashes.byteLength).toString('base64url');
}

/** Interleaved words; undefined when the header is missing, malformed, or does not fit the object's length. */
export function decodeChain(text: string | undefined, lengthBytes: number, blockBytes: number): Int32Array | undefined {
  if (text === undefined || !/^[\w-]+$/.test(text)) return undefined;
  const bytes = Buffer.from(text, 'base64url');
  const count = bytes.length / 8;
  if (!Number.isInteger(count) || count === 0 || count * (RECORD_BYTES + blockBytes) !== lengthBytes) return undefined;
  const words = new Int32Array(count * 2);
  for (let i = 0; i < words.length; i++) words[i] = bytes.readInt32LE(i * 4);
  return words;
}
