import { ArmatureError } from '@armature/contracts';
import { BlockPool } from '@armature/blocks';
import { xxh3 } from '@armature/tokens';

export interface HostPoolOptions {
  /** Memory of the pool; rounded down to whole blocks. */
  readonly capacityBytes: number;
  readonly blockBytes: number;
  /** A hash is no longer held: its block was needed for another one, or its bytes were found corrupt. Must not call the pool. */
  readonly onEvicted?: (lo: number, hi: number, reason: 'capacity' | 'corrupt') => void;
}

/** `stored`: copied in; `present`: the hash is held already; `full`: every block is pinned. */
export type StoreStatus = 'stored' | 'present' | 'full';

/** `onboarded`: copied out and verified; `missing`: not held; `corrupt`: the bytes no longer gave their checksum, the block is dropped. */
export type OnboardStatus = 'onboarded' | 'missing' | 'corrupt';

/** Counts since creation, and what the pool holds now. */
export interface HostPoolStats {
  readonly capacityBytes: number;
  readonly heldBytes: number;
  readonly totalBlocks: number;
  readonly heldBlocks: number;
  readonly pinnedBlocks: number;
  readonly stores: number;
  /** Stores that found their hash present: no copy. */
  readonly duplicates: number;
  /** Stores refused because every block was pinned. */
  readonly refusals: number;
  /** Blocks that made room for others. */
  readonly evictions: number;
  /** Blocks copied out: hits. */
  readonly onboards: number;
  /** Blocks asked for and not held. */
  readonly misses: number;
  /** Blocks whose bytes no longer gave their checksum; dropped, never given out. */
  readonly corruptions: number;
}

const NONE = -1;

/**
 * KV blocks in host memory (G2), by sequence hash: LRU, deduplicated, pinned while a transfer reads them. Each block carries a checksum
 * over its bytes, seeded with its hash, and is verified whenever its bytes leave. Hashes are interleaved words; `index` counts blocks.
 * Wrong sizes throw (a bug of the caller); everything that may happen in operation is a status.
 */
export class HostPool {
  readonly blockBytes: number;
  /** The pool's memory: block `b` lies at `b * blockBytes`. For registration with a transfer agent. */
  readonly buffer: SharedArrayBuffer;
  readonly #bytes: Uint8Array;
  readonly #pool: BlockPool;
  readonly #checksums: Int32Array;
  #dropReason: 'capacity' | 'corrupt';
  #stores: number;
  #duplicates: number;
  #refusals: number;
  #onboards: number;
  #misses: number;
  #corruptions: number;

  /** Throws `KVBM_CAPACITY_INVALID`. The memory is allocated here, once. */
  constructor(options: HostPoolOptions) {
    const { blockBytes } = options;
    const blocks = wholeBlocks(options);
    this.blockBytes = blockBytes;
    this.buffer = allocate(blocks, options);
    this.#bytes = new Uint8Array(this.buffer);
    this.#checksums = new Int32Array(blocks * 2);
    this.#pool = new BlockPool(blocks, (lo, hi) => options.onEvicted?.(lo, hi, this.#dropReason));
    this.#dropReason = 'capacity';
    this.#stores = 0;
    this.#duplicates = 0;
    this.#refusals = 0;
    this.#onboards = 0;
    this.#misses = 0;
    this.#corruptions = 0;
  }

  /** Leading blocks held, of interleaved hash words. Takes no pin. */
  match(hashes: Int32Array): number {
    return this.#pool.match(hashes, hashes.length >> 1);
  }

  /**
   * Copies `source` (one complete block) in under hash `index` of `hashes`; its parent is the hash before. May evict the least recently
   * used unpinned block. Throws `KVBM_BLOCK_INVALID`, `KVBM_INDEX_INVALID`.
   */
  store(hashes: Int32Array, index: number, source: Uint8Array): StoreStatus {
    this.#check(hashes, index, source);
    const lo = hashes[2 * index]!;
    const hi = hashes[2 * index + 1]!;
    const known = this.#pool.find(lo, hi);
    if (known !== NONE) {
      this.#touch(known);
      this.#duplicates++;
      return 'present';
    }
    this.#dropReason = 'capacity';
    const block = this.#pool.allocate();
    if (block === NONE) {
      this.#refusals++;
      return 'full';
    }
    // Of the source: what goes wrong in this copy is found too.
    const sum = xxh3(source, lo, hi);
    this.#at(block).set(source);
    this.#checksums[2 * block] = sum.lo;
    this.#checksums[2 * block + 1] = sum.hi;
    this.#pool.register(block, lo, hi, index === 0 ? 0 : hashes[2 * index - 2]!, index === 0 ? 0 : hashes[2 * index - 1]!);
    this.#pool.release(block);
    this.#stores++;
    return 'stored';
  }

  /**
   * Marks the leading held blocks of a sequence as just used, the last one as the oldest of them: leaves then go before their parents,
   * without which they could not be matched. Call it after the blocks of a sequence were stored. Returns how many are held.
   */
  touch(hashes: Int32Array): number {
    const held = this.match(hashes);
    for (let i = held - 1; i >= 0; i--) this.#touch(this.#pool.find(hashes[2 * i]!, hashes[2 * i + 1]!));
    return held;
  }

