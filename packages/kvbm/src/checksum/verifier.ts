// @hot
import { ArmatureError } from '@armature/contracts';
import type { KvMemory } from '@armature/contracts';
import { xxh3 } from '@armature/tokens';
import { checksumsOver, createMemory } from './wasm.ts';
import type { ChecksumExports, WasmMemory } from './wasm.ts';

/** XXH3's own block: what is fed in parts is fed in multiples of it. */
const XXH3_BLOCK = 1024;
/** Of bytes copied at once; measured in docs/kvbm-policies.md: it stays in the second-level cache between the copy and the hash. */
const CHUNK_BYTES = 65_536;

/** Of the algorithm described at `BlockVerifier`: stores name it, and are of no use to another one. */
export const CHECKSUM_VERSION = 1;

export interface VerifierOptions {
  /** Of the engine's arena (`KvArena.layoutFingerprint`): blocks of another layout never verify. */
  readonly layoutFingerprint: string;
  /** Of the engine's arena: a block's content is hashed in runs of so many bytes, however a memory cuts it. */
  readonly pieceBytes: number;
}

/**
 * Checksums of KV blocks, by which they are verified before reuse:
 *
 *   h = XXH3_64(sequence hash, XXH3_64(layout fingerprint)); for each run of `pieceBytes` of the content: h = XXH3_64(run, seed h)
 *
 * So the bytes of another block, of another layout, and runs in another order do not verify. Memory of a `WebAssembly.Memory` is read where it
 * lies; other memory is copied through a chunk of our own (one small view per chunk is the only allocation). Columns are interleaved words,
 * two per row. Synchronous: the caller bounds `count`. Not against forgers: XXH3 is no cryptographic hash.
 */
export class BlockVerifier {
  readonly pieceBytes: number;
  readonly #layoutLo: number;
  readonly #layoutHi: number;
  readonly #stage: WasmMemory;
  readonly #staged: Uint8Array;
  readonly #stageCode: ChecksumExports;
  /** What `#attach` found for the memory of the current call. */
  #memory: KvMemory | null;
  #bytes: Uint8Array;
  #code: ChecksumExports;
  #isInPlace: boolean;
  #inPlaceBlocks: number;
  #stagedBlocks: number;

  /** Throws `KVBM_BLOCK_INVALID`. */
  constructor(options: VerifierOptions) {
    const { pieceBytes } = options;
    if (!Number.isInteger(pieceBytes) || pieceBytes < 1 || pieceBytes > 0xffffffff) unusable(`pieces of ${pieceBytes} bytes`);
    const layout = xxh3(Buffer.from(options.layoutFingerprint));
    this.pieceBytes = pieceBytes;
    this.#layoutLo = layout.lo;
    this.#layoutHi = layout.hi;
    this.#stage = createMemory(Math.ceil((CHUNK_BYTES + XXH3_BLOCK) / 65_536));
    this.#staged = new Uint8Array(this.#stage.buffer);
    this.#stageCode = checksumsOver(this.#stage);
    this.#memory = null;
    this.#bytes = this.#staged;
    this.#code = this.#stageCode;
    this.#isInPlace = false;
    this.#inPlaceBlocks = 0;
    this.#stagedBlocks = 0;
  }

  /** Blocks read where they lie. */
  get inPlaceBlocks(): number {
    return this.#inPlaceBlocks;
  }

  /** Blocks copied through the chunk. */
  get stagedBlocks(): number {
    return this.#stagedBlocks;
  }

  /**
   * Writes the checksums of the first `count` blocks of `blocks`, whose sequence hashes are `hashes`, to `out`. Throws `KVBM_BLOCK_INVALID` for memory
   * that the CPU cannot read or of another block size, `KVBM_INDEX_INVALID` for a block that is not in it.
   */
  checksums(memory: KvMemory, blocks: Int32Array, count: number, hashes: Int32Array, out: Int32Array): void {
    this.#attach(memory);
    for (let row = 0; row < count; row++) {
      out[2 * row] = this.#block(blocks[row], hashes[2 * row], hashes[2 * row + 1]);
      out[2 * row + 1] = this.#code.high();
    }
    this.#count(count);
  }

