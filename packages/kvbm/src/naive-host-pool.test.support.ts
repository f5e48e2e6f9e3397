import type { OnboardStatus, StoreStatus } from './host-pool.ts';

interface Entry {
  readonly bytes: Uint8Array;
  readonly parent: string;
  pins: number;
  isFlipped: boolean;
}

/** The rules of the pool, as plain as can be: one Map in order of use, oldest first. Pinned entries stand outside that order. */
export class NaiveHostPool {
  readonly held = new Map<string, Entry>();
  readonly evicted: string[] = [];
  /** Dropped while pinned: their memory comes back with the last pin. */
  readonly zombies: Entry[] = [];
  readonly counts = { stores: 0, duplicates: 0, refusals: 0, evictions: 0, onboards: 0, misses: 0, corruptions: 0 };
  readonly #blocks: number;

  constructor(blocks: number) {
    this.#blocks = blocks;
  }

  store(name: string, parent: string, bytes: Uint8Array): StoreStatus {
    if (this.held.has(name)) {
      this.touch(name);
      this.counts.duplicates++;
      return 'present';
    }
    if (this.held.size + this.zombies.length >= this.#blocks) {
      const victim = [...this.held].find(([, entry]) => entry.pins === 0)?.[0];
      if (victim === undefined) {
        this.counts.refusals++;
        return 'full';
      }
      this.held.delete(victim);
      this.evicted.push(`${victim} capacity`);
      this.counts.evictions++;
    }
    this.held.set(name, { bytes, parent, pins: 0, isFlipped: false });
    this.counts.stores++;
    return 'stored';
  }

  onboard(name: string): OnboardStatus {
    const entry = this.held.get(name);
    if (entry === undefined) {
      this.counts.misses++;
      return 'missing';
    }
    if (entry.isFlipped) {
      this.drop(name, entry);
      return 'corrupt';
    }
    this.touch(name);
    this.counts.onboards++;
    return 'onboarded';
  }

  drop(name: string, entry: Entry): void {
    this.held.delete(name);
    if (entry.pins > 0) this.zombies.push(entry);
    this.evicted.push(`${name} corrupt`);
    this.counts.corruptions++;
  }

  touch(name: string): void {
    const entry = this.held.get(name);
    if (entry === undefined || entry.pins > 0) return;
    this.held.delete(name);
    this.held.set(name, entry);
  }

  unpin(name: string, entry: Entry): void {
    entry.pins--;
    if (entry.pins > 0) return;
    const zombie = this.zombies.indexOf(entry);
    if (zombie === -1) this.touch(name);
    else this.zombies.splice(zombie, 1);
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
