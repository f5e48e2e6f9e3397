// @hot
import { ArmatureError } from '@armature/contracts';
import { U64Map } from '@armature/tokens';
import type { KvEvictionOrder, KvRecordVisitor, KvRemovalReason } from '@armature/contracts';
import { PlaceLists } from './place-lists.ts';

const NONE = -1;
/** List of the free places; the inactive places of tenant `t` are list `t + 1`. */
const FREE = 0;

/** Tenant numbers end here: arrays are as long as the largest one. */
const TENANTS = 1 << 20;

/** A registered block lost its hash. Called inside the call that caused it, once the table is consistent again but before the place is reused; must not call the table. */
export type RemovalListener = (lo: number, hi: number, place: number, reason: KvRemovalReason) => void;

export interface BlockTableOptions {
  /** Fixed number of places, 1 to 2^30 - 1. */
  readonly places: number;
  /** Told of every change; names the victims. One order per table. */
  readonly order: KvEvictionOrder;
  /** Places one tenant may take. Asked at every allocation, so it may change. Absent: no quotas. */
  readonly quota?: (tenant: number) => number;
  readonly onRemoved?: RemovalListener;
}

/**
 * What a tier below the engine knows of its places (pieces of memory, slots of a file):
 *
 *   free ──allocate──► mutable ──register──► registered (referenced ⇄ inactive) ──allocate──► evicted (= mutable again)
 *     ▲                   │release                        │ invalidate
 *     └───────────────────┴────────────── last release ◄──┘
 *
 * Only complete blocks are registered: what is mutable has no hash and cannot be matched. One place per hash. While a place is referenced
 * it is never evicted nor given to others; without references a registered place is *inactive*: matchable, and a candidate of the order.
 *
 * `BlockPool` of `@armature/blocks` has the same life for the engine's own memory (G1) and stays there: the engine's scheduler needs one
 * fixed rule (LRU), no tenants and no refusals, on its hottest path. A tier needs a pluggable order with admission, quotas, and to take its
 * places back from a file after a restart. So this is a second, larger table, not a parameter of the first.
 *
 * Hash words are int32 pairs. Typed arrays throughout; nothing allocates but growth of the hash table and a tenant number not seen before
 * (small, dense numbers below 2^20). Not thread-safe; calls are synchronous and O(1) unless noted.
 */
export class BlockTable {
  readonly places: number;
  readonly #order: KvEvictionOrder;
  readonly #quota: ((tenant: number) => number) | null;
  readonly #onRemoved: RemovalListener | null;
  readonly #byHash: U64Map;
  readonly #lists: PlaceLists;
  readonly #references: Int32Array;
  readonly #isRegistered: Uint8Array;
  readonly #tenants: Int32Array;
  /** Four words a place: hash, parent's hash. */
  readonly #lineage: Int32Array;
  /** Places not free, by tenant. */
  #held: Int32Array;
  #freePlaces: number;
  #referencedPlaces: number;
  #evictions: number;
  #quotaRefusals: number;
  #admissionRefusals: number;
  #pinnedRefusals: number;
  #orderFaults: number;

  constructor(options: BlockTableOptions) {
    const { places } = options;
    if (!Number.isInteger(places) || places < 1 || places >= 2 ** 30) invalidPlaces(places);
    this.places = places;
    this.#order = options.order;
    this.#quota = options.quota ?? null;
    this.#onRemoved = options.onRemoved ?? null;
    this.#byHash = new U64Map(places);
    this.#lists = new PlaceLists(places);
    this.#references = new Int32Array(places);
    this.#isRegistered = new Uint8Array(places);
    this.#tenants = new Int32Array(places);
    this.#lineage = new Int32Array(places * 4);
    this.#held = new Int32Array(8);
    this.#freePlaces = places;
    this.#referencedPlaces = 0;
    this.#evictions = 0;
    this.#quotaRefusals = 0;
    this.#admissionRefusals = 0;
    this.#pinnedRefusals = 0;
    this.#orderFaults = 0;
    for (let place = 0; place < places; place++) this.#lists.pushTail(FREE, place);
  }

