// @hot
import { ArmatureError } from '@armature/contracts';
import { U64Map } from '@armature/tokens';

const NONE = -1;

/** Called when a registered block loses its place: its hash can no longer be matched. */
export type EvictionListener = (lo: number, hi: number, block: number) => void;

/**
 * Life of a fixed number of KV blocks:
 *
 *   free ──allocate──► mutable ──register──► registered ⇄ inactive ──allocate──► evicted (= mutable again)
 *
 * A block is in use while its reference count is > 0. Without references a registered block is *inactive*: still matchable, first in
 * line to be evicted, least recently used first. Release a sequence's blocks last block first, so that leaves go before their parents.
 * A *hold* keeps a block from being allocated without counting as use: it stays where it is in that line.
 * Hashes are two int32 words. One physical block per hash is registered; a second copy stays private to its owner.
 * Everything lives in typed arrays; no operation allocates except growth of the hash table.
 */
export class BlockPool {
  readonly totalBlocks: number;
  readonly #refs: Int32Array;
  readonly #holds: Int32Array;
  readonly #hashes: Int32Array;
  readonly #parents: Int32Array;
  readonly #isRegistered: Uint8Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #byHash: U64Map;
  readonly #onEvicted: EvictionListener;
  /** Unreferenced blocks, next victim first: free ones, then inactive ones by age, the first of which is `oldest`. */
  #head: number;
  #tail: number;
  #oldest: number;
  /** Unreferenced blocks without a hold. */
  #available: number;
  #evictions: number;

  constructor(totalBlocks: number, onEvicted: EvictionListener = () => undefined) {
    this.totalBlocks = totalBlocks;
    this.#refs = new Int32Array(totalBlocks);
    this.#holds = new Int32Array(totalBlocks);
    this.#hashes = new Int32Array(totalBlocks * 2);
    this.#parents = new Int32Array(totalBlocks * 2);
    this.#isRegistered = new Uint8Array(totalBlocks);
    this.#next = new Int32Array(totalBlocks);
    this.#previous = new Int32Array(totalBlocks);
    this.#byHash = new U64Map(totalBlocks);
    this.#onEvicted = onEvicted;
    this.#head = NONE;
    this.#tail = NONE;
    this.#oldest = NONE;
    this.#available = 0;
    this.#evictions = 0;
    for (let block = 0; block < totalBlocks; block++) this.#pushTail(block);
  }

  /** Blocks that `allocate` can give: free and inactive ones. */
  get freeBlocks(): number {
    return this.#available;
  }

  get usedBlocks(): number {
    return this.totalBlocks - this.#available;
  }

  /** Blocks whose hash can be matched. */
  get registeredBlocks(): number {
    return this.#byHash.size;
  }

  get evictions(): number {
    return this.#evictions;
  }

  references(block: number): number {
    return this.#refs[block];
  }

