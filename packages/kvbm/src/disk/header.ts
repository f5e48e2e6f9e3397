import { createHash } from 'node:crypto';
import { xxh3 } from '@armature/tokens';
import { FORMAT_VERSION, PAGE_BYTES, RECORD_BYTES } from './format.ts';
import type { RecordSeed } from './format.ts';

/** First page of the index file. */
export interface StoreHeader {
  readonly blockBytes: number;
  /** Checksums are over runs of so many bytes of a block, by this version of the algorithm; 0: there are none. */
  readonly pieceBytes: number;
  readonly checksumVersion: number;
  /** Distance of blocks in a slab: `blockBytes` rounded up to 4,096. */
  readonly slotBytes: number;
  readonly slots: number;
  readonly slotsPerSlab: number;
  /** How often the store was opened for writing. */
  readonly generation: number;
  readonly createdWallMs: number;
  readonly model: string;
  readonly layout: string;
}

export type HeaderFinding =
  | { readonly type: 'current'; readonly header: StoreHeader }
  /** Written by a later version: not to be touched. */
  | { readonly type: 'newer'; readonly version: number }
  | { readonly type: 'older'; readonly version: number }
  /** Empty, no header, or one that fails its check. */
  | { readonly type: 'none' | 'corrupt' };

const MAGIC = 'ARMKVIDX';
const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder();

/** Bytes that every version begins with: magic, version, header length, check of these 16. So a flipped bit is never taken for a newer version. */
const PREAMBLE_BYTES = 16;
const At = { Version: 8, HeaderBytes: 12, PreambleCheck: 16, RecordBytes: 24, BlockBytes: 32, SlotBytes: 40, Slots: 48, SlotsPerSlab: 52, Generation: 56, CreatedWallMs: 64, Digests: 72, Model: 136, Layout: 136 + 1026, PieceBytes: 2192, ChecksumVersion: 2200, Check: PAGE_BYTES - 8 } as const;
const MAX_TEXT_BYTES = 1024;
const DIGEST_BYTES = 32;

/** Seed of the checks of all records in a store of this layout. */
export function recordSeed(layoutFingerprint: string): RecordSeed {
  const digest = digestOf(layoutFingerprint);
  return { lo: digest.readInt32LE(0), hi: digest.readInt32LE(4) };
}

export function encodeHeader(header: StoreHeader): Uint8Array {
  const bytes = new Uint8Array(PAGE_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(textEncoder.encode(MAGIC), 0);
  view.setUint32(At.Version, FORMAT_VERSION, true);
  view.setUint32(At.HeaderBytes, PAGE_BYTES, true);
  setCheck(view, At.PreambleCheck, bytes.subarray(0, PREAMBLE_BYTES));
  view.setUint32(At.RecordBytes, RECORD_BYTES, true);
  view.setBigUint64(At.BlockBytes, BigInt(header.blockBytes), true);
  view.setBigUint64(At.PieceBytes, BigInt(header.pieceBytes), true);
  view.setUint32(At.ChecksumVersion, header.checksumVersion, true);
  view.setBigUint64(At.SlotBytes, BigInt(header.slotBytes), true);
  view.setUint32(At.Slots, header.slots, true);
  view.setUint32(At.SlotsPerSlab, header.slotsPerSlab, true);
  view.setUint32(At.Generation, header.generation, true);
  view.setFloat64(At.CreatedWallMs, header.createdWallMs, true);
  bytes.set(digestOf(header.model), At.Digests);
  bytes.set(digestOf(header.layout), At.Digests + DIGEST_BYTES);
  putText(bytes, view, At.Model, header.model);
  putText(bytes, view, At.Layout, header.layout);
  setCheck(view, At.Check, bytes.subarray(0, At.Check));
  return bytes;
}

/** Never throws, whatever the bytes are. */
export function decodeHeader(bytes: Uint8Array): HeaderFinding {
  if (bytes.length < PAGE_BYTES) return { type: bytes.length === 0 ? 'none' : 'corrupt' };
  const view = new DataView(bytes.buffer, bytes.byteOffset, PAGE_BYTES);
  if (textDecoder.decode(bytes.subarray(0, 8)) !== MAGIC) return { type: bytes.every((byte) => byte === 0) ? 'none' : 'corrupt' };
  if (!hasCheck(view, At.PreambleCheck, bytes.subarray(0, PREAMBLE_BYTES))) return { type: 'corrupt' };
  const version = view.getUint32(At.Version, true);
  if (version !== FORMAT_VERSION) return { type: version > FORMAT_VERSION ? 'newer' : 'older', version };
  if (!hasCheck(view, At.Check, bytes.subarray(0, At.Check))) return { type: 'corrupt' };
  return {
    type: 'current',
    header: {
      blockBytes: Number(view.getBigUint64(At.BlockBytes, true)),
      pieceBytes: Number(view.getBigUint64(At.PieceBytes, true)),
      checksumVersion: view.getUint32(At.ChecksumVersion, true),
      slotBytes: Number(view.getBigUint64(At.SlotBytes, true)),
      slots: view.getUint32(At.Slots, true),
      slotsPerSlab: view.getUint32(At.SlotsPerSlab, true),
      generation: view.getUint32(At.Generation, true),
      createdWallMs: view.getFloat64(At.CreatedWallMs, true),
      model: getText(bytes, view, At.Model),
      layout: getText(bytes, view, At.Layout),
    },
  };
}

/** By digest: long fingerprints are cut in the header's text. */
export function isSameStore(page: Uint8Array, model: string, layout: string): boolean {
  const digests = Buffer.from(page.buffer, page.byteOffset + At.Digests, 2 * DIGEST_BYTES);
  return digests.equals(Buffer.concat([digestOf(model), digestOf(layout)]));
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

function putText(bytes: Uint8Array, view: DataView, at: number, text: string): void {
  const encoded = textEncoder.encode(text).subarray(0, MAX_TEXT_BYTES);
  view.setUint16(at, encoded.length, true);
  bytes.set(encoded, at + 2);
}

function getText(bytes: Uint8Array, view: DataView, at: number): string {
  return textDecoder.decode(bytes.subarray(at + 2, at + 2 + Math.min(view.getUint16(at, true), MAX_TEXT_BYTES)));
}

function setCheck(view: DataView, at: number, bytes: Uint8Array): void {
  const { lo, hi } = xxh3(bytes);
  view.setInt32(at, lo, true);
  view.setInt32(at + 4, hi, true);
}

function hasCheck(view: DataView, at: number, bytes: Uint8Array): boolean {
  const { lo, hi } = xxh3(bytes);
  return view.getInt32(at, true) === (lo | 0) && view.getInt32(at + 4, true) === (hi | 0);
}
