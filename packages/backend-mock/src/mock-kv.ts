// @hot
import type { KvArena } from '@armature/contracts';
import type { SamplingSetup, StepBatch } from '@armature/engine-core';

const START = 0x5bd1e995;

/** Where a sequence's KV is wrong. */
export interface Corruption {
  readonly position: number;
  readonly block: number;
}

/**
 * "KV" whose every byte can be checked: the KV of a token is a 32-bit value mixed from the value before it and the token. What a sequence
 * must find in its blocks is kept apart, per slot, so that a lost, stale, foreign or torn block is noticed when it is read.
 */
export class MockKv {
  readonly #values: Int32Array;
  readonly #blockSize: number;
  /** Per slot: the values its tokens lead to, from the first token on, and how many are known. */
  readonly #expected: Int32Array[];
  readonly #known: Int32Array;
  /** Per slot: the value before the first token. */
  readonly #starts: Int32Array;
  /** Per slot: its whole context has been checked once. */
  readonly #isChecked: Uint8Array;

  constructor(totalBlocks: number, blockSize: number, slots: number) {
    this.#values = new Int32Array(new SharedArrayBuffer(totalBlocks * blockSize * 4));
    this.#blockSize = blockSize;
    this.#expected = Array.from({ length: slots }, () => new Int32Array(0));
    this.#known = new Int32Array(slots);
    this.#starts = new Int32Array(slots);
    this.#isChecked = new Uint8Array(slots);
  }

  arena(layoutFingerprint: string): KvArena {
    const bytes = this.#blockSize * 4;
    return {
      segments: [{ buffer: this.#values.buffer as SharedArrayBuffer, byteOffset: 0, lengthBytes: this.#values.byteLength }],
      blockStrideBytes: bytes,
      pieces: 1,
      pieceBytes: bytes,
      pieceStrideBytes: bytes,
      layoutFingerprint,
    };
  }

  /** `seed`: of its adapter, 0 for the base model. Equal tokens under another one give other KV. */
  open(setup: SamplingSetup, seed: number): void {
    const { slot, promptTokenIds, outputTokenIds } = setup;
    this.#known[slot] = 0;
    this.#starts[slot] = START ^ seed;
    this.#isChecked[slot] = 0;
    const tokens = promptTokenIds.length + outputTokenIds.length;
    if (this.#expected[slot].length < tokens) this.#expected[slot] = new Int32Array(tokens + 64);
    for (let i = 0; i < promptTokenIds.length; i++) this.#expect(slot, promptTokenIds[i]);
    for (let i = 0; i < outputTokenIds.length; i++) this.#expect(slot, outputTokenIds[i]);
  }

  close(slot: number): void {
    if (this.#expected[slot].length > 65_536) this.#expected[slot] = new Int32Array(0);
  }

  /** The first wrong value of a sequence's context, or undefined. After the first time only the end of each block, unless `all`. */
  check(batch: StepBatch, row: number, all: boolean): Corruption | undefined {
    const slot = batch.slots[row];
    const context = batch.contextLengths[row];
    const expected = this.#expected[slot];
    const isFirst = this.#isChecked[slot] === 0;
    this.#isChecked[slot] = 1;
    const stride = isFirst || all ? 1 : this.#blockSize;
    for (let position = stride - 1; position < context; position += stride) {
      if (this.#values[this.#at(batch, row, position)] !== expected[position]) return this.#corruption(batch, row, position);
    }
    if (context > 0 && this.#values[this.#at(batch, row, context - 1)] !== expected[context - 1]) return this.#corruption(batch, row, context - 1);
    return undefined;
  }

  /** Computes `count` tokens of a row, from `batch.tokenIds[from]` on, into its blocks. Returns the last value. */
  compute(batch: StepBatch, row: number, from: number, count: number): number {
    const slot = batch.slots[row];
    const context = batch.contextLengths[row];
    for (let k = 0; k < count; k++) {
      const position = context + k;
      if (position >= this.#known[slot]) this.#expect(slot, batch.tokenIds[from + k]);
      this.#values[this.#at(batch, row, position)] = this.#expected[slot][position];
    }
    return this.#values[this.#at(batch, row, context + count - 1)];
  }

  #expect(slot: number, token: number): void {
    const known = this.#known[slot];
    let expected = this.#expected[slot];
    if (known === expected.length) {
      const grown = new Int32Array(Math.max(64, known * 2));
      grown.set(expected);
      this.#expected[slot] = expected = grown;
    }
    expected[known] = mix(known === 0 ? this.#starts[slot] : expected[known - 1], token);
    this.#known[slot] = known + 1;
  }

  #at(batch: StepBatch, row: number, position: number): number {
    const block = batch.blockTable[row * batch.maxBlocksPerSequence + Math.floor(position / this.#blockSize)];
    return block * this.#blockSize + (position % this.#blockSize);
  }

  #corruption(batch: StepBatch, row: number, position: number): Corruption {
    return { position, block: Math.floor(this.#at(batch, row, position) / this.#blockSize) };
  }
}

/** An arena whose blocks hold nothing: one byte each, so that they can still be moved. */
export function emptyArena(totalBlocks: number, layoutFingerprint: string): KvArena {
  const buffer = new SharedArrayBuffer(totalBlocks);
  return { segments: [{ buffer, byteOffset: 0, lengthBytes: totalBlocks }], blockStrideBytes: 1, pieces: 1, pieceBytes: 1, pieceStrideBytes: 1, layoutFingerprint };
}

/** A well mixed 32-bit value from another one and a number. */
export function mix(value: number, token: number): number {
  let x = Math.imul(value ^ (value >>> 15), 0x2c1b3c6d) ^ Math.imul(token + 1, 0x297a2d39);
  x = Math.imul(x ^ (x >>> 12), 0x297a2d39);
  return x ^ (x >>> 15);
}
