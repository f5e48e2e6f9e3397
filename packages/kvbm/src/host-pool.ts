import { ArmatureError } from '@armature/contracts';
import { BlockPool } from '@armature/blocks';
import { xxh3 } from '@armature/tokens';

export interface HostPoolOptions {
  /** Memory of the pool; rounded down to whole blocks. */
  readonly capacityBytes: number;
  readonly blockBytes: number;
}

/** `stored`: copied in; `present`: the pool holds these bytes already; `full`: every block is pinned. */
export type StoreResult = 'stored' | 'present' | 'full';

/** Counts since creation, and what the pool holds now. */
export interface HostPoolStats {
  readonly totalBlocks: number;
  readonly heldBlocks: number;
  readonly pinnedBlocks: number;
  readonly stores: number;
  /** Stores that found their block present: no copy. */
  readonly duplicates: number;
  /** Stores refused because every block was pinned. */
  readonly refusals: number;
  readonly evictions: number;
  /** Blocks copied out. */
  readonly onboards: number;
  /** Blocks asked for and not held. */
  readonly misses: number;
  /** Blocks whose bytes no longer gave their checksum; dropped, never copied out. */
  readonly corruptions: number;
}

const NONE = -1;

/**
 * KV blocks in host memory (G2), by sequence hash: LRU, deduplicated, pinned while a transfer reads them. Each block carries a checksum
 * over its bytes, seeded with its hash, and is verified before its bytes leave. Hashes are interleaved words; `index` counts blocks.
 */
export class HostPool {
  readonly blockBytes: number;
  /** The pool's memory: block `b` lies at `b * blockBytes`. For registration with a transfer agent. */
  readonly buffer: SharedArrayBuffer;
  readonly #bytes: Uint8Array;
  readonly #pool: BlockPool;
  readonly #checksums: Int32Array;
  /** 1: found corrupt. The hash stays registered until the block is evicted or stored again, but is not held. */
  readonly #isCorrupt: Uint8Array;
  #corruptBlocks = 0;
  #stores = 0;
  #duplicates = 0;
  #refusals = 0;
  #onboards = 0;
  #misses = 0;
  #corruptions = 0;

  constructor(options: HostPoolOptions) {
    const { capacityBytes, blockBytes } = options;
    const blocks = Math.floor(capacityBytes / blockBytes);
    if (!(Number.isSafeInteger(blockBytes) && blockBytes > 0 && blocks >= 1)) {
      throw new ArmatureError('KVBM_CAPACITY_INVALID', `a host pool of ${capacityBytes} bytes holds no block of ${blockBytes} bytes`, { hint: 'raise the capacity to at least one block' });
    }
    this.blockBytes = blockBytes;
    this.buffer = new SharedArrayBuffer(blocks * blockBytes);
    this.#bytes = new Uint8Array(this.buffer);
    this.#checksums = new Int32Array(blocks * 2);
    this.#isCorrupt = new Uint8Array(blocks);
    this.#pool = new BlockPool(blocks, (_lo, _hi, block) => this.#heal(block));
  }

