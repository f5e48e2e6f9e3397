// @hot
const HELD = 1;
const PINNED = 2;
/** Pinned as soon as it came: it was filled in place and is still in the hands of who did it. */
const FILLED = 4;
const NONE = -1;

/** When places were last used, as numbers of a counter (exact in a double for 2^53 uses), and which are held and pinned. */
export class Uses {
  /** Read only for others. */
  readonly ages: Float64Array;
  readonly #states: Uint8Array;
  #clock: number;
  /** The place that came with the last call, if it did. */
  #newest: number;

  constructor(places: number) {
    this.ages = new Float64Array(places);
    this.#states = new Uint8Array(places);
    this.#clock = 0;
    this.#newest = NONE;
  }

  isHeld(place: number): boolean {
    return this.#states[place] !== 0;
  }

  /** Held and not pinned. */
  isFree(place: number): boolean {
    return (this.#states[place] & (HELD | PINNED)) === HELD;
  }

  begin(place: number): void {
    this.#states[place] = HELD;
    this.ages[place] = ++this.#clock;
    this.#newest = place;
  }

  touch(place: number): void {
    this.ages[place] = ++this.#clock;
    this.#newest = NONE;
  }

  pin(place: number): void {
    if (this.#states[place] === 0) return;
    this.#states[place] |= place === this.#newest ? PINNED | FILLED : PINNED;
    this.#newest = NONE;
  }

  /** What was filled begins its age now: so blocks that were filled together and are released last block first go leaves first. */
  unpin(place: number): void {
    const state = this.#states[place];
    if ((state & PINNED) === 0) return;
    if ((state & FILLED) !== 0) this.touch(place);
    this.#states[place] = HELD;
  }

  end(place: number): void {
    this.#states[place] = 0;
  }
}
