// @hot
import type { LeafKeys } from './leaf-order.ts';
import type { LineageTree } from './lineage-tree.ts';

/** Uses of one stay that count: beyond them a block is worth keeping anyway, and the clock must be able to pass it. */
const MAX_USES = 255;
/** Blocks whose position one insertion makes known, at most: about 50 us. What lies deeper keeps its estimate. */
const MAX_PLACED = 4096;
const UNKNOWN = -1;

/**
 * GreedyDual-Size-Frequency (Cherkasova 1998) over leaves, all of one size:
 *
 *   H(b) = L + uses(b) * (1 + position(b) / positionBlocks)
 *
 * set when `b` comes and at each use. The factor is what recomputing the block costs: a constant for the weights plus attention, which grows with
 * the blocks before it. `L`, the clock, is the H of the last block evicted: what is not used falls behind it. The position is that of the
 * block in its prompt, counted along the lineage; while the start of the prompt has not come, 0.
 */
export class CostKeys implements LeafKeys {
  readonly keys: Float64Array;
  readonly #positions: Int32Array;
  readonly #uses: Uint8Array;
  readonly #perBlock: number;
  #clock: number;

  constructor(places: number, positionBlocks: number) {
    this.keys = new Float64Array(places);
    this.#positions = new Int32Array(places);
    this.#uses = new Uint8Array(places);
    this.#perBlock = 1 / positionBlocks;
    this.#clock = 0;
  }

  inserted(place: number, tree: LineageTree): void {
    const parent = tree.parent(place);
    this.#uses[place] = 1;
    if (tree.isRoot(place)) this.#positions[place] = 0;
    else this.#positions[place] = parent !== -1 && this.#positions[parent] !== UNKNOWN ? this.#positions[parent] + 1 : UNKNOWN;
    if (!tree.isLeaf(place) && this.#positions[place] !== UNKNOWN) this.#placeDescendants(place, tree);
    this.#value(place);
  }

  touched(place: number): void {
    if (this.#uses[place] < MAX_USES) this.#uses[place]++;
    this.#value(place);
  }

  removed(place: number, wasVictim: boolean): void {
    if (wasVictim && this.keys[place] > this.#clock) this.#clock = this.keys[place];
  }

  #value(place: number): void {
    this.keys[place] = this.#clock + this.#uses[place] * (1 + Math.max(0, this.#positions[place]) * this.#perBlock);
  }

  /** Positions of blocks that came before their ancestor. They are valued by them from their next use on: their keys in the heap stay. */
  #placeDescendants(top: number, tree: LineageTree): void {
    let place = tree.firstChild(top);
    for (let placed = 0; placed < MAX_PLACED && place !== -1; placed++) {
      const isNews = this.#positions[place] === UNKNOWN;
      if (isNews) this.#positions[place] = this.#positions[tree.parent(place)] + 1;
      let next = isNews ? tree.firstChild(place) : -1;
      while (next === -1 && place !== top) {
        next = tree.nextSibling(place);
        if (next === -1) place = tree.parent(place);
      }
      place = next;
    }
  }
}