  get freePlaces(): number {
    return this.#freePlaces;
  }

  /** Places whose hash can be matched. */
  get registeredPlaces(): number {
    return this.#byHash.size;
  }

  /** Places with at least one reference: mutable, pinned, or invalidated and still in use. */
  get referencedPlaces(): number {
    return this.#referencedPlaces;
  }

  get evictions(): number {
    return this.#evictions;
  }

  /** Allocations refused since: the tenant is at its quota and has nothing inactive, or is no tenant number. */
  get quotaRefusals(): number {
    return this.#quotaRefusals;
  }

  /** Allocations refused since: the order does not admit the hash for the place of its victim. */
  get admissionRefusals(): number {
    return this.#admissionRefusals;
  }

  /** Allocations refused since: everything is referenced. */
  get pinnedRefusals(): number {
    return this.#pinnedRefusals;
  }

  /** Victims that the order must not have named (free, mutable or referenced places); each was a refusal. A bug of the order. */
  get orderFaults(): number {
    return this.#orderFaults;
  }

  /** Places that a tenant holds: mutable and registered. */
  heldBy(tenant: number): number {
    return tenant < this.#held.length ? this.#held[tenant] : 0;
  }

  references(place: number): number {
    return this.#references[place];
  }

  isRegistered(place: number): boolean {
    return this.#isRegistered[place] === 1;
  }

  /** Of a place that is not free. */
  tenantOf(place: number): number {
    return this.#tenants[place];
  }

  /** The place registered under a hash, -1 without one. */
  find(lo: number, hi: number): number {
    return this.#byHash.get(lo, hi);
  }

  /**
   * Rows of interleaved hash words from row `from` on that are registered without a break. Takes no reference, counts as no use.
   *
   * A prompt's blocks mostly lie in neighbouring places: stored together, or (after evictions, leaves first) the other way round. So the place beside the last one is looked at
   * first; only a guess that fails costs a look into the hash table, and with it a cache miss in large tiers. After a jump nothing is guessed.
   */
  match(hashes: Int32Array, from: number): number {
    const rows = hashes.length >> 1;
    const lineage = this.#lineage;
    let place = NONE;
    let step = 0;
    let row = from;
    for (; row < rows; row++) {
      const lo = hashes[2 * row] | 0;
      const hi = hashes[2 * row + 1] | 0;
      const guess = place + step;
      if (step !== 0 && guess >= 0 && guess < this.places && lineage[4 * guess] === lo && lineage[4 * guess + 1] === hi && this.#isRegistered[guess] === 1) {
        place = guess;
        continue;
      }
      const found = this.#byHash.get(lo, hi);
      if (found === NONE) break;
      step = place !== NONE && (found === place + 1 || found === place - 1) ? found - place : 0;
      place = found;
    }
    return row - from;
  }

  /**
   * A mutable place with one reference; -1 refused (see the three counts). Free places first; a tenant at its quota gives up its own longest
   * unused place; else the order's victim goes. With a hash (not 0, 0) the order is asked whether the newcomer is worth the victim.
   */
  allocate(tenant: number, lo = 0, hi = 0): number {
    const isAtQuota = this.#isAtQuota(tenant);
    if (isAtQuota || this.#freePlaces === 0) {
      const victim = isAtQuota ? this.#oldestOf(tenant) : this.#victim();
      if (victim === NONE) {
        if (isAtQuota) this.#quotaRefusals++;
        else this.#pinnedRefusals++;
        return NONE;
      }
      if ((lo !== 0 || hi !== 0) && !this.#order.admits(lo, hi, victim)) {
        this.#admissionRefusals++;
        return NONE;
      }
      this.#evictions++;
      this.#forget(victim, 'evicted');
    }
    const place = this.#lists.head(FREE);
    this.#take(place, tenant);
    this.#references[place] = 1;
    this.#referencedPlaces++;
    return place;
  }

