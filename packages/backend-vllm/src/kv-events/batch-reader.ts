// @hot
import type { KvTier } from '@armature/contracts';
import { Kind, MsgpackCursor, NameTable } from './msgpack-cursor.ts';

/** One `BlockStored`. The reader owns it and uses it again: read it before returning. */
export interface StoredBlocks {
  /** Engine's hashes, interleaved words, `count` of them. */
  readonly hashes: Int32Array;
  readonly count: number;
  readonly hasParent: boolean;
  readonly parentLo: number;
  readonly parentHi: number;
  readonly tokens: Int32Array;
  readonly tokenCount: number;
  readonly blockSize: number;
  readonly tier: KvTier;
  /** LoRA adapter, '' = none. */
  readonly adapter: string;
  /** Of the request, where the engine tells it; '' = none. */
  readonly cacheSalt: string;
  /** Blocks before the first one whose hash has more in it than tokens, salt and adapter (images); `count` when there is none. */
  readonly plainBlocks: number;
}

export interface BatchVisitor {
  stored(blocks: StoredBlocks): void;
  removed(hashes: Int32Array, count: number, tier: KvTier): void;
  cleared(): void;
  /** An event that says nothing of what a prefix finds: of another KV group, of a medium or a type that is not known. */
  ignored(what: 'group' | 'medium' | 'type'): void;
}

const TYPES = new NameTable(['BlockStored', 'BlockRemoved', 'AllBlocksCleared']);
const FIELDS = new NameTable(['type', 'block_hashes', 'parent_block_hash', 'token_ids', 'block_size', 'lora_id', 'medium', 'lora_name', 'extra_keys', 'group_idx']);
const MEDIA = new NameTable(['GPU', 'CPU', 'CPU_PINNED', 'DISK', 'STORAGE', 'EXTERNAL']);
const TIERS: readonly KvTier[] = ['device', 'host', 'host', 'disk', 'disk', 'object'];
const Field = { Hashes: 1, Parent: 2, Tokens: 3, BlockSize: 4, LoraId: 5, Medium: 6, LoraName: 7, ExtraKeys: 8, Group: 9 } as const;
/** Array-like events (vLLM before 0.24): the tag, then the fields in the order in which versions added them. */
const STORED_ORDER = [Field.Hashes, Field.Parent, Field.Tokens, Field.BlockSize, Field.LoraId, Field.Medium, Field.LoraName, Field.ExtraKeys, Field.Group] as const;
const REMOVED_ORDER = [Field.Hashes, Field.Medium, Field.Group] as const;
const NONE: readonly number[] = [];
const UNKNOWN_MEDIUM = -1;

/**
 * Reads one message of vLLM's (or SGLang's) event publisher, `[time, events, data-parallel rank]`, in every form since vLLM 0.11: events as arrays or as
 * maps, hashes as integers or digests, keys that are not known skipped. Facts: 11 releases of vLLM, see fixtures.
 */
export class BatchReader implements StoredBlocks {
  readonly #cursor: MsgpackCursor;
  hashes: Int32Array;
  count: number;
  hasParent: boolean;
  parentLo: number;
  parentHi: number;
  tokens: Int32Array;
  tokenCount: number;
  blockSize: number;
  tier: KvTier;
  adapter: string;
  cacheSalt: string;
  plainBlocks: number;
  #type: number;
  #medium: number;
  #group: number;
  #hasLoraId: boolean;
  /** Where the extra keys lie, -1 = there are none: they are read when the name of the adapter is known. */
  #extraAt: number;

  constructor() {
    this.#cursor = new MsgpackCursor();
    this.hashes = new Int32Array(64);
    this.count = 0;
    this.hasParent = false;
    this.parentLo = 0;
    this.parentHi = 0;
    this.tokens = new Int32Array(1024);
    this.tokenCount = 0;
    this.blockSize = 0;
    this.tier = 'device';
    this.adapter = '';
    this.cacheSalt = '';
    this.plainBlocks = 0;
    this.#type = -1;
    this.#medium = 0;
    this.#group = 0;
    this.#hasLoraId = false;
    this.#extraAt = -1;
  }

  /** When the engine sent it, seconds since the epoch. Throws `VLLM_EVENT_INVALID`. */
  timeOf(payload: Uint8Array): number {
    this.#cursor.open(payload);
    this.#cursor.array();
    return this.#cursor.float();
  }

  /** Throws `VLLM_EVENT_INVALID`; what came before the fault has been visited then. */
  read(payload: Uint8Array, visitor: BatchVisitor): void {
    const cursor = this.#cursor;
    cursor.open(payload);
    const parts = cursor.array();
    cursor.float();
    const events = parts < 2 ? 0 : cursor.array();
    for (let i = 0; i < events; i++) {
      this.#reset();
      if (cursor.peek() === Kind.Map) this.#readMap();
      else this.#readArray();
      this.#visit(visitor);
    }
  }

