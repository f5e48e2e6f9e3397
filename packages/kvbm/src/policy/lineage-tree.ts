// @hot
import { U64Map } from '@armature/tokens';

const NONE = -1;

/**
 * Who follows whom among the held blocks. Blocks come and go in any order: one whose parent is not held waits under the parent's hash and is
 * found when the parent comes. O(1) per change (`remove`: per child), no allocation but growth of the table of waiting hashes.
 */
export class LineageTree {
  readonly #parents: Int32Array;
  /** First child; siblings are a doubly linked list. */
  readonly #children: Int32Array;
  readonly #childCounts: Int32Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** Four words a place: hash, parent's hash. */
  readonly #hashes: Int32Array;
  /** Parent's hash → first of the blocks that wait for it. */
  readonly #waiting: U64Map;

  constructor(places: number) {
    this.#parents = new Int32Array(places).fill(NONE);
    this.#children = new Int32Array(places).fill(NONE);
    this.#childCounts = new Int32Array(places);
    this.#next = new Int32Array(places).fill(NONE);
    this.#previous = new Int32Array(places).fill(NONE);
    this.#hashes = new Int32Array(places * 4);
    this.#waiting = new U64Map();
  }

  parent(place: number): number {
    return this.#parents[place];
  }

  firstChild(place: number): number {
    return this.#children[place];
  }

  nextSibling(place: number): number {
    return this.#next[place];
  }

  childCount(place: number): number {
    return this.#childCounts[place];
  }

  isLeaf(place: number): boolean {
    return this.#children[place] === NONE;
  }

  isRoot(place: number): boolean {
    return this.#hashes[4 * place + 2] === 0 && this.#hashes[4 * place + 3] === 0;
  }

  /** `parent` is its place, -1 = not held. The block may get children by this: those that waited for it. */
  add(place: number, lo: number, hi: number, parent: number, parentLo: number, parentHi: number): void {
    const first = this.#waiting.size === 0 ? NONE : this.#waiting.get(lo, hi);
    if (first !== NONE) this.#waiting.delete(lo, hi);
    this.#children[place] = first;
    this.#childCounts[place] = 0;
    for (let child = first; child !== NONE; child = this.#next[child]) {
      this.#parents[child] = place;
      this.#childCounts[place]++;
    }
    const isRoot = (parentLo === 0 && parentHi === 0) || this.#closesCircle(place, parent);
    const at = 4 * place;
    this.#hashes[at] = lo;
    this.#hashes[at + 1] = hi;
    this.#hashes[at + 2] = isRoot ? 0 : parentLo;
    this.#hashes[at + 3] = isRoot ? 0 : parentHi;
    this.#parents[place] = isRoot ? NONE : parent;
    if (isRoot) this.#push(place, NONE);
    else if (parent === NONE) this.#waiting.set(parentLo, parentHi, this.#push(place, this.#waiting.get(parentLo, parentHi)));
    else {
      this.#children[parent] = this.#push(place, this.#children[parent]);
      this.#childCounts[parent]++;
    }
  }

  /** Its children wait for it from now on. */
  remove(place: number): void {
    this.#unlink(place);
    const first = this.#children[place];
    if (first !== NONE) {
      for (let child = first; child !== NONE; child = this.#next[child]) this.#parents[child] = NONE;
      this.#waiting.set(this.#hashes[4 * place], this.#hashes[4 * place + 1], first);
    }
    this.#children[place] = NONE;
    this.#parents[place] = NONE;
  }

  /** Hashes cannot follow each other in a circle, but what a damaged file says may: nothing in it would ever be a leaf. */
  #closesCircle(place: number, parent: number): boolean {
    if (parent === place) return true;
    if (this.#children[place] === NONE) return false;
    let above = parent;
    while (above !== NONE && above !== place) above = this.#parents[above];
    return above === place;
  }

  #push(place: number, first: number): number {
    this.#next[place] = first;
    this.#previous[place] = NONE;
    if (first !== NONE) this.#previous[first] = place;
    return place;
  }

  #unlink(place: number): void {
    const next = this.#next[place];
    const previous = this.#previous[place];
    const parent = this.#parents[place];
    if (parent !== NONE) this.#childCounts[parent]--;
    if (next !== NONE) this.#previous[next] = previous;
    if (previous !== NONE) this.#next[previous] = next;
    else if (parent !== NONE) this.#children[parent] = next;
    else if (!this.isRoot(place)) {
      const at = 4 * place;
      if (next !== NONE) this.#waiting.set(this.#hashes[at + 2], this.#hashes[at + 3], next);
      else this.#waiting.delete(this.#hashes[at + 2], this.#hashes[at + 3]);
    }
    this.#next[place] = NONE;
    this.#previous[place] = NONE;
  }
}
