import { createHash } from 'node:crypto';
import type { JsonValue } from '../lossless-json.ts';

export interface BlockCacheOptions {
  readonly blockSize: number;
  readonly totalBlocks: number;
  /** 0: no events. The oldest are dropped beyond. */
  readonly eventBufferMaxSize: number;
  /** Integers of 64 bits, or the hexadecimal digests of the newer cache manager. */
  readonly hashForm: 'integer' | 'hex';
  readonly windowSize: number;
}

interface Block {
  readonly hash: JsonValue;
  readonly parent: string | undefined;
  children: number;
}

/** Prefix cache of whole and partial blocks with its events, as the block manager of TensorRT-LLM tells them. */
export class BlockCache {
  readonly #options: BlockCacheOptions;
  /** By content and everything before it; the least recently used first. */
  readonly #blocks = new Map<string, Block>();
  #events: JsonValue[] = [];
  #eventId = 0;
  droppedEvents = 0;

  constructor(options: BlockCacheOptions) {
    this.#options = options;
    this.#tell({ type: 'created', num_blocks_per_cache_level: [options.totalBlocks, 0] });
  }

  get size(): number {
    return this.#blocks.size;
  }

  /** Tokens of the longest prefix that is held in whole blocks, at least one token less than all. */
  match(tokens: readonly number[], salt: string): number {
    const { blockSize } = this.#options;
    let matched = 0;
    while (matched + blockSize < tokens.length) {
      const key = keyOf(tokens, matched + blockSize, salt);
      const block = this.#blocks.get(key);
      if (block === undefined) break;
      this.#blocks.delete(key);
      this.#blocks.set(key, block);
      matched += blockSize;
    }
    return matched;
  }

  /** One event for what is new of a sequence. The last block may be partial, as the engine stores it when a request has ended. */
  store(tokens: readonly number[], salt: string, hasEnded: boolean): void {
    const { blockSize } = this.#options;
    const added: JsonValue[] = [];
    let parent: string | undefined;
    let first: string | undefined;
    const storable = hasEnded ? tokens.length : tokens.length - (tokens.length % blockSize);
    for (let from = 0; from < storable; from += blockSize) {
      const end = Math.min(storable, from + blockSize);
      const key = keyOf(tokens, end, salt);
      if (!this.#blocks.has(key)) {
        if (!this.#makeRoom(parent)) break;
        const hash = this.#hashOf(key);
        if (added.length === 0) first = parent;
        this.#blocks.set(key, { hash, parent, children: 0 });
        const above = parent === undefined ? undefined : this.#blocks.get(parent);
        if (above !== undefined) above.children++;
        added.push({ type: 'stored_block', block_hash: hash, tokens: tokens.slice(from, end).map((id) => ({ type: 'unique_token', token_id: id, token_extra_id: 0 })), cache_level: 0, priority: 35 });
      }
      parent = key;
    }
    if (added.length > 0) this.#tell({ type: 'stored', parent_hash: first === undefined ? null : (this.#blocks.get(first)?.hash ?? null), blocks: added });
  }

  /** Events since the last call, and those that the buffer still has. */
  drain(): JsonValue[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Drops everything, as a new engine has nothing: its events begin anew. */
  reset(): void {
    this.#blocks.clear();
    this.#events = [];
    this.#eventId = 0;
    this.#tell({ type: 'created', num_blocks_per_cache_level: [this.#options.totalBlocks, 0] });
  }

  #makeRoom(parent: string | undefined): boolean {
    while (this.#blocks.size >= this.#options.totalBlocks) {
      const victim = [...this.#blocks].find(([key, block]) => block.children === 0 && key !== parent);
      if (victim === undefined) return false;
      const [key, block] = victim;
      this.#blocks.delete(key);
      const above = block.parent === undefined ? undefined : this.#blocks.get(block.parent);
      if (above !== undefined) above.children--;
      this.#tell({ type: 'removed', block_hashes: [block.hash] });
    }
    return true;
  }

  #tell(data: JsonValue): void {
    const { eventBufferMaxSize, windowSize } = this.#options;
    if (eventBufferMaxSize === 0) return;
    this.#events.push({ event_id: this.#eventId++, data, window_size: windowSize });
    if (this.#events.length <= eventBufferMaxSize) return;
    this.#events.shift();
    this.droppedEvents++;
  }

  #hashOf(key: string): JsonValue {
    const digest = createHash('sha256').update(key).digest();
    return this.#options.hashForm === 'hex' ? digest.toString('hex') : digest.readBigUInt64LE();
  }
}

function keyOf(tokens: readonly number[], end: number, salt: string): string {
  return `${salt}|${tokens.slice(0, end).join()}`;
}