  /** Leading blocks held, of interleaved hash words. Takes no pin. */
  match(hashes: Int32Array): number {
    const blocks = hashes.length >> 1;
    let i = 0;
    while (i < blocks && this.#find(hashes, i) !== NONE) i++;
    return i;
  }

  /** Copies `source` (one block) in under hash `index` of `hashes`; its parent is the hash before. May evict the oldest unpinned block. */
  store(hashes: Int32Array, index: number, source: Uint8Array): StoreResult {
    if (source.length !== this.blockBytes) {
      throw new ArmatureError('KVBM_BLOCK_INVALID', `a block of ${source.length} bytes was given to a pool of ${this.blockBytes}-byte blocks`, { hint: 'pools and engines must agree on the block layout' });
    }
    const lo = hashes[2 * index]!;
    const hi = hashes[2 * index + 1]!;
    const known = this.#pool.find(lo, hi);
    if (known !== NONE) return this.#storeAgain(known, lo, hi, source);
    const block = this.#pool.allocate();
    if (block === NONE) {
      this.#refusals++;
      return 'full';
    }
    this.#write(block, lo, hi, source);
    this.#pool.register(block, lo, hi, index === 0 ? 0 : hashes[2 * index - 2]!, index === 0 ? 0 : hashes[2 * index - 1]!);
    this.#pool.release(block);
    this.#stores++;
    return 'stored';
  }

  /** Pins the leading held blocks against eviction and writes their numbers to `blocks`. Returns how many; give each back with `unpin`. */
  pin(hashes: Int32Array, blocks: Int32Array): number {
    const limit = Math.min(hashes.length >> 1, blocks.length);
    let i = 0;
    for (; i < limit; i++) {
      const block = this.#find(hashes, i);
      if (block === NONE) break;
      this.#pool.acquire(block);
      blocks[i] = block;
    }
    return i;
  }

  /** Ends `count` pins, last block first so that leaves age before their parents. */
  unpin(blocks: Int32Array, count: number): void {
    for (let i = count - 1; i >= 0; i--) {
      const block = blocks[i]!;
      if (this.#pool.references(block) < 1) {
        throw new ArmatureError('KVBM_UNPIN_INVALID', `block ${block} is not pinned`, { hint: 'unpin each pin once' });
      }
      this.#pool.release(block);
    }
  }

  /** Copies a block out to `target` if it is held and its bytes give its checksum. False: miss (counted), or corrupt (dropped and counted). */
  onboard(hashes: Int32Array, index: number, target: Uint8Array): boolean {
    const block = this.#find(hashes, index);
    if (block === NONE) {
      this.#misses++;
      return false;
    }
    if (!this.verify(block, hashes[2 * index]!, hashes[2 * index + 1]!)) return false;
    target.set(this.#at(block));
    this.#touch(block);
    this.#onboards++;
    return true;
  }

  /** Whether a block's bytes still give their checksum; drops it if not. For readers that copy from `buffer` themselves. */
  verify(block: number, lo: number, hi: number): boolean {
    const sum = xxh3(this.#at(block), lo, hi);
    if (sum.lo === this.#checksums[2 * block] && sum.hi === this.#checksums[2 * block + 1]) return true;
    if (this.#isCorrupt[block] === 0) {
      this.#isCorrupt[block] = 1;
      this.#corruptBlocks++;
      this.#corruptions++;
    }
    return false;
  }

  stats(): HostPoolStats {
    return {
      totalBlocks: this.#pool.totalBlocks,
      heldBlocks: this.#pool.registeredBlocks - this.#corruptBlocks,
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

  #find(hashes: Int32Array, index: number): number {
    const block = this.#pool.find(hashes[2 * index]!, hashes[2 * index + 1]!);
    return block === NONE || this.#isCorrupt[block] === 1 ? NONE : block;
  }

  #storeAgain(block: number, lo: number, hi: number, source: Uint8Array): StoreResult {
    if (this.#isCorrupt[block] === 1) {
      if (this.#pool.references(block) > 0) {
        this.#refusals++;
        return 'full';
      }
      this.#write(block, lo, hi, source);
      this.#heal(block);
      this.#touch(block);
      this.#stores++;
      return 'stored';
    }
    this.#touch(block);
    this.#duplicates++;
    return 'present';
  }

  /** Most recently used goes to the end of the line. */
  #touch(block: number): void {
    this.#pool.acquire(block);
    this.#pool.release(block);
  }

  #write(block: number, lo: number, hi: number, source: Uint8Array): void {
    const target = this.#at(block);
    target.set(source);
    const sum = xxh3(target, lo, hi);
    this.#checksums[2 * block] = sum.lo;
    this.#checksums[2 * block + 1] = sum.hi;
  }

  #heal(block: number): void {
    if (this.#isCorrupt[block] === 0) return;
    this.#isCorrupt[block] = 0;
    this.#corruptBlocks--;
  }

  #at(block: number): Uint8Array {
    return this.#bytes.subarray(block * this.blockBytes, (block + 1) * this.blockBytes);
  }
}