  /** A mutable block with one reference, evicting the oldest inactive one if need be; -1 when every block is in use. */
  allocate(): number {
    let block = this.#head;
    while (block !== NONE && this.#holds[block] > 0) block = this.#next[block];
    if (block === NONE) return NONE;
    this.#unlink(block);
    if (this.#isRegistered[block] === 1) {
      this.#evictions++;
      this.#forget(block);
    }
    this.#refs[block] = 1;
    return block;
  }

  /** One more reference; an inactive block becomes active again. */
  acquire(block: number): void {
    if (this.#refs[block]++ === 0) this.#unlink(block);
  }

  /** One reference less. Without any, a registered block becomes inactive, another one free. Throws when there was none. */
  release(block: number): void {
    if (this.#refs[block] === 0) unbalanced(block);
    if (--this.#refs[block] > 0) return;
    if (this.#isRegistered[block] === 1) this.#pushTail(block);
    else this.#pushHead(block);
  }

  /** Keeps a block from being allocated; its place in the order of eviction stays. */
  hold(block: number): void {
    if (this.#holds[block]++ === 0 && this.#refs[block] === 0) this.#available--;
  }

  /** A hold ends. Throws when there was none. */
  unhold(block: number): void {
    if (this.#holds[block] === 0) unbalanced(block);
    if (--this.#holds[block] === 0 && this.#refs[block] === 0) this.#available++;
  }

  /** References of a sequence end: last block first. */
  releaseAll(blocks: Int32Array, count: number): void {
    for (let i = count - 1; i >= 0; i--) this.release(blocks[i]);
  }

  /**
   * The block is complete: others may match it. False when another block has the hash already; this one then stays private.
   * The parent's hash words are its lineage; 0, 0 at the start of a prompt.
   */
  register(block: number, lo: number, hi: number, parentLo: number, parentHi: number): boolean {
    if (this.#isRegistered[block] === 1 || this.#byHash.has(lo, hi)) return false;
    this.#isRegistered[block] = 1;
    this.#hashes[block * 2] = lo;
    this.#hashes[block * 2 + 1] = hi;
    this.#parents[block * 2] = parentLo;
    this.#parents[block * 2 + 1] = parentHi;
    this.#byHash.set(lo, hi, block);
    return true;
  }

  /**
   * Takes a block out of the prefix cache, for example because its bytes turned out to be wrong. Its owners keep it.
   * False when it was not registered.
   */
  invalidate(block: number): boolean {
    if (this.#isRegistered[block] === 0) return false;
    this.#forget(block);
    if (this.#refs[block] === 0) {
      this.#unlink(block);
      this.#pushHead(block);
    }
    return true;
  }

  isRegistered(block: number): boolean {
    return this.#isRegistered[block] === 1;
  }

  /** Of a registered block: its hash words, then its parent's (0, 0 = no parent). */
  lineage(block: number, out: Int32Array): void {
    out[0] = this.#hashes[2 * block];
    out[1] = this.#hashes[2 * block + 1];
    out[2] = this.#parents[2 * block];
    out[3] = this.#parents[2 * block + 1];
  }

  /** The block registered under a hash, -1 without one. */
  find(lo: number, hi: number): number {
    return this.#byHash.get(lo, hi);
  }

  /** The inactive blocks that would be evicted next, oldest first, without the held ones: lineage of each, four words. Costs what it returns. */
  oldestInactive(limit: number): Int32Array {
    const rows: number[] = [];
    for (let block = this.#oldest; block !== NONE && rows.length < 4 * limit; block = this.#next[block]) {
      if (this.#holds[block] > 0) continue;
      rows.push(this.#hashes[2 * block], this.#hashes[2 * block + 1], this.#parents[2 * block], this.#parents[2 * block + 1]);
    }
    return Int32Array.from(rows);
  }

  /** Leading blocks of interleaved hash words that are registered, at most `limit`. Takes no reference. */
  match(hashes: Int32Array, limit: number): number {
    const blocks = Math.min(limit, hashes.length >> 1);
    let i = 0;
    while (i < blocks && this.#byHash.get(hashes[2 * i], hashes[2 * i + 1]) !== NONE) i++;
    return i;
  }

  /** Forgets the hashes of all inactive blocks (cache reset). Blocks in use keep theirs. Returns how many were forgotten. */
  clearInactive(): number {
    let cleared = 0;
    for (let block = this.#head; block !== NONE; block = this.#next[block]) {
      if (this.#isRegistered[block] === 0) continue;
      this.#forget(block);
      cleared++;
    }
    this.#oldest = NONE;
    return cleared;
  }

  #forget(block: number): void {
    const lo = this.#hashes[2 * block];
    const hi = this.#hashes[2 * block + 1];
    this.#isRegistered[block] = 0;
    this.#byHash.delete(lo, hi);
    this.#onEvicted(lo, hi, block);
  }

  #pushTail(block: number): void {
    this.#next[block] = NONE;
    this.#previous[block] = this.#tail;
    if (this.#tail === NONE) this.#head = block;
    else this.#next[this.#tail] = block;
    this.#tail = block;
    if (this.#oldest === NONE && this.#isRegistered[block] === 1) this.#oldest = block;
    if (this.#holds[block] === 0) this.#available++;
  }

  #pushHead(block: number): void {
    this.#previous[block] = NONE;
    this.#next[block] = this.#head;
    if (this.#head === NONE) this.#tail = block;
    else this.#previous[this.#head] = block;
    this.#head = block;
    if (this.#holds[block] === 0) this.#available++;
  }

  #unlink(block: number): void {
    const before = this.#previous[block];
    const after = this.#next[block];
    if (before === NONE) this.#head = after;
    else this.#next[before] = after;
    if (after === NONE) this.#tail = before;
    else this.#previous[after] = before;
    if (this.#oldest === block) this.#oldest = after;
    if (this.#holds[block] === 0) this.#available--;
  }
}

function unbalanced(block: number): never {
  throw new ArmatureError('ENGINE_BLOCKS_UNBALANCED', `block ${block} was released more often than acquired`, { hint: 'this is a bug of the engine; please report it' });
}
