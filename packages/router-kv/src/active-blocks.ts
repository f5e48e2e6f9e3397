import type { RoutingRequest } from '@armature/contracts';
import { U64Map } from '@armature/tokens';
import { BlockSets, Tier } from './block-sets.ts';
import type { OverlapColumns } from './block-sets.ts';

/** A routed request that has not ended. */
class ActiveRequest {
  /** Hashes counted once per worker; empty when its blocks are not shared. */
  readonly sequenceHashes: Int32Array;
  readonly promptTokens: number;
  readonly blockSize: number;
  /** Blocks that no other request shares: output, partial block, or all of them. */
  privateBlocks: number;
  expiresAtMs: number;
  /** Something was heard of it since the last look: it gets a second chance. */
  heard: boolean;

  constructor(sequenceHashes: Int32Array, request: RoutingRequest, expiresAtMs: number) {
    this.sequenceHashes = sequenceHashes;
    this.promptTokens = request.promptTokens;
    this.blockSize = request.blockSize;
    this.privateBlocks = 0;
    this.expiresAtMs = expiresAtMs;
    this.heard = false;
  }
}

class SlotLoad {
  /** Distinct shared blocks plus private ones. */
  blocks = 0;
  readonly requests = new Map<string, ActiveRequest>();
  /** Requests of this worker that use a block. */
  readonly uses = new U64Map();
}

export interface ActiveBlocksOptions {
  /** A request unheard of for this long is given up. */
  readonly expiryMs: number;
  /** Requests tracked at most; further ones are not accounted for (counted). */
  readonly maxRequests: number;
  /** Count partial and output blocks; else complete prompt blocks only. */
  readonly trackOutputBlocks: boolean;
}

/**
 * KV blocks that the routed requests occupy on each worker, blocks shared by requests of one worker counted once.
 * All prompt blocks of an active request are held, so what a new request shares with a worker is always a prefix.
 */
export class ActiveBlocks {
  readonly #options: ActiveBlocksOptions;
  readonly #sets = new BlockSets();
  readonly #slots: (SlotLoad | undefined)[] = [];
  #requests = 0;
  #expired = 0;
  #untracked = 0;

  constructor(options: ActiveBlocksOptions) {
    this.#options = options;
  }

  /** Tracked requests. */
  get requests(): number {
    return this.#requests;
  }

  /** Requests given up because their end was never heard of. */
  get expired(): number {
    return this.#expired;
  }

  /** Requests not accounted for because of `maxRequests`. */
  get untracked(): number {
    return this.#untracked;
  }

  /** Distinct shared blocks over all workers. */
  get distinctBlocks(): number {
    return this.#sets.size;
  }

  /** Blocks in use on a worker. */
  blocks(slot: number): number {
    const load = this.#slots[slot];
    return load === undefined ? 0 : load.blocks;
  }

  joined(slot: number): void {
    this.left(slot);
    this.#sets.reserveSlot(slot);
    this.#slots[slot] = new SlotLoad();
  }

  left(slot: number): void {
    const load = this.#slots[slot];
    if (load === undefined) return;
    this.#requests -= load.requests.size;
    this.#sets.drop(slot);
    this.#slots[slot] = undefined;
  }

  /** Leading blocks of a request that active requests of each worker use already. */
  findShared(hashes: Int32Array, blocks: number, out: OverlapColumns): void {
    this.#sets.findOverlap(hashes, blocks, out);
  }

  /** Blocks a request occupies on an idle worker. */
  requestBlocks(request: RoutingRequest): number {
    return this.#options.trackOutputBlocks ? Math.ceil(request.promptTokens / request.blockSize) : request.blocks;
  }

  /** `shares` false: its blocks are its own, as Dynamo does on the decode hop without KV reuse. */
  dispatched(slot: number, request: RoutingRequest, shares: boolean, nowMs: number): void {
    const load = this.#slots[slot];
    if (load === undefined) return;
    this.ended(slot, request.id);
    if (this.#requests >= this.#options.maxRequests) {
      this.#untracked++;
      return;
    }
    const hashes = shares ? request.sequenceHashes.slice(0, request.blocks * 2) : new Int32Array(0);
    const active = new ActiveRequest(hashes, request, nowMs + this.#options.expiryMs);
    for (let i = 0; i < hashes.length; i += 2) {
      const uses = load.uses.get(hashes[i], hashes[i + 1]);
      if (uses > 0) {
        load.uses.set(hashes[i], hashes[i + 1], uses + 1);
        continue;
      }
      load.uses.set(hashes[i], hashes[i + 1], 1);
      this.#sets.add(slot, Tier.Device, hashes[i], hashes[i + 1]);
      load.blocks++;
    }
    load.requests.set(request.id, active);
    this.#requests++;
    this.#setPrivate(load, active, this.requestBlocks(request) - hashes.length / 2);
  }

  firstToken(slot: number, requestId: string): void {
    const active = this.#slots[slot]?.requests.get(requestId);
    if (active !== undefined) active.heard = true;
  }

  grown(slot: number, requestId: string, tokens: number): void {
    const load = this.#slots[slot];
    const active = load?.requests.get(requestId);
    if (load === undefined || active === undefined) return;
    active.heard = true;
    if (!this.#options.trackOutputBlocks) return;
    const all = Math.ceil((active.promptTokens + tokens) / active.blockSize);
    this.#setPrivate(load, active, all - active.sequenceHashes.length / 2);
  }

  /** Unknown requests (expired, untracked, ended before) are ignored. */
  ended(slot: number, requestId: string): void {
    const load = this.#slots[slot];
    const active = load?.requests.get(requestId);
    if (load !== undefined && active !== undefined) this.#release(slot, load, requestId, active);
  }

  /** Gives up requests past their expiry that were not heard of since the last look. */
  expire(nowMs: number): number {
    const before = this.#expired;
    for (let slot = 0; slot < this.#slots.length; slot++) {
      const load = this.#slots[slot];
      if (load === undefined) continue;
      for (const [id, active] of load.requests) {
        if (nowMs < active.expiresAtMs) continue;
        if (active.heard) {
          active.heard = false;
          active.expiresAtMs = nowMs + this.#options.expiryMs;
          continue;
        }
        this.#release(slot, load, id, active);
        this.#expired++;
      }
    }
    return this.#expired - before;
  }

  #setPrivate(load: SlotLoad, active: ActiveRequest, blocks: number): void {
    const next = Math.max(0, blocks);
    load.blocks += next - active.privateBlocks;
    active.privateBlocks = next;
  }

  #release(slot: number, load: SlotLoad, requestId: string, active: ActiveRequest): void {
    const hashes = active.sequenceHashes;
    for (let i = 0; i < hashes.length; i += 2) {
      const uses = load.uses.get(hashes[i], hashes[i + 1]);
      if (uses > 1) {
        load.uses.set(hashes[i], hashes[i + 1], uses - 1);
        continue;
      }
      load.uses.delete(hashes[i], hashes[i + 1]);
      this.#sets.remove(slot, Tier.Device, hashes[i], hashes[i + 1]);
      load.blocks--;
    }
    this.#setPrivate(load, active, 0);
    load.requests.delete(requestId);
    this.#requests--;
  }
}
