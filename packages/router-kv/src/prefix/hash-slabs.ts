// @hot
const SLAB_BITS = 15;
/** Hashes per slab, and so the longest piece. */
export const SLAB_HASHES: number = 1 << SLAB_BITS;
const MASK = SLAB_HASHES - 1;
/** Smallest piece: 4 hashes, 32 bytes. */
const LEAST_CLASS = 2;
/** Empty slabs kept for the next burst (4 MB); what is more goes back to the system. */
const SPARES = 16;
const NONE = -1;

// Facts of a slab.
const CLASS = 0;
const LIVE = 1;
/** First free piece, linked through the pieces' first words; and where untouched pieces begin. */
const FREE = 2;
const FRESH = 3;
/** Neighbours in the list of its class's slabs that have room. */
const NEXT = 4;
const PREVIOUS = 5;
const FACTS = 8;

/**
 * Pieces of 4 to 32,768 hashes (two words each) for slices of hash chains. A slab of 256 KB is cut into pieces of one size,
 * a power of two; a slab whose last piece is freed can serve another size. Nothing is copied when it grows.
 * An address is the number of a hash: slab and place in it.
 */
export class HashSlabs {
  readonly #slabs: (Int32Array | undefined)[];
  #facts: Int32Array;
  /** Slabs of each class that have room. */
  readonly #open: Int32Array;
  readonly #spares: Int32Array[];
  /** Numbers of slabs that are not in use. */
  readonly #numbers: number[];
  #pieces: number;
  #inUse: number;

  constructor() {
    this.#slabs = [];
    this.#facts = new Int32Array(8 * FACTS);
    this.#open = new Int32Array(SLAB_BITS + 1).fill(NONE);
    this.#spares = [];
    this.#numbers = [];
    this.#pieces = 0;
    this.#inUse = 0;
  }

  /** Pieces handed out. */
  get pieces(): number {
    return this.#pieces;
  }

  get bytes(): number {
    return (this.#inUse + this.#spares.length) * SLAB_HASHES * 8;
  }

  /** The words around an address; the hash's words are at `offset(address)`. Valid until the piece is freed. */
  slab(address: number): Int32Array {
    return this.#slabs[address >>> SLAB_BITS] as Int32Array;
  }

  offset(address: number): number {
    return (address & MASK) << 1;
  }

  /** A piece for `count` hashes, 1 to `SLAB_HASHES`, filled from `hashes[from ..)`. */
  store(hashes: Int32Array, from: number, count: number): number {
    const sizeClass = classOf(count);
    let slab = this.#open[sizeClass];
    if (slab === NONE) slab = this.#openSlab(sizeClass);
    const words = this.#slabs[slab] as Int32Array;
    const facts = this.#facts;
    const base = slab * FACTS;
    let place = facts[base + FREE];
    if (place !== NONE) facts[base + FREE] = words[place << 1];
    else {
      place = facts[base + FRESH];
      facts[base + FRESH] = place + (1 << sizeClass);
    }
    facts[base + LIVE]++;
    if (facts[base + FREE] === NONE && facts[base + FRESH] === SLAB_HASHES) this.#unlink(slab);
    this.#pieces++;
    copy(hashes, from << 1, count << 1, words, place << 1);
    return (slab << SLAB_BITS) | place;
  }

  free(address: number): void {
    const slab = address >>> SLAB_BITS;
    const place = address & MASK;
    const facts = this.#facts;
    const base = slab * FACTS;
    this.#pieces--;
    const wasFull = facts[base + FREE] === NONE && facts[base + FRESH] === SLAB_HASHES;
    if (--facts[base + LIVE] === 0) {
      if (!wasFull) this.#unlink(slab);
      this.#closeSlab(slab);
      return;
    }
    (this.#slabs[slab] as Int32Array)[place << 1] = facts[base + FREE];
    facts[base + FREE] = place;
    if (wasFull) this.#link(slab, facts[base + CLASS]);
  }

  #openSlab(sizeClass: number): number {
    const slab = this.#numbers.pop() ?? this.#slabs.length;
    this.#slabs[slab] = this.#spares.pop() ?? new Int32Array(SLAB_HASHES * 2);
    if ((slab + 1) * FACTS > this.#facts.length) {
      const facts = new Int32Array(this.#facts.length * 2);
      facts.set(this.#facts);
      this.#facts = facts;
    }
    const base = slab * FACTS;
    this.#facts[base + CLASS] = sizeClass;
    this.#facts[base + LIVE] = 0;
    this.#facts[base + FREE] = NONE;
    this.#facts[base + FRESH] = 0;
    this.#inUse++;
    this.#link(slab, sizeClass);
    return slab;
  }

  #closeSlab(slab: number): void {
    const words = this.#slabs[slab] as Int32Array;
    this.#slabs[slab] = undefined;
    this.#numbers.push(slab);
    this.#inUse--;
    if (this.#spares.length < SPARES) this.#spares.push(words);
  }

  #link(slab: number, sizeClass: number): void {
    const first = this.#open[sizeClass];
    this.#facts[slab * FACTS + NEXT] = first;
    this.#facts[slab * FACTS + PREVIOUS] = NONE;
    if (first !== NONE) this.#facts[first * FACTS + PREVIOUS] = slab;
    this.#open[sizeClass] = slab;
  }

  #unlink(slab: number): void {
    const facts = this.#facts;
    const next = facts[slab * FACTS + NEXT];
    const previous = facts[slab * FACTS + PREVIOUS];
    if (next !== NONE) facts[next * FACTS + PREVIOUS] = previous;
    if (previous !== NONE) facts[previous * FACTS + NEXT] = next;
    else this.#open[facts[slab * FACTS + CLASS]] = next;
  }
}

/** Exponent of the smallest power of two from `count`. */
function classOf(count: number): number {
  return Math.max(LEAST_CLASS, 32 - Math.clz32(count - 1));
}

/** Above 128 words one bulk copy (and the view it needs) beats the loop. */
function copy(source: Int32Array, from: number, count: number, target: Int32Array, to: number): void {
  if (count > 128) target.set(source.subarray(from, from + count), to);
  else for (let i = 0; i < count; i++) target[to + i] = source[from + i];
}
