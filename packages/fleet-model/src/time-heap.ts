/** Numbers by time: equal times come out in order of insertion. Entries are not removed but outdated: see `FleetModel`. */
export class TimeHeap {
  #times: Float64Array;
  #orders: Float64Array;
  #values: Float64Array;
  #size: number;
  #inserted: number;

  constructor() {
    this.#times = new Float64Array(64);
    this.#orders = new Float64Array(64);
    this.#values = new Float64Array(64);
    this.#size = 0;
    this.#inserted = 0;
  }

  get size(): number {
    return this.#size;
  }

  /** Time of the earliest entry; Infinity when empty. */
  get nextMs(): number {
    return this.#size === 0 ? Infinity : this.#times[0];
  }

  push(timeMs: number, value: number): void {
    if (this.#size === this.#times.length) this.#grow();
    let at = this.#size++;
    const order = this.#inserted++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isBefore(timeMs, order, parent)) break;
      this.#copy(parent, at);
      at = parent;
    }
    this.#set(at, timeMs, order, value);
  }

  /** The value of the earliest entry. Must not be empty. */
  pop(): number {
    const first = this.#values[0];
    const last = --this.#size;
    const [time, order, value] = [this.#times[last], this.#orders[last], this.#values[last]];
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= last) break;
      if (child + 1 < last && this.#isBefore(this.#times[child + 1], this.#orders[child + 1], child)) child++;
      if (this.#isBefore(time, order, child)) break;
      this.#copy(child, at);
      at = child;
    }
    if (last > 0) this.#set(at, time, order, value);
    return first;
  }

  #isBefore(time: number, order: number, other: number): boolean {
    return time < this.#times[other] || (time === this.#times[other] && order < this.#orders[other]);
  }

  #copy(from: number, to: number): void {
    this.#set(to, this.#times[from], this.#orders[from], this.#values[from]);
  }

  #set(at: number, time: number, order: number, value: number): void {
    this.#times[at] = time;
    this.#orders[at] = order;
    this.#values[at] = value;
  }

  #grow(): void {
    for (const name of ['times', 'orders', 'values'] as const) {
      const old = name === 'times' ? this.#times : name === 'orders' ? this.#orders : this.#values;
      const larger = new Float64Array(old.length * 2);
      larger.set(old);
      if (name === 'times') this.#times = larger;
      else if (name === 'orders') this.#orders = larger;
      else this.#values = larger;
    }
  }
}
