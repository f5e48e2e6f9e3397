// @hot
/** Tiers in order of preference: a block counts for the first one that holds it. */
export const Tier = { Device: 0, Host: 1, Disk: 2, Object: 3 } as const;
export const TIER_COUNT = 4;

/** Result of a query, by worker slot. Owned and reused by the caller; slots beyond the columns hold nothing. */
export class OverlapColumns {
  /** Leading blocks of the query held without a hole, whatever the tier. */
  total: Int32Array;
  /** Of `total`: blocks whose best tier is host, disk, object. The rest is on the device. */
  host: Int32Array;
  disk: Int32Array;
  object: Int32Array;
  /** The slots with `total` above 0, in no order: `found[0 .. count)`. */
  found: Int32Array;
  count: number;
  /** Whether anything but `total` was written. */
  hasLower: boolean;

  constructor(slots = 32) {
    this.total = new Int32Array(slots);
    this.host = new Int32Array(slots);
    this.disk = new Int32Array(slots);
    this.object = new Int32Array(slots);
    this.found = new Int32Array(slots);
    this.count = 0;
    this.hasLower = false;
  }

  /** Empties the columns, as long as every slot written is in `found`, and makes room for slots below `slots`. Costs what was found. */
  begin(slots: number): void {
    if (slots > this.total.length) {
      this.reset(slots);
      return;
    }
    const { total, found, count } = this;
    if (count === 0) return;
    if (count * 8 > total.length) total.fill(0);
    else for (let k = 0; k < count; k++) total[found[k]] = 0;
    if (this.hasLower) this.#clearLower();
    this.count = 0;
  }

  /** Empties the columns whoever wrote them, and makes room for slots below `slots`. */
  reset(slots: number): void {
    this.count = 0;
    this.hasLower = false;
    if (slots > this.total.length) {
      const capacity = Math.max(slots, this.total.length * 2);
      this.total = new Int32Array(capacity);
      this.host = new Int32Array(capacity);
      this.disk = new Int32Array(capacity);
      this.object = new Int32Array(capacity);
      this.found = new Int32Array(capacity);
      return;
    }
    this.total.fill(0);
    this.host.fill(0);
    this.disk.fill(0);
    this.object.fill(0);
  }

  #clearLower(): void {
    for (let k = 0; k < this.count; k++) {
      const slot = this.found[k];
      this.host[slot] = 0;
      this.disk[slot] = 0;
      this.object[slot] = 0;
    }
    this.hasLower = false;
  }
}
