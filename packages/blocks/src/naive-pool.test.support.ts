/** The rules of the pool, as plain as can be: lists, maps, strings. */
export class NaivePool {
  readonly refs: number[];
  readonly hash: (string | undefined)[];
  readonly parent: (string | undefined)[];
  /** Unreferenced blocks, next victim first. */
  readonly queue: number[];
  readonly holds: number[];
  readonly evicted: string[] = [];

  constructor(total: number) {
    this.refs = Array.from({ length: total }, () => 0);
    this.hash = Array.from({ length: total }, () => undefined);
    this.parent = Array.from({ length: total }, () => undefined);
    this.queue = Array.from({ length: total }, (_, i) => i);
    this.holds = Array.from({ length: total }, () => 0);
  }

  get available(): number[] {
    return this.queue.filter((block) => this.holds[block] === 0);
  }
  oldestInactive(limit: number): string[] {
    return this.available.flatMap((block) => (this.hash[block] === undefined ? [] : [`${this.hash[block]} after ${this.parent[block]}`])).slice(0, limit);
  }
  clearInactive(): void {
    for (const block of this.queue) this.forget(block);
  }

  allocate(): number {
    const block = this.available[0];
    if (block === undefined) return -1;
    this.queue.splice(this.queue.indexOf(block), 1);
    this.forget(block);
    this.refs[block] = 1;
    return block;
  }
  acquire(block: number): void {
    if (this.refs[block]++ === 0) this.queue.splice(this.queue.indexOf(block), 1);
  }
  release(block: number): void {
    if (--this.refs[block] > 0) return;
    if (this.hash[block] === undefined) this.queue.unshift(block);
    else this.queue.push(block);
  }
  register(block: number, hash: string, parent: string | undefined): boolean {
    if (this.hash[block] !== undefined || this.find(hash) !== -1) return false;
    this.hash[block] = hash;
    this.parent[block] = parent;
    return true;
  }
  invalidate(block: number): void {
    if (this.hash[block] === undefined) return;
    this.forget(block);
    if (this.refs[block] > 0) return;
    this.queue.splice(this.queue.indexOf(block), 1);
    this.queue.unshift(block);
  }
  find(hash: string): number {
    return this.hash.indexOf(hash);
  }
  forget(block: number): void {
    const hash = this.hash[block];
    if (hash !== undefined) this.evicted.push(hash);
    this.hash[block] = undefined;
  }
}

/** Mulberry32. */
export function seeded(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}
