// @hot
import { hashMemory } from './wasm.ts';
import { completeBlocks } from './block-hashes.ts';
import type { BlockHashing } from './block-hashes.ts';

/**
 * The hash chain of one sequence, extended as tokens arrive (decode). Grows by doubling; one WebAssembly call per completed
 * block for single tokens, one per `appendAll`.
 */
export class SequenceHasher {
  readonly blockSize: number;
  readonly #saltLo: number;
  readonly #saltHi: number;
  readonly #pending: Int32Array;
  #pendingTokens: number;
  #blocks: number;
  #blockHashes: Int32Array;
  #sequenceHashes: Int32Array;

  constructor(hashing: BlockHashing) {
    completeBlocks(0, hashing.blockSize);
    this.blockSize = hashing.blockSize;
    this.#saltLo = hashing.salt.lo;
    this.#saltHi = hashing.salt.hi;
    this.#pending = new Int32Array(hashing.blockSize);
    this.#pendingTokens = 0;
    this.#blocks = 0;
    this.#blockHashes = new Int32Array(16);
    this.#sequenceHashes = new Int32Array(16);
  }

  /** Complete blocks. */
  get blocks(): number {
    return this.#blocks;
  }

  /** Tokens appended so far. */
  get tokens(): number {
    return this.#blocks * this.blockSize + this.#pendingTokens;
  }

  /** Two words per complete block; a view that later appends may replace. */
  get blockHashes(): Int32Array {
    return this.#blockHashes.subarray(0, this.#blocks * 2);
  }

  /** Two words per complete block; a view that later appends may replace. */
  get sequenceHashes(): Int32Array {
    return this.#sequenceHashes.subarray(0, this.#blocks * 2);
  }

  /** Low word of the sequence hash of block `index`. */
  sequenceLo(index: number): number {
    return this.#sequenceHashes[index * 2];
  }

  sequenceHi(index: number): number {
    return this.#sequenceHashes[index * 2 + 1];
  }

  blockLo(index: number): number {
    return this.#blockHashes[index * 2];
  }

  blockHi(index: number): number {
    return this.#blockHashes[index * 2 + 1];
  }

  /** True when this token completed a block. */
  append(token: number): boolean {
    this.#pending[this.#pendingTokens++] = token;
    if (this.#pendingTokens < this.blockSize) return false;
    this.#pendingTokens = 0;
    this.#extend(this.#pending, 0, 1);
    return true;
  }

  /** Appends `tokens[start .. end)`; returns the number of blocks completed. */
  appendAll(tokens: Int32Array, start: number, end: number): number {
    const before = this.#blocks;
    let at = start;
    while (at < end && this.#pendingTokens > 0) this.append(tokens[at++]);
    const whole = Math.floor((end - at) / this.blockSize);
    if (whole > 0) {
      this.#extend(tokens, at, whole);
      at += whole * this.blockSize;
    }
    for (; at < end; at++) this.#pending[this.#pendingTokens++] = tokens[at]; // fewer than a block
    return this.#blocks - before;
  }

  /** Forgets everything: the object can serve another sequence with the same block size and salt. */
  reset(): void {
    this.#pendingTokens = 0;
    this.#blocks = 0;
  }

  #extend(tokens: Int32Array, start: number, blocks: number): void {
    const used = blocks * this.blockSize;
    const tokenBytes = (used * 4 + 15) & ~15;
    hashMemory.reserve(tokenBytes + blocks * 16 + 8);
    const { base, words } = hashMemory;
    words.set(start === 0 && used === tokens.length ? tokens : tokens.subarray(start, start + used), base >> 2);
    const blockAt = base + tokenBytes;
    const sequenceAt = blockAt + blocks * 8 + 8; // the word pair before it is the hash to continue
    const count = this.#blocks;
    const continues = count > 0 ? 1 : 0;
    if (continues === 1) {
      words[(sequenceAt >> 2) - 2] = this.#sequenceHashes[count * 2 - 2];
      words[(sequenceAt >> 2) - 1] = this.#sequenceHashes[count * 2 - 1];
    }
    hashMemory.exports.chain(base, this.blockSize * 4, blocks, blockAt, sequenceAt, continues, this.#saltLo, this.#saltHi);
    if ((count + blocks) * 2 > this.#sequenceHashes.length) this.#grow((count + blocks) * 2);
    for (let i = 0, b = blockAt >> 2, s = sequenceAt >> 2, o = count * 2; i < blocks * 2; i++) {
      this.#blockHashes[o + i] = words[b + i];
      this.#sequenceHashes[o + i] = words[s + i];
    }
    this.#blocks = count + blocks;
  }

  #grow(need: number): void {
    const capacity = Math.max(need, this.#sequenceHashes.length * 2);
    const blockHashes = new Int32Array(capacity);
    blockHashes.set(this.#blockHashes);
    this.#blockHashes = blockHashes;
    const grown = new Int32Array(capacity);
    grown.set(this.#sequenceHashes);
    this.#sequenceHashes = grown;
  }
}
