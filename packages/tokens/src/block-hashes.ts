// @hot
import { ArmatureError } from '@armature/contracts';
import { affectedBlocks } from './multimodal.ts';
import type { MultimodalRange } from './multimodal.ts';
import { hashMemory } from './wasm.ts';
import type { SaltHash } from './salt.ts';

/** How tokens become blocks. */
export interface BlockHashing {
  /** Tokens per block, >= 1. */
  readonly blockSize: number;
  readonly salt: SaltHash;
}

/** Of a whole prompt. */
export interface PromptHashing extends BlockHashing {
  /** Objects among the tokens: their hashes count into the blocks they lie in. */
  readonly multimodal?: readonly MultimodalRange[];
}

/** Caller-owned columns, two words (lo, hi) per block. */
export interface HashColumns {
  /** Hash of the block's own tokens. */
  readonly blockHashes: Int32Array;
  /** Hash of the block and everything before it. */
  readonly sequenceHashes: Int32Array;
}

/** Number of complete blocks; throws `TOKENS_BLOCK_SIZE_INVALID` rather than hashing forever. */
export function completeBlocks(length: number, blockSize: number): number {
  if (!(blockSize >= 1) || blockSize !== Math.floor(blockSize)) {
    throw new ArmatureError('TOKENS_BLOCK_SIZE_INVALID', `block size is ${blockSize}`, { hint: 'use a whole number of tokens, 1 or more' });
  }
  return Math.floor(length / blockSize);
}

/**
 * Byte offset of the sequence hashes of `blocks` blocks, computed over `tokens[0 .. blocks * blockSize)`, in the WebAssembly
 * memory; the block hashes lie `blocks * 8` bytes before. Valid until the next call of this package.
 */
function compute(tokens: Int32Array, blocks: number, hashing: PromptHashing): number {
  const used = blocks * hashing.blockSize;
  const tokenBytes = (used * 4 + 15) & ~15;
  hashMemory.reserve(tokenBytes + blocks * 16);
  const base = hashMemory.base;
  hashMemory.words.set(used === tokens.length ? tokens : tokens.subarray(0, used), base >> 2);
  const sequences = base + tokenBytes + blocks * 8;
  if (hashing.multimodal !== undefined && hashing.multimodal.length > 0) {
    computeMultimodal(tokens, blocks, hashing, base + tokenBytes);
    return sequences;
  }
  hashMemory.exports.chain(base, hashing.blockSize * 4, blocks, base + tokenBytes, sequences, 0, hashing.salt.lo, hashing.salt.hi);
  return sequences;
}

/** As `compute` with the tokens copied in: stretches of plain blocks at once; an affected block alone, its objects' hashes behind its tokens. */
function computeMultimodal(tokens: Int32Array, blocks: number, hashing: PromptHashing, blockAt: number): void {
  const { blockSize, salt } = hashing;
  const affected = affectedBlocks(hashing.multimodal ?? [], blockSize, blocks);
  const most = affected.reduce((count, { hashes }) => Math.max(count, hashes.length), 0);
  const { base } = hashMemory;
  const scratch = blockAt + blocks * 16;
  hashMemory.reserve(scratch - base + blockSize * 4 + most * 8);
  const { words, exports } = hashMemory;
  const chain = (source: number, bytes: number, from: number, count: number): void => {
    const at = blockAt + from * 8;
    exports.chain(source, bytes, count, at, at + blocks * 8, from > 0 ? 1 : 0, salt.lo, salt.hi);
  };
  let from = 0;
  for (const { block, hashes } of affected) {
    if (block > from) chain(base + from * blockSize * 4, blockSize * 4, from, block - from);
    words.set(tokens.subarray(block * blockSize, (block + 1) * blockSize), scratch >> 2);
    hashes.forEach(({ lo, hi }, i) => {
      words[(scratch >> 2) + blockSize + i * 2] = lo;
      words[(scratch >> 2) + blockSize + i * 2 + 1] = hi;
    });
    chain(scratch, blockSize * 4 + hashes.length * 8, block, 1);
    from = block + 1;
  }
  if (from < blocks) chain(base + from * blockSize * 4, blockSize * 4, from, blocks - from);
}

/**
 * Block and sequence hashes of the complete blocks of `tokens[0 .. length)`, as Dynamo defines them:
 * block = XXH3_64(u32 LE tokens, seed = salt); sequence[0] = block[0]; sequence[i] = XXH3_64(sequence[i-1] ‖ block[i], seed 1337).
 * Returns the number of blocks written.
 */
export function hashBlocks(tokens: Int32Array, length: number, hashing: PromptHashing, out: HashColumns): number {
  const blocks = completeBlocks(length, hashing.blockSize);
  if (blocks === 0) return 0;
  const sequences = compute(tokens, blocks, hashing) >> 2;
  const words = hashMemory.words;
  out.blockHashes.set(words.subarray(sequences - blocks * 2, sequences));
  out.sequenceHashes.set(words.subarray(sequences, sequences + blocks * 2));
  return blocks;
}

/** As `hashBlocks`, sequence hashes only. Returns the number of blocks written to `out` (two words each). */
export function sequenceHashesInto(tokens: Int32Array, length: number, hashing: PromptHashing, out: Int32Array): number {
  const blocks = completeBlocks(length, hashing.blockSize);
  if (blocks === 0) return 0;
  const sequences = compute(tokens, blocks, hashing) >> 2;
  out.set(hashMemory.words.subarray(sequences, sequences + blocks * 2));
  return blocks;
}

/** Sequence hashes of the complete blocks of `tokens[0 .. length)` in a new array, two words per block. */
export function sequenceHashes(tokens: Int32Array, length: number, blockSize: number, salt: SaltHash): Int32Array {
  const blocks = completeBlocks(length, blockSize);
  if (blocks === 0) return new Int32Array(0);
  const sequences = compute(tokens, blocks, { blockSize, salt }) >> 2;
  return hashMemory.words.slice(sequences, sequences + blocks * 2);
}

/**
 * Sequence hashes of the complete blocks of `tokens[0 .. length)` that follow the block with sequence hash (`parentLo`, `parentHi`), into `out` (two words
 * each): what an engine's events bring, parent and tokens. Returns the number of blocks written.
 */
export function continueHashesInto(tokens: Int32Array, length: number, hashing: BlockHashing, parent: { readonly lo: number; readonly hi: number }, out: Int32Array): number {
  const blocks = completeBlocks(length, hashing.blockSize);
  if (blocks === 0) return 0;
  const used = blocks * hashing.blockSize;
  const tokenBytes = (used * 4 + 15) & ~15;
  hashMemory.reserve(tokenBytes + blocks * 16 + 8);
  const { base, words } = hashMemory;
  words.set(used === tokens.length ? tokens : tokens.subarray(0, used), base >> 2);
  const blockAt = base + tokenBytes;
  const sequenceAt = blockAt + blocks * 8 + 8; // the word pair before it is the hash to continue
  words[(sequenceAt >> 2) - 2] = parent.lo;
  words[(sequenceAt >> 2) - 1] = parent.hi;
  hashMemory.exports.chain(base, hashing.blockSize * 4, blocks, blockAt, sequenceAt, 1, hashing.salt.lo, hashing.salt.hi);
  out.set(words.subarray(sequenceAt >> 2, (sequenceAt >> 2) + blocks * 2));
  return blocks;
}