  /** Pins the leading held blocks against eviction and writes their numbers to `blocks`. Returns how many; give each back with `unpin`. */
  pin(hashes: Int32Array, blocks: Int32Array): number {
    const limit = Math.min(hashes.length >> 1, blocks.length);
    let i = 0;
    for (; i < limit; i++) {
      const block = this.#pool.find(hashes[2 * i]!, hashes[2 * i + 1]!);
      if (block === NONE) break;
      this.#pool.acquire(block);
      blocks[i] = block;
    }
    return i;
  }

  /** Ends `count` pins, last block first so that leaves age before their parents. Throws `KVBM_UNPIN_INVALID`; the pins before stay ended. */
  unpin(blocks: Int32Array, count: number): void {
    for (let i = count - 1; i >= 0; i--) {
      const block = blocks[i] ?? NONE;
      if (!(this.#pool.references(block) >= 1)) {
        throw new ArmatureError('KVBM_UNPIN_INVALID', `block ${block} is not pinned`, { hint: 'unpin each pin once' });
      }
      this.#pool.release(block);
    }
  }

  /**
   * Copies a held block out to `target` (one block) and verifies what arrived there: a byte that changes at any time, also during this
   * copy, is found. When corrupt, `target` is zeroed and the block dropped. Throws `KVBM_BLOCK_INVALID`, `KVBM_INDEX_INVALID`.
   */
  onboard(hashes: Int32Array, index: number, target: Uint8Array): OnboardStatus {
    this.#check(hashes, index, target);
    const lo = hashes[2 * index]!;
    const hi = hashes[2 * index + 1]!;
    const block = this.#pool.find(lo, hi);
    if (block === NONE) {
      this.#misses++;
      return 'missing';
    }
    target.set(this.#at(block));
    if (!this.#givesChecksum(target, block, lo, hi)) {
      target.fill(0);
      this.#drop(block);
      return 'corrupt';
    }
    this.#touch(block);
    this.#onboards++;
    return 'onboarded';
  }

  /**
   * For readers that copied from `buffer` themselves, under a pin: whether a pinned block's bytes still give the checksum of this hash.
   * Drops the block if not; the pin stays to be ended. A block that was dropped while pinned is false.
   */
  verify(block: number, lo: number, hi: number): boolean {
    if (this.#pool.find(lo, hi) !== block || block === NONE) return false;
    if (this.#givesChecksum(this.#at(block), block, lo, hi)) return true;
    this.#drop(block);
    return false;
  }

  /** Writes hash words, then parent words (0, 0 = the first block of a prompt) to `out`. False: not held. */
  lineage(lo: number, hi: number, out: Int32Array): boolean {
    const block = this.#pool.find(lo, hi);
    if (block === NONE) return false;
    this.#pool.lineage(block, out);
    return true;
  }

  stats(): HostPoolStats {
    const { totalBlocks, registeredBlocks } = this.#pool;
    return {
      capacityBytes: totalBlocks * this.blockBytes,
      heldBytes: registeredBlocks * this.blockBytes,
      totalBlocks,
      heldBlocks: registeredBlocks,
      pinnedBlocks: this.#pool.usedBlocks,
      stores: this.#stores,
      duplicates: this.#duplicates,
      refusals: this.#refusals,
      evictions: this.#pool.evictions,
      onboards: this.#onboards,
      misses: this.#misses,
      corruptions: this.#corruptions,
    };
  }

  #check(hashes: Int32Array, index: number, bytes: Uint8Array): void {
    if (bytes.length !== this.blockBytes) {
      throw new ArmatureError('KVBM_BLOCK_INVALID', `${bytes.length} bytes were given to a pool of ${this.blockBytes}-byte blocks`, {
        hint: 'only complete blocks are kept; pools and engines must agree on the block layout',
      });
    }
    if (!(index >= 0 && index < hashes.length >> 1)) {
      throw new ArmatureError('KVBM_INDEX_INVALID', `block ${index} of ${hashes.length >> 1} hashes`, { hint: 'hashes are two words each, index counts blocks' });
    }
  }

  #givesChecksum(bytes: Uint8Array, block: number, lo: number, hi: number): boolean {
    const sum = xxh3(bytes, lo, hi);
    return sum.lo === this.#checksums[2 * block] && sum.hi === this.#checksums[2 * block + 1];
  }

  #drop(block: number): void {
    this.#corruptions++;
    this.#dropReason = 'corrupt';
    this.#pool.invalidate(block);
  }

  /** Most recently used goes to the end of the line. */
  #touch(block: number): void {
    this.#pool.acquire(block);
    this.#pool.release(block);
  }

  #at(block: number): Uint8Array {
    return this.#bytes.subarray(block * this.blockBytes, (block + 1) * this.blockBytes);
  }
}

function wholeBlocks({ capacityBytes, blockBytes }: HostPoolOptions): number {
  const blocks = Math.floor(capacityBytes / blockBytes);
  if (Number.isSafeInteger(blockBytes) && blockBytes > 0 && blocks >= 1 && blocks < 2 ** 30) return blocks;
  throw new ArmatureError('KVBM_CAPACITY_INVALID', `a host pool of ${capacityBytes} bytes cannot be made of blocks of ${blockBytes} bytes`, {
    hint: 'it must hold at least one block and fewer than 2^30',
  });
}

function allocate(blocks: number, { blockBytes }: HostPoolOptions): SharedArrayBuffer {
  try {
    return new SharedArrayBuffer(blocks * blockBytes);
  } catch (cause) {
    throw new ArmatureError('KVBM_CAPACITY_INVALID', `${blocks * blockBytes} bytes of host memory could not be allocated`, { hint: 'lower the capacity', cause });
  }
}
