import type { Random } from '@armature/contracts';

/** xoshiro128** 1.1 (Blackman and Vigna), seeded through splitmix32. Period 2^128 - 1. Not for secrets. */
export class SeededRandom implements Random {
  readonly #origin: Uint32Array;
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  /** Any number or text; equal seeds give equal sequences on every machine. */
  constructor(seed: number | string) {
    const words = new Uint32Array(4);
    let state = typeof seed === 'number' ? mix(hash(0x9e3779b9, `${seed}`)) : hash(0x85ebca6b, seed);
    for (let i = 0; i < 4; i++) {
      state = (state + 0x9e3779b9) >>> 0;
      words[i] = mix(state);
    }
    this.#origin = words;
    this.#a = words[0] | 1;
    this.#b = words[1] | 0;
    this.#c = words[2] | 0;
    this.#d = words[3] | 0;
  }

  u32(): number {
    const product = Math.imul(this.#b, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const shifted = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= shifted;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  next(): number {
    // 53 bits of two draws.
    return ((this.u32() >>> 5) * 67_108_864 + (this.u32() >>> 6)) / 9_007_199_254_740_992;
  }

  below(bound: number): number {
    if (!(bound >= 1)) return 0;
    if (bound > 4_294_967_296) return Math.floor(this.next() * bound);
    // Rejection keeps it uniform; at most two draws on average.
    const limit = 4_294_967_296 - (4_294_967_296 % bound);
    for (;;) {
      const value = this.u32();
      if (value < limit) return value % bound;
    }
  }

  fork(label: string): SeededRandom {
    const [a, b, c, d] = this.#origin;
    return new SeededRandom(`${a}.${b}.${c}.${d}/${label}`);
  }
}

/** murmur3 finalizer: every input bit reaches every output bit. */
function mix(value: number): number {
  let x = value | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

function hash(seed: number, text: string): number {
  let state = seed | 0;
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x01000193) ^ (state >>> 15);
  return mix(state);
}
