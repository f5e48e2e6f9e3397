// Own elementary functions: Math.exp, Math.sin and so on may differ between engines and versions; these are fixed sequences of IEEE
// operations and so give the same bits everywhere. Math.fround and Math.floor are exact and allowed.

const fround = Math.fround;
const LOG2E = Math.LOG2E; // the constants of Math are fixed by the language, unlike its functions
const LN2_HIGH = 6.93147180369123816490e-1;
const LN2_LOW = 1.90821492927058770002e-10;
const scratch = new Float64Array(1);
const scratchWords = new Uint32Array(scratch.buffer);

/** 2^n, for -1022 <= n <= 1023. */
function powerOfTwo(n: number): number {
  scratchWords[0] = 0;
  scratchWords[1] = (n + 1023) << 20;
  return scratch[0]!;
}

/** e^x in double precision for |x| < 700, within a few units in the last place. */
export function exp64(x: number): number {
  const n = Math.floor(x * LOG2E + 0.5);
  const r = x - n * LN2_HIGH - n * LN2_LOW;
  let sum = 1;
  for (let i = 16; i >= 1; i--) sum = 1 + (sum * r) / i;
  return sum * powerOfTwo(n);
}

/** Natural logarithm in double precision of a positive normal number. */
export function ln64(x: number): number {
  scratch[0] = x;
  let exponent = (scratchWords[1]! >>> 20) - 1023;
  scratchWords[1] = (scratchWords[1]! & 0xfffff) | 0x3ff00000;
  let m = scratch[0]!;
  if (m > Math.SQRT2) {
    m /= 2;
    exponent++;
  }
  const s = (m - 1) / (m + 1);
  const square = s * s;
  let sum = 0;
  for (let i = 23; i >= 1; i -= 2) sum = sum * square + 1 / i;
  return exponent * LN2_HIGH + (2 * s * sum + exponent * LN2_LOW);
}

const HALF_PI_HIGH = 1.57079632673412561417; // 33 bits: its product with a count below 2^20 is exact
const HALF_PI_LOW = 6.07710050650619224932e-11;

function sinPolynomial(r: number): number {
  const q = r * r;
  let sum = 1;
  for (let i = 18; i >= 2; i -= 2) sum = 1 - (sum * q) / (i * (i + 1));
  return r * sum;
}

function cosPolynomial(r: number): number {
  const q = r * r;
  let sum = 1;
  for (let i = 19; i >= 1; i -= 2) sum = 1 - (sum * q) / (i * (i + 1));
  return sum;
}

function turn(x: number, quarterOffset: number): number {
  const n = Math.floor(x * 0.6366197723675814 + 0.5);
  const r = x - n * HALF_PI_HIGH - n * HALF_PI_LOW;
  const quarter = (n + quarterOffset) & 3;
  const value = (quarter & 1) === 0 ? sinPolynomial(r) : cosPolynomial(r);
  return quarter >= 2 ? -value : value;
}

/** Sine of 0 <= x < 2^20. */
export function sin64(x: number): number {
  return turn(x, 0);
}

/** Cosine of 0 <= x < 2^20. */
export function cos64(x: number): number {
  return turn(x, 1);
}

const LOG2E_32 = fround(Math.LOG2E);
const LN2_HIGH_32 = fround(0.693359375);
const LN2_LOW_32 = fround(-2.1219444e-4);
const ROUND_32 = 12582912;
const HIGHEST_32 = fround(88.37);
const LOWEST_32 = fround(-87.33);
const COEFFICIENTS_32 = [1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1].map(fround);

/** e^x in single precision: the same bits as the kernels' `exp4`. */
export function exp32(x: number): number {
  if (x < LOWEST_32) return 0;
  const upper = x < HIGHEST_32 ? x : HIGHEST_32;
  const a = LOWEST_32 < upper ? upper : LOWEST_32;
  const n = fround(fround(fround(a * LOG2E_32) + ROUND_32) - ROUND_32);
  let r = fround(a - fround(n * LN2_HIGH_32));
  r = fround(r - fround(n * LN2_LOW_32));
  let p = COEFFICIENTS_32[0]!;
  for (let i = 1; i < 6; i++) p = fround(fround(p * r) + COEFFICIENTS_32[i]!);
  p = fround(fround(fround(p * fround(r * r)) + r) + 1);
  return fround(p * powerOfTwo(n));
}
