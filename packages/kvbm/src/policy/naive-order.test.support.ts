import { FrequencySketch } from './frequency-sketch.ts';

interface Block {
  readonly hash: number;
  readonly parent: number;
  position: number | undefined;
  uses: number;
  age: number;
  value: number;
  isPinned: boolean;
  isFilled: boolean;
}

/** The orders as plain as can be: a map of blocks, everything looked through at each call. */
export class NaiveOrder {
  readonly blocks = new Map<number, Block>();
  readonly #by: 'age' | 'value';
  readonly #leavesOnly: boolean;
  readonly #positionBlocks: number;
  #clock = 0;
  #inflation = 0;
  #named = -1;
  #newest = -1;

  constructor(by: 'age' | 'value', leavesOnly: boolean, positionBlocks = 1) {
    this.#by = by;
    this.#leavesOnly = leavesOnly;
    this.#positionBlocks = positionBlocks;
  }

  seen(_lo: number, _hi: number): void {}

  placeOf(hash: number): number {
    for (const [place, block] of this.blocks) if (block.hash === hash) return place;
    return -1;
  }

  inserted(place: number, hash: number, parent: number): void {
    const block: Block = { hash, parent, position: parent === 0 ? 0 : undefined, uses: 1, age: ++this.#clock, value: 0, isPinned: false, isFilled: false };
    this.blocks.set(place, block);
    this.#newest = place;
    for (let changed = true; changed; ) {
      changed = false;
      for (const one of this.blocks.values()) {
        const above = this.blocks.get(this.placeOf(one.parent))?.position;
        if (one.position !== undefined || above === undefined) continue;
        one.position = above + 1;
        changed = true;
      }
    }
    this.#evaluate(block);
  }

  touched(place: number): void {
    const block = this.blocks.get(place) as Block;
    block.uses++;
    this.#newest = -1;
    block.age = ++this.#clock;
    this.#evaluate(block);
  }

  pinned(place: number): void {
    const block = this.blocks.get(place) as Block;
    if (place === this.#newest) block.isFilled = true;
    this.#newest = -1;
    block.isPinned = true;
  }

  unpinned(place: number): void {
    const block = this.blocks.get(place) as Block;
    if (block.isFilled) {
      block.age = ++this.#clock;
      this.#newest = -1;
    }
    block.isFilled = false;
    block.isPinned = false;
  }

  removed(place: number): void {
    const block = this.blocks.get(place) as Block;
    if (place === this.#named) this.#inflation = Math.max(this.#inflation, block.value);
    this.#named = -1;
    this.blocks.delete(place);
  }

  victim(): number {
    const parents = new Set([...this.blocks.values()].map(({ parent }) => parent));
    const candidates = [...this.blocks].filter(([, block]) => !block.isPinned && !(this.#leavesOnly && parents.has(block.hash)));
    candidates.sort(([, a], [, b]) => (this.#by === 'value' ? a.value - b.value || a.age - b.age : a.age - b.age));
    this.#named = candidates[0]?.[0] ?? -1;
    return this.#named;
  }

  #evaluate(block: Block): void {
    block.value = this.#inflation + block.uses * (1 + (block.position ?? 0) / this.#positionBlocks);
  }
}

/** W-TinyLFU likewise. Its sketch is the real one, which has tests of its own. */
export class NaiveTinyLfu extends NaiveOrder {
  readonly #window = new Set<number>();
  readonly #windowPlaces: number;
  readonly #sketch: FrequencySketch;

  constructor(places: number) {
    super('age', false);
    this.#windowPlaces = Math.max(1, Math.floor(places / 5));
    this.#sketch = new FrequencySketch(places);
  }

  override seen(lo: number, hi: number): void {
    this.#sketch.record(lo, hi);
  }

  override inserted(place: number, hash: number, parent: number): void {
    super.inserted(place, hash, parent);
    this.#window.add(place);
    if (this.#window.size > this.#windowPlaces) this.#window.delete(this.#oldest(true));
  }

  override removed(place: number): void {
    super.removed(place);
    this.#window.delete(place);
  }

  override victim(): number {
    const newer = this.#oldest(true);
    const older = this.#oldest(false);
    if (newer === -1 || older === -1) return Math.max(newer, older);
    const estimate = (place: number): number => this.#sketch.estimate(this.blocks.get(place)?.hash as number, word(this.blocks.get(place)?.hash as number));
    return this.#window.size < this.#windowPlaces || estimate(newer) > estimate(older) ? older : newer;
  }

  #oldest(inWindow: boolean): number {
    const candidates = [...this.blocks].filter(([place, block]) => !block.isPinned && this.#window.has(place) === inWindow);
    return candidates.sort(([, a], [, b]) => a.age - b.age)[0]?.[0] ?? -1;
  }
}

/** High word of a test's hash. */
export function word(hash: number): number {
  return hash === 0 ? 0 : hash ^ 0x2545f491;
}
