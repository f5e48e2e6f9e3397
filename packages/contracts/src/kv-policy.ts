import type { KvTier } from './kv-events.ts';
import type { Lifecycle } from './plugin.ts';

/**
 * Which block of a tier goes first. Works on places (0 to `places - 1`); the tier tells every change, in order. Pinned blocks are taken out
 * (`pinned`) and put back (`unpinned`), so that `victim` never names one. Typed arrays, no allocation per call; must not throw.
 */
export interface KvEvictionOrder {
  /**
   * A block was registered in a free place. `parent` is the place of the block before it in this tier, -1 = not held; the words are that block's
   * hash, 0, 0 at the start of a prompt: a parent may come after its child. It is not pinned.
   */
  inserted(place: number, lo: number, hi: number, parent: number, parentLo: number, parentHi: number): void;
  /** It was used (matched, loaded, stored again). Also called for pinned places. */
  touched(place: number): void;
  /** Not a use by itself. The first pin is called once per place, however many users it has. */
  pinned(place: number): void;
  /**
   * The last pin ended: back at its own age (what `touched` said meanwhile counts). A block that was pinned by the very next call after its
   * `inserted` was filled in place: its age begins with the end of that pin.
   */
  unpinned(place: number): void;
  /** It is free now; also of a pinned place, and of one whose children are still held. */
  removed(place: number): void;
  /** The place to evict next, -1 = none. Does not remove it: `removed` follows, or nothing. */
  victim(): number;
  /**
   * The places that would be evicted next if one went after the other, into `out`, at most `limit`; returns how many. Changes nothing. For those who copy
   * blocks before they are lost. Absent: pinning each victim in turn and unpinning them all tells it (an order that knows no lineage).
   */
  upcoming?(out: Int32Array, limit: number): number;
  /** Whether a newcomer is worth the place of the victim (admission). */
  admits(lo: number, hi: number, victim: number): boolean;
  /** A hash was asked for, held or not: for estimates of frequency. */
  seen(lo: number, hi: number): void;
}

/** When blocks of a tier are copied to the next one. `stored`: as soon as they are complete there; `evict`: shortly before they would be lost; `uses`: at the n-th use. */
export type KvOffloadRule =
  | { readonly when: 'stored' }
  | { readonly when: 'evict' }
  | { readonly when: 'uses'; readonly uses: number }
  | { readonly when: 'never' };

/** What is kept where, and for how long. One instance per worker; decided at boot, consulted per block without allocation. */
export interface KvPolicy extends Lifecycle {
  readonly name: string;
  /** A new order for one tier. */
  order(tier: KvTier, places: number): KvEvictionOrder;
  /** Rule for blocks that leave `tier` downwards: `device` to host, `host` to disk, `disk` to object. */
  offload(tier: KvTier): KvOffloadRule;
  /**
   * When blocks that a request will need come up to host memory before the engine takes it. `route`: when it arrives at the worker; `queue`: already
   * while it waits for one; `never`: only what fetch-or-recompute decides when the engine could take it.
   */
  readonly prefetch: 'route' | 'queue' | 'never';
}
