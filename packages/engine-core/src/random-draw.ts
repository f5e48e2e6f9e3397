// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): a counter-based generator, so a draw needs the
// seed and its index only and any worker continues a sequence exactly.
const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

/** High word of the 64-bit product of two u32. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(cross / 0x10000)) >>> 0;
}

/** Encrypts the four words of `counter` in place with the key. */
export function philox4x32(counter: Uint32Array, keyLo: number, keyHi: number): void {
  let k0 = keyLo >>> 0;
  let k1 = keyHi >>> 0;
  for (let round = 0; round < 10; round++) {
    const c0 = counter[0]!;
    const c2 = counter[2]!;
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    counter[0] = high1 ^ counter[1]! ^ k0;
    counter[1] = Math.imul(MULTIPLIER_1, c2);
    counter[2] = high0 ^ counter[3]! ^ k1;
    counter[3] = Math.imul(MULTIPLIER_0, c0);
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
}

const words = new Uint32Array(4);

/** Uniform in [0, 1), 53 bits: a function of the 64-bit seed, the choice and the output index alone. */
export function uniformDraw(seedLo: number, seedHi: number, choice: number, outputIndex: number): number {
  words[0] = outputIndex;
  words[1] = choice;
  words[2] = 0;
  words[3] = 0;
  philox4x32(words, seedLo, seedHi);
  return ((words[0] >>> 5) * 0x4000000 + (words[1] >>> 6)) / 0x20000000000000;
}
