// @hot
import type { KvEvent, KvTier } from '@armature/contracts';
import { BlockSets, Tier } from './block-sets.ts';
import type { OverlapColumns } from './block-sets.ts';

const ABSENT = -1;

export function tierIndex(tier: KvTier): number {
  switch (tier) {
    case 'device':
      return Tier.Device;
    case 'host':
      return Tier.Host;
    case 'disk':
      return Tier.Disk;
    case 'object':
      return Tier.Object;
  }
}

/**
 * What every worker holds, from its KV events. Exact: a hole, an orphan or an out-of-order removal gives the true
 * unbroken prefix. Event ids are checked per slot; anything from a slot that has not joined is ignored.
 */
export class KvIndex {
  readonly #sets: BlockSets;
  /** Last applied event id per slot; ABSENT = no such worker. */
  #lastEventId: Float64Array;
  #droppedBlocks: number;

  /** At most `maxBlocks` distinct blocks; later new ones are not recorded (counted), so overlap is under-reported. */
  constructor(maxBlocks?: number) {
    this.#sets = new BlockSets(maxBlocks);
    this.#lastEventId = new Float64Array(32).fill(ABSENT);
    this.#droppedBlocks = 0;
  }

  /** Distinct blocks. */
  get size(): number {
    return this.#sets.size;
  }

  /** Blocks not recorded because the index was full. */
  get droppedBlocks(): number {
    return this.#droppedBlocks;
  }

  /** Blocks of a slot, once per tier. */
  held(slot: number): number {
    return this.#sets.held(slot);
  }

  joined(slot: number): void {
    this.#sets.reserveSlot(slot);
    if (slot >= this.#lastEventId.length) {
      const grown = new Float64Array(Math.max(slot + 1, this.#lastEventId.length * 2)).fill(ABSENT);
      grown.set(this.#lastEventId);
      this.#lastEventId = grown;
    }
    this.#sets.drop(slot);
    this.#lastEventId[slot] = 0;
  }

  left(slot: number): void {
    if (!this.#isJoined(slot)) return;
    this.#sets.drop(slot);
    this.#lastEventId[slot] = ABSENT;
  }

  /** See `KvFollower.restore`. */
  restore(slot: number, events: readonly KvEvent[], lastEventId: number): void {
    if (!this.#isJoined(slot)) return;
    this.#sets.drop(slot);
    for (const event of events) this.#change(slot, event);
    this.#lastEventId[slot] = lastEventId;
  }

  /** False = gap: nothing was changed, the worker needs a resync. */
  apply(slot: number, event: KvEvent): boolean {
    if (!this.#isJoined(slot)) return true;
    const last = this.#lastEventId[slot];
    if (event.eventId <= last) return true;
    if (event.eventId !== last + 1) return false;
    this.#lastEventId[slot] = event.eventId;
    this.#change(slot, event);
    return true;
  }

  #change(slot: number, event: KvEvent): void {
    if (event.type === 'cleared') {
      this.#sets.drop(slot);
      return;
    }
    const tier = tierIndex(event.tier);
    const hashes = event.sequenceHashes;
    if (event.type === 'removed') {
      for (let i = 0; i + 1 < hashes.length; i += 2) this.#sets.remove(slot, tier, hashes[i], hashes[i + 1]);
      return;
    }
    for (let i = 0; i + 1 < hashes.length; i += 2) {
      if (!this.#sets.add(slot, tier, hashes[i], hashes[i + 1])) this.#droppedBlocks++;
    }
  }

  /** See `BlockSets.findOverlap`. */
  findOverlap(hashes: Int32Array, blocks: number, out: OverlapColumns): void {
    this.#sets.findOverlap(hashes, blocks, out);
  }

  #isJoined(slot: number): boolean {
    return slot >= 0 && slot < this.#lastEventId.length && this.#lastEventId[slot] !== ABSENT;
  }
}
