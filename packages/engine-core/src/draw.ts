const U32 = 0x1_0000_0000;

function mix(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/**
 * Uniform in [0, 1), a pure function of (seed, choice, output index): the same draw on any worker, in any batch, after migration.
 * Counter-based: lowbias32 (Wellons) over the words in turn, 53 bits out.
 */
export function drawUniform(seedLo: number, seedHi: number, choice: number, outputIndex: number): number {
  let state = mix(seedLo ^ 0x9e3779b9);
  state = mix(state ^ seedHi);
  state = mix(state + Math.imul(choice + 1, 0x85ebca6b));
  state = mix(state ^ Math.imul(outputIndex + 1, 0xc2b2ae35));
  const high = mix(state ^ 0x27d4eb2f) >>> 5;
  const low = mix(state + 0x165667b1) >>> 6;
  return (high * 67_108_864 + low) / (U32 * 2_097_152);
}