  #reset(): void {
    this.count = 0;
    this.hasParent = false;
    this.tokenCount = 0;
    this.blockSize = 0;
    this.adapter = '';
    this.cacheSalt = '';
    this.#type = -1;
    this.#medium = 0;
    this.#group = 0;
    this.#hasLoraId = false;
    this.#extraAt = -1;
  }

  #readMap(): void {
    const cursor = this.#cursor;
    for (let left = cursor.map(); left > 0; left--) {
      const field = cursor.name(FIELDS);
      if (field === 0) this.#type = cursor.name(TYPES);
      else this.#field(field);
    }
  }

  #readArray(): void {
    const cursor = this.#cursor;
    const length = cursor.array();
    if (length === 0) return;
    this.#type = cursor.name(TYPES);
    const order: readonly number[] = this.#type === 0 ? STORED_ORDER : this.#type === 1 ? REMOVED_ORDER : NONE;
    for (let i = 1; i < length; i++) this.#field(i <= order.length ? order[i - 1] : -1);
  }

  #field(field: number): void {
    const cursor = this.#cursor;
    // Nil is the default of every field.
    if (cursor.nil()) return;
    switch (field) {
      case Field.Hashes: return this.#readHashes();
      case Field.Parent:
        cursor.hash();
        this.hasParent = true;
        this.parentLo = cursor.lo;
        this.parentHi = cursor.hi;
        return;
      case Field.Tokens:
        this.tokenCount = cursor.array();
        if (this.tokens.length < this.tokenCount) this.tokens = new Int32Array(2 * this.tokenCount);
        return cursor.ints(this.tokens, this.tokenCount);
      case Field.BlockSize:
        this.blockSize = cursor.int();
        return;
      case Field.LoraId:
        this.#hasLoraId = true;
        return cursor.skip();
      case Field.Medium:
        this.#medium = cursor.name(MEDIA);
        return;
      case Field.LoraName:
        this.adapter = cursor.text();
        return;
      case Field.ExtraKeys:
        this.#extraAt = cursor.at;
        return cursor.skip();
      case Field.Group:
        this.#group = cursor.int();
        return;
      default:
        return cursor.skip();
    }
  }

  #readHashes(): void {
    const cursor = this.#cursor;
    this.count = cursor.array();
    if (this.hashes.length < 2 * this.count) this.hashes = new Int32Array(4 * this.count);
    const { hashes, count } = this;
    for (let i = 0; i < count; i++) {
      cursor.hash();
      hashes[2 * i] = cursor.lo;
      hashes[2 * i + 1] = cursor.hi;
    }
  }

  #visit(visitor: BatchVisitor): void {
    if (this.#type === -1) return visitor.ignored('type');
    if (this.#type === 2) return visitor.cleared();
    // A prefix is found when its blocks are held in every group; group 0 stands for all of them.
    if (this.#group !== 0) return visitor.ignored('group');
    if (this.#medium === UNKNOWN_MEDIUM) return visitor.ignored('medium');
    this.tier = TIERS[this.#medium];
    if (this.#type === 1) return visitor.removed(this.hashes, this.count, this.tier);
    // An adapter without a name (0.11) cannot be told from another one.
    this.plainBlocks = this.#hasLoraId && this.adapter === '' ? 0 : this.count;
    if (this.#extraAt !== -1) this.#readExtraKeys();
    visitor.stored(this);
  }

  /** Per block nil, or what its hash has besides tokens, untagged: the adapter's name, images as arrays, the salt as text in the first block of a prompt. */
  #readExtraKeys(): void {
    const cursor = this.#cursor;
    const end = cursor.at;
    cursor.at = this.#extraAt;
    const blocks = cursor.peek() === Kind.Array ? cursor.array() : 0;
    for (let block = 0; block < blocks && this.plainBlocks === this.count; block++) {
      if (cursor.nil()) continue;
      if (!this.#isPlain(block)) this.plainBlocks = Math.min(block, this.count);
    }
    cursor.at = end;
  }

  #isPlain(block: number): boolean {
    const cursor = this.#cursor;
    let isPlain = true;
    let sawAdapter = this.adapter === '';
    for (let keys = cursor.peek() === Kind.Array ? cursor.array() : -1; keys !== 0; keys--) {
      if (keys < 0 || cursor.peek() !== Kind.Text) {
        cursor.skip();
        isPlain = false;
        if (keys < 0) break;
        continue;
      }
      const text = cursor.text();
      if (!sawAdapter && text === this.adapter) sawAdapter = true;
      else if (block === 0 && !this.hasParent && this.cacheSalt === '') this.cacheSalt = text;
      else isPlain = false;
    }
    return isPlain;
  }
}
