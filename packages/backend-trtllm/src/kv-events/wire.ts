import { xxh3 } from '@armature/tokens';
import type { U64 } from '@armature/tokens';
import { objectOf } from '../lossless-json.ts';
import type { JsonValue } from '../lossless-json.ts';

/** One entry of the answer of `/kv_cache_events`. Keys that are not known here are left alone. */
export type WireEvent = {
  readonly eventId: number;
  /** Attention data-parallel rank; each counts its events by itself. */
  readonly rank: number;
  /** Attention window of the blocks, in tokens. A model with several has a set of blocks for each. */
  readonly window: number;
} & WireData;

export type WireData =
  | { readonly type: 'created'; readonly blocksPerLevel: readonly number[] }
  | { readonly type: 'stored'; readonly parent: U64 | undefined; readonly blocks: readonly WireBlock[] }
  | { readonly type: 'removed'; readonly hashes: readonly U64[] }
  /** The block moved from one level to the other. */
  | { readonly type: 'updated'; readonly hash: U64; readonly level: number }
  /** One that is not known here, or that changes nothing of interest. */
  | { readonly type: 'other'; readonly name: string };

export interface WireBlock {
  readonly hash: U64;
  readonly tokenIds: readonly number[];
  /** Its hash has more in it than tokens (images, prompt tables). */
  readonly isForeign: boolean;
  /** 0: GPU, 1: host. */
  readonly level: number;
}

type Fields = Readonly<Record<string, JsonValue>>;

/** Undefined: not an event at all. */
export function parseEvent(value: unknown): WireEvent | undefined {
  const fields = objectOf(value);
  const data = objectOf(fields?.['data']);
  const eventId = fields?.['event_id'];
  if (fields === undefined || data === undefined || typeof eventId !== 'number' || !Number.isSafeInteger(eventId)) return undefined;
  const what = parseData(data);
  return what === undefined ? undefined : { eventId, rank: numberOf(fields['attention_dp_rank'], 0), window: numberOf(fields['window_size'], 0), ...what };
}

function parseData(data: Fields): WireData | undefined {
  switch (data['type']) {
    case 'created':
      return { type: 'created', blocksPerLevel: listOf(data['num_blocks_per_cache_level']).map((count) => numberOf(count, 0)) };
    case 'stored':
      return storedOf(data);
    case 'removed': {
      const hashes = listOf(data['block_hashes']).map((hash) => hashOf(hash));
      return hashes.includes(undefined) ? undefined : { type: 'removed', hashes: hashes as U64[] };
    }
    case 'updated': {
      const hash = hashOf(data['block_hash']);
      const level = objectOf(data['cache_level'])?.['new_value'];
      if (hash === undefined) return undefined;
      return typeof level === 'number' ? { type: 'updated', hash, level } : { type: 'other', name: 'updated priority' };
    }
    default:
      return { type: 'other', name: String(data['type']) };
  }
}

function storedOf(data: Fields): WireData | undefined {
  const blocks: WireBlock[] = [];
  for (const value of listOf(data['blocks'])) {
    const fields = objectOf(value);
    const hash = hashOf(fields?.['block_hash']);
    if (fields === undefined || hash === undefined) return undefined;
    const tokenIds: number[] = [];
    let isForeign = false;
    for (const token of listOf(fields['tokens'])) {
      const { token_id: id, token_extra_id: extra } = objectOf(token) ?? {};
      if (typeof id !== 'number') return undefined;
      tokenIds.push(id);
      isForeign ||= numberOf(extra, 0) !== 0 || typeof extra === 'bigint';
    }
    blocks.push({ hash, tokenIds, isForeign, level: numberOf(fields['cache_level'], 0) });
  }
  const parent = data['parent_hash'];
  if (parent === null || parent === undefined) return { type: 'stored', parent: undefined, blocks };
  const hash = hashOf(parent);
  return hash === undefined ? undefined : { type: 'stored', parent: hash, blocks };
}

/** A number of 64 bits, signed or not, or a text of hexadecimal digits: of 64 bits, or of a longer digest, which is folded. */
export function hashOf(value: JsonValue | undefined): U64 | undefined {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value >= 0 ? { lo: value | 0, hi: (value / 0x1_0000_0000) | 0 } : wordsOf(BigInt(value));
  if (typeof value === 'bigint') return wordsOf(value);
  if (typeof value !== 'string' || !/^(0x)?[\da-f]+$/i.test(value)) return undefined;
  const digits = value.replace(/^0x/i, '').toLowerCase();
  return digits.length <= 16 ? wordsOf(BigInt(`0x${digits}`)) : xxh3(Buffer.from(digits));
}

function wordsOf(value: bigint): U64 {
  return { lo: Number(BigInt.asIntN(32, value)), hi: Number(BigInt.asIntN(32, value >> 32n)) };
}

function listOf(value: JsonValue | undefined): readonly JsonValue[] {
  return Array.isArray(value) ? (value as readonly JsonValue[]) : [];
}

function numberOf(value: JsonValue | undefined, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise;
}