  /**
   * A mutable place holds a complete block: it may be matched from now on. The parent's hash is 0, 0 at the start of a prompt. False when the
   * hash is registered already or the place is not mutable: nothing changed, and a mutable place stays private to its owner, who releases it.
   */
  register(place: number, lo: number, hi: number, parentLo: number, parentHi: number): boolean {
    if (this.#references[place] === 0 || this.#isRegistered[place] === 1 || this.#byHash.has(lo, hi)) return false;
    this.#enter(place, lo, hi, parentLo, parentHi);
    this.#order.pinned(place);
    return true;
  }

  /**
   * A place that is free here but full on its medium: registered without references and without evicting anything. For reopening a store;
   * longest unused first. Quotas are not asked: what is there counts for its tenant from now on (tenant numbers do not outlive a process:
   * content of an earlier one belongs to tenant 0). False: the place is not free, or the hash is registered already.
   */
  adopt(place: number, lo: number, hi: number, parentLo: number, parentHi: number, tenant = 0): boolean {
    if (!isTenant(tenant) || this.#references[place] !== 0 || this.#isRegistered[place] === 1 || this.#byHash.has(lo, hi)) return false;
    this.#take(place, tenant);
    this.#enter(place, lo, hi, parentLo, parentHi);
    this.#lists.pushTail(tenant + 1, place);
    return true;
  }

  /** One more reference to a place that is registered or referenced; throws `KVBM_PIN_INVALID` for another. Not a use by itself: see `touch`. */
  acquire(place: number): void {
    if (this.#references[place] === 0 && this.#isRegistered[place] !== 1) unpinnable(place);
    if (this.#references[place]++ > 0) return;
    this.#referencedPlaces++;
    this.#lists.unlink(this.#tenants[place] + 1, place);
    this.#order.pinned(place);
  }

  /**
   * One reference less. Without any, a registered place becomes inactive, another one free. Release the last block of a prompt first: among its tenant's
   * own a place is as young as its last release or use, and leaves are to go before their parents. Throws `KVBM_UNPIN_INVALID`: released
   * more often than acquired.
   */
  release(place: number): void {
    if (!(this.#references[place] > 0)) unbalanced(place);
    if (--this.#references[place] > 0) return;
    this.#referencedPlaces--;
    if (this.#isRegistered[place] === 1) {
      this.#lists.pushTail(this.#tenants[place] + 1, place);
      this.#order.unpinned(place);
    } else this.#free(place);
  }

  /** The hash is gone at once; the place returns when its last reference ends, now if there is none. False: it was not registered. */
  invalidate(place: number, reason: KvRemovalReason): boolean {
    if (this.#isRegistered[place] !== 1) return false;
    this.#forget(place, reason);
    return true;
  }

  /** Of a registered place: its hash words, then its parent's (0, 0 = none). False: not registered, nothing is written. */
  lineage(place: number, out: Int32Array): boolean {
    if (this.#isRegistered[place] !== 1) return false;
    for (let word = 0; word < 4; word++) out[word] = this.#lineage[4 * place + word];
    return true;
  }

  /** A registered place was used: younger now, in the order and among its tenant's. */
  touch(place: number): void {
    if (this.#isRegistered[place] !== 1) return;
    if (this.#references[place] === 0) {
      const list = this.#tenants[place] + 1;
      this.#lists.unlink(list, place);
      this.#lists.pushTail(list, place);
    }
    this.#order.touched(place);
  }

  /** A hash was asked for, held or not: the order estimates how often. */
  seen(lo: number, hi: number): void {
    this.#order.seen(lo, hi);
  }

  /** Every registered block, parents before their children where both are registered; a lineage that runs in a circle (a lying file) ends. O(places), allocates. */
  records(visit: KvRecordVisitor): void {
    const isListed = new Uint8Array(this.places);
    const path = new Int32Array(this.places);
    for (let start = 0; start < this.places; start++) {
      let depth = 0;
      for (let place = start; place !== NONE && this.#isRegistered[place] === 1 && isListed[place] === 0; place = this.#parentOf(place)) {
        isListed[place] = 1;
        path[depth++] = place;
      }
      while (depth > 0) {
        const at = 4 * path[--depth];
        visit(this.#lineage[at], this.#lineage[at + 1], this.#lineage[at + 2], this.#lineage[at + 3]);
      }
    }
  }

  /** A quota of all places is none: then the order chooses the victim, not the age among the tenant's own. */
  #isAtQuota(tenant: number): boolean {
    if (!isTenant(tenant)) return true;
    if (this.#quota === null) return false;
    const quota = this.#quota(tenant);
    return quota < this.places && this.heldBy(tenant) >= quota;
  }

  #oldestOf(tenant: number): number {
    return isTenant(tenant) ? this.#lists.head(tenant + 1) : NONE;
  }

  /** An order is a plug-in: what it must not name is not evicted, whatever it says. */
  #victim(): number {
    const victim = this.#order.victim();
    if (victim === NONE) return NONE;
    if (this.#isRegistered[victim] === 1 && this.#references[victim] === 0) return victim;
    this.#orderFaults++;
    return NONE;
  }

  #take(place: number, tenant: number): void {
    this.#lists.unlink(FREE, place);
    this.#freePlaces--;
    this.#tenants[place] = tenant;
    if (tenant >= this.#held.length) this.#growTenants(tenant);
    this.#held[tenant]++;
  }

  #free(place: number): void {
    this.#held[this.#tenants[place]]--;
    this.#freePlaces++;
    this.#lists.pushHead(FREE, place);
  }

  #enter(place: number, lo: number, hi: number, parentLo: number, parentHi: number): void {
    const at = 4 * place;
    this.#lineage[at] = lo;
    this.#lineage[at + 1] = hi;
    this.#lineage[at + 2] = parentLo;
    this.#lineage[at + 3] = parentHi;
    // Before the hash is known here: a block that names itself as its parent (a lying file) has none.
    const parent = this.#parentOf(place);
    this.#isRegistered[place] = 1;
    this.#byHash.set(lo, hi, place);
    this.#order.inserted(place, lo, hi, parent, parentLo, parentHi);
  }

  #forget(place: number, reason: KvRemovalReason): void {
    const lo = this.#lineage[4 * place];
    const hi = this.#lineage[4 * place + 1];
    this.#isRegistered[place] = 0;
    this.#byHash.delete(lo, hi);
    this.#order.removed(place);
    if (this.#references[place] === 0) {
      this.#lists.unlink(this.#tenants[place] + 1, place);
      this.#free(place);
    }
    if (this.#onRemoved !== null) this.#onRemoved(lo, hi, place, reason);
  }

  #parentOf(place: number): number {
    const lo = this.#lineage[4 * place + 2];
    const hi = this.#lineage[4 * place + 3];
    return lo === 0 && hi === 0 ? NONE : this.#byHash.get(lo, hi);
  }

  #growTenants(tenant: number): void {
    let tenants = this.#held.length;
    while (tenants <= tenant) tenants *= 2;
    const held = new Int32Array(tenants);
    held.set(this.#held);
    this.#held = held;
  }
}

function invalidPlaces(places: number): never {
  throw new ArmatureError('KVBM_CAPACITY_INVALID', `a tier of ${places} blocks`, { hint: 'it must hold at least one block and fewer than 2^30' });
}

function isTenant(tenant: number): boolean {
  return Number.isInteger(tenant) && tenant >= 0 && tenant < TENANTS;
}

function unpinnable(place: number): never {
  throw new ArmatureError('KVBM_PIN_INVALID', `block ${place} is neither registered nor pinned`, { hint: 'pin blocks that were found by their hash in the same turn' });
}

function unbalanced(place: number): never {
  throw new ArmatureError('KVBM_UNPIN_INVALID', `block ${place} is not pinned`, { hint: 'release each reference once' });
}
