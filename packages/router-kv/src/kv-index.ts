// @hot
import type { KvEvent } from '@armature/contracts';
import { PrefixIndex } from './index/prefix-index.ts';
import type { BlockVisitor } from './index/prefix-index.ts';
import type { PrefixIndexStats } from './index/stats.ts';
import { Tier } from './overlap.ts';
import type { OverlapColumns } from './overlap.ts';

const ABSENT = -1;
const UNKNOWN_TIER = -1;
/** Registered capacity below which nothing is sized ahead: growing costs next to nothing there. */
const SIZED_AHEAD = 65_536;

/**
 * What every worker holds, from its KV events. Exact: a hole, an orphan or an out-of-order removal gives the true
 * unbroken prefix. Event ids are checked per slot; anything from a slot that has not joined is ignored.
 */
export class KvIndex {
  readonly #blocks: PrefixIndex;
  /** Last applied event id per slot; ABSENT = no such worker. */
  #lastEventId: Float64Array;
  /** Registered capacity per slot, in blocks. */
  #capacity: Float64Array;
  #expectedBlocks: number;
  #malformedEvents: number;

  /** At most `maxBlocks` distinct blocks; later new ones are not recorded (counted), so overlap is under-reported. */
  constructor(maxBlocks?: number) {
    this.#blocks = new PrefixIndex(maxBlocks);
    this.#lastEventId = new Float64Array(32).fill(ABSENT);
    this.#capacity = new Float64Array(32);
    this.#expectedBlocks = 0;
    this.#malformedEvents = 0;
  }

  /** Distinct blocks; those of workers that left count until the sweep has come by (at once in a small index). */
  get size(): number {
    return this.#blocks.size;
  }

  /** Blocks not recorded because the index was full. */
  get droppedBlocks(): number {
    return this.#blocks.droppedBlocks;
  }

  /** Events without effect because they were not what `KvEvent` says. */
  get malformedEvents(): number {
    return this.#malformedEvents;
  }

  /** Blocks of a slot, once per tier. */
  held(slot: number): number {
    return this.#isJoined(slot) ? this.#blocks.held(slot) : 0;
  }

  /** A worker without blocks whose next event is number 1. `totalBlocks` of device cache, where known, size the index ahead. */
  joined(slot: number, totalBlocks = 0): void {
    if (!(totalBlocks > 0)) totalBlocks = 0;
    this.#reserveSlot(slot);
    this.#blocks.clear(slot);
    this.#lastEventId[slot] = 0;
    this.#expect(slot, totalBlocks);
    if (this.#expectedBlocks > SIZED_AHEAD) this.#blocks.reserve(this.#expectedBlocks);
  }

  left(slot: number): void {
    if (!this.#isJoined(slot)) return;
    this.#blocks.clear(slot);
    this.#lastEventId[slot] = ABSENT;
    this.#expect(slot, 0);
  }

  /** See `KvFollower.restore`. */
  restore(slot: number, events: readonly KvEvent[], lastEventId: number): void {
    if (!this.#isJoined(slot)) return;
    this.#blocks.clear(slot);
    for (let i = 0; i < events.length; i++) {
      if (isWellFormed(events[i])) this.#change(slot, events[i]);
      else this.#malformedEvents++;
    }
    this.#lastEventId[slot] = lastEventId;
  }

  /**
   * False = gap: nothing was changed, the worker needs a resync. A malformed event changes nothing, not even the last id, so
   * that the event after it shows the gap.
   */
  apply(slot: number, event: KvEvent): boolean {
    if (!this.#isJoined(slot)) return true;
    if (!isWellFormed(event)) {
      this.#malformedEvents++;
      return true;
    }
    const last = this.#lastEventId[slot];
    if (event.eventId <= last) return true;
    if (event.eventId !== last + 1) return false;
    this.#lastEventId[slot] = event.eventId;
    this.#change(slot, event);
    return true;
  }

  /** See `PrefixIndex.findOverlap`. */
  findOverlap(hashes: Int32Array, blocks: number, out: OverlapColumns, from = 0): void {
    this.#blocks.findOverlap(hashes, blocks, out, from);
  }

  /** Gives back memory of workers that left or were cleared; otherwise later events do. Looks at about `budget` blocks. */
  sweep(budget: number): void {
    this.#blocks.sweep(budget);
  }

  /** See `PrefixIndex.blocksOf`. */
  blocksOf(slot: number, visit: BlockVisitor): void {
    this.#blocks.blocksOf(slot, visit);
  }

  stats(): PrefixIndexStats {
    return this.#blocks.stats();
  }

  #change(slot: number, event: KvEvent): void {
    if (event.type === 'cleared') {
      if (event.tier === undefined) this.#blocks.clear(slot);
      else this.#blocks.clearTier(slot, tierIndex(event.tier));
      return;
    }
    const tier = tierIndex(event.tier);
    const hashes = event.sequenceHashes;
    if (event.type === 'removed') this.#blocks.remove(slot, tier, hashes, hashes.length >>> 1);
    else this.#blocks.store(slot, tier, hashes, hashes.length >>> 1, event.parent);
  }

  #expect(slot: number, blocks: number): void {
    this.#expectedBlocks += blocks - this.#capacity[slot];
    this.#capacity[slot] = blocks;
  }

  #reserveSlot(slot: number): void {
    this.#blocks.reserveSlot(slot);
    if (slot < this.#lastEventId.length) return;
    const length = Math.max(slot + 1, this.#lastEventId.length * 2);
    const ids = new Float64Array(length).fill(ABSENT);
    ids.set(this.#lastEventId);
    this.#lastEventId = ids;
    const capacity = new Float64Array(length);
    capacity.set(this.#capacity);
    this.#capacity = capacity;
  }

  #isJoined(slot: number): boolean {
    return this.#lastEventId[slot] >= 0; // undefined beyond the column
  }
}

function tierIndex(tier: unknown): number {
  switch (tier) {
    case 'device':
      return Tier.Device;
    case 'host':
      return Tier.Host;
    case 'disk':
      return Tier.Disk;
    case 'object':
      return Tier.Object;
    default:
      return UNKNOWN_TIER;
  }
}

/** Events come from other processes and plug-ins: what is not exactly the shape is not applied. */
function isWellFormed(event: KvEvent | null | undefined): boolean {
  if (typeof event !== 'object' || event === null) return false;
  if (!Number.isSafeInteger(event.eventId) || event.eventId < 0) return false;
  if (event.type === 'cleared') return event.tier === undefined || tierIndex(event.tier) !== UNKNOWN_TIER;
  if (event.type === 'stored') {
    const parent: unknown = event.parent;
    if (!(parent instanceof Int32Array) || (parent.length !== 0 && parent.length !== 2)) return false;
  } else if (event.type !== 'removed') return false;
  const hashes: unknown = event.sequenceHashes;
  return hashes instanceof Int32Array && (hashes.length & 1) === 0 && tierIndex(event.tier) !== UNKNOWN_TIER;
}
