// @hot
const NONE = -1;

/** Doubly linked lists over places, each place in at most one of them. Typed arrays; lists are made as their numbers come up. */
export class PlaceLists {
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #heads: Int32Array;
  #tails: Int32Array;

  constructor(places: number) {
    this.#next = new Int32Array(places);
    this.#previous = new Int32Array(places);
    this.#heads = new Int32Array(8).fill(NONE);
    this.#tails = new Int32Array(8).fill(NONE);
  }

  /** First place, -1 when empty. */
  head(list: number): number {
    return list < this.#heads.length ? this.#heads[list] : NONE;
  }

  pushHead(list: number, place: number): void {
    if (list >= this.#heads.length) this.#grow(list);
    const after = this.#heads[list];
    this.#previous[place] = NONE;
    this.#next[place] = after;
    if (after === NONE) this.#tails[list] = place;
    else this.#previous[after] = place;
    this.#heads[list] = place;
  }

  pushTail(list: number, place: number): void {
    if (list >= this.#heads.length) this.#grow(list);
    const before = this.#tails[list];
    this.#next[place] = NONE;
    this.#previous[place] = before;
    if (before === NONE) this.#heads[list] = place;
    else this.#next[before] = place;
    this.#tails[list] = place;
  }

  /** `place` must be in `list`. */
  unlink(list: number, place: number): void {
    const before = this.#previous[place];
    const after = this.#next[place];
    if (before === NONE) this.#heads[list] = after;
    else this.#next[before] = after;
    if (after === NONE) this.#tails[list] = before;
    else this.#previous[after] = before;
  }

  #grow(list: number): void {
    let lists = this.#heads.length;
    while (lists <= list) lists *= 2;
    const heads = new Int32Array(lists).fill(NONE);
    const tails = new Int32Array(lists).fill(NONE);
    heads.set(this.#heads);
    tails.set(this.#tails);
    this.#heads = heads;
    this.#tails = tails;
  }
}