  /** The first row from `from` on (below `count`) whose checksum is not the one in `checksums`; -1 = all are. Throws like `checksums`. */
  firstBad(memory: KvMemory, blocks: Int32Array, count: number, hashes: Int32Array, checksums: Int32Array, from = 0): number {
    this.#attach(memory);
    for (let row = from; row < count; row++) {
      const lo = this.#block(blocks[row], hashes[2 * row], hashes[2 * row + 1]);
      if (lo === checksums[2 * row] && this.#code.high() === checksums[2 * row + 1]) continue;
      this.#count(row + 1 - from);
      return row;
    }
    this.#count(count - from);
    return -1;
  }

  #count(blocks: number): void {
    if (this.#isInPlace) this.#inPlaceBlocks += blocks;
    else this.#stagedBlocks += blocks;
  }

  #attach(memory: KvMemory): void {
    if (memory === this.#memory) return;
    const { bytes, pieces, pieceBytes, pieceStrideBytes, blocks, blockStrideBytes } = memory;
    if (bytes === undefined) unusable('memory that the CPU cannot read');
    if (pieceBytes < 1 || pieceBytes % this.pieceBytes !== 0) unusable(`memory with pieces of ${pieceBytes} bytes, which are not runs of ${this.pieceBytes}`);
    const lastByte = (blocks - 1) * blockStrideBytes + (pieces - 1) * pieceStrideBytes + pieceBytes;
    if (lastByte > bytes.length) unusable(`${blocks} blocks that end at byte ${lastByte} of ${bytes.length}`);
    const wasm = memory.wasm as WasmMemory | undefined;
    this.#isInPlace = wasm !== undefined && wasm.buffer === bytes.buffer;
    this.#code = this.#isInPlace ? checksumsOver(wasm as WasmMemory) : this.#stageCode;
    this.#bytes = bytes;
    this.#memory = memory;
  }

  /** The low word; the high one is `#code.high()`. */
  #block(block: number, lo: number, hi: number): number {
    const memory = this.#memory as KvMemory;
    if (!(block >= 0 && block < memory.blocks)) outside(block, memory.blocks);
    this.#code.start(lo, hi, this.#layoutLo, this.#layoutHi);
    const { pieces, pieceBytes, pieceStrideBytes } = memory;
    const at = block * memory.blockStrideBytes;
    if (this.#isInPlace) return this.#code.runs(this.#bytes.byteOffset + at, pieces, pieceStrideBytes, pieceBytes / this.pieceBytes, this.pieceBytes);
    if (pieceStrideBytes === pieceBytes || pieces === 1) return this.#staging(at, pieces * pieceBytes);
    let low = 0;
    for (let piece = 0; piece < pieces; piece++) low = this.#staging(at + piece * pieceStrideBytes, pieceBytes);
    return low;
  }

  /** Whole runs that lie next to each other, as many as fit at a time. */
  #staging(at: number, lengthBytes: number): number {
    const run = this.pieceBytes;
    const end = at + lengthBytes;
    let low = 0;
    if (run > CHUNK_BYTES) {
      for (let from = at; from < end; from += run) low = this.#stagingLong(from, run);
      return low;
    }
    const step = CHUNK_BYTES - (CHUNK_BYTES % run);
    for (let from = at; from < end; from += step) {
      const bytes = Math.min(step, end - from);
      this.#staged.set(this.#bytes.subarray(from, from + bytes));
      low = this.#stageCode.runs(0, 1, 0, bytes / run, run);
    }
    return low;
  }

  /** One run that is longer than the chunk. The end reads up to 64 bytes of what was fed: they are in the last part. */
  #stagingLong(at: number, lengthBytes: number): number {
    const code = this.#stageCode;
    let blocks = Math.floor((lengthBytes - 1) / XXH3_BLOCK);
    const rest = lengthBytes - blocks * XXH3_BLOCK;
    code.open();
    for (let from = at; ; ) {
      const fed = Math.min(blocks, CHUNK_BYTES / XXH3_BLOCK);
      blocks -= fed;
      const bytes = fed * XXH3_BLOCK;
      this.#staged.set(this.#bytes.subarray(from, from + bytes + (blocks === 0 ? rest : 0)));
      code.feed(0, fed);
      if (blocks === 0) return code.close(bytes, rest, lengthBytes);
      from += bytes;
    }
  }
}

export function createVerifier(options: VerifierOptions): BlockVerifier {
  return new BlockVerifier(options);
}

function unusable(what: string): never {
  throw new ArmatureError('KVBM_BLOCK_INVALID', `cannot checksum ${what}`, { hint: 'give memory of this process whose blocks have the layout of the engine' });
}

function outside(block: number, blocks: number): never {
  throw new ArmatureError('KVBM_INDEX_INVALID', `block ${block} of ${blocks}`, { hint: 'name blocks of the memory' });
}
