import { ArmatureError } from '@armature/contracts';
import { xxh3 } from './xxh3.ts';
import { hashFromHex } from './words.ts';
import type { U64 } from './words.ts';

/**
 * Prompt tokens that stand for a part of an image, audio clip or other object. An object of several stretches is several ranges
 * with one hash.
 */
export interface MultimodalRange {
  /** Identity of the object, see `multimodalHash`. */
  readonly hash: U64;
  /** First placeholder token, and the one behind the last. */
  readonly start: number;
  readonly end: number;
}

const DIGEST = /^[0-9a-f]{64}$/i;
const encoder = new TextEncoder();

/**
 * Hash of an object by its identifier, as Dynamo: of a digest of 64 hexadecimal digits the first 16, of any other text its XXH3_64.
 * Undefined for the empty text.
 */
export function multimodalHash(identifier: string): U64 | undefined {
  if (identifier === '') return undefined;
  return DIGEST.test(identifier) ? hashFromHex(identifier.slice(0, 16)) : xxh3(encoder.encode(identifier));
}

/** Hashes that count into one block. */
export interface AffectedBlock {
  readonly block: number;
  /** Ascending as unsigned 64-bit numbers, each once. */
  readonly hashes: readonly U64[];
}

/**
 * Blocks that at least one token of a range lies in, ascending, each with the distinct objects in it. Blocks before, between and
 * behind the objects keep the hash of their tokens alone; all sequence hashes from the first affected block on differ anyway.
 */
export function affectedBlocks(ranges: readonly MultimodalRange[], blockSize: number, blocks: number): AffectedBlock[] {
  const found = new Map<number, U64[]>();
  for (const { hash, start, end } of ranges) {
    if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0) {
      throw new ArmatureError('TOKENS_MULTIMODAL_RANGE_INVALID', `a multimodal object covers tokens ${start} to ${end}`, { hint: 'use whole numbers of tokens, start from 0 and end behind the last token' });
    }
    const last = start < end ? Math.min(blocks, Math.ceil(end / blockSize)) : 0;
    for (let block = Math.floor(start / blockSize); block < last; block++) {
      const hashes = found.get(block);
      if (hashes === undefined) found.set(block, [hash]);
      else if (!hashes.some((other) => compare(other, hash) === 0)) hashes.push(hash);
    }
  }
  return [...found].sort((a, b) => a[0] - b[0]).map(([block, hashes]) => ({ block, hashes: hashes.sort(compare) }));
}

function compare(a: U64, b: U64): number {
  return (a.hi >>> 0) - (b.hi >>> 0) || (a.lo >>> 0) - (b.lo >>> 0);
}
