// The arithmetic contract in plain TypeScript: what the WebAssembly kernels must equal bit for bit. Written for reading, not for speed.
import { exp32 } from '../math/elementary.ts';

const fround = Math.fround;

/** Lanes index % 4 summed over the index, then (0 + 1) + (2 + 3). */
function sumInLanes(count: number, term: (index: number) => number): number {
  const lanes = [0, 0, 0, 0];
  for (let i = 0; i < count; i++) lanes[i & 3] = fround(lanes[i & 3]! + term(i));
  return fround(fround(lanes[0]! + lanes[1]!) + fround(lanes[2]! + lanes[3]!));
}

export function rmsnorm(x: Float32Array, weight: Float32Array, eps: number): Float32Array {
  const sum = sumInLanes(x.length, (i) => fround(x[i]! * x[i]!));
  const mean = fround(fround(sum / x.length) + fround(eps));
  const scale = fround(1 / fround(Math.sqrt(mean)));
  return x.map((value, i) => fround(fround(value * scale) * weight[i]!));
}

/** `w` is row-major [outs][x.length]. */
export function matmul(x: Float32Array, w: Float32Array, outs: number): Float32Array {
  const y = new Float32Array(outs);
  const k = x.length;
  for (let o = 0; o < outs; o++) {
    let sum = 0;
    for (let i = 0; i < k; i++) sum = fround(sum + fround(x[i]! * w[o * k + i]!));
    y[o] = sum;
  }
  return y;
}

export function add(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, i) => fround(value + b[i]!));
}

/** Rotates one head; `cosines` and `sines` of its position. */
export function rope(x: Float32Array, cosines: Float32Array, sines: Float32Array): Float32Array {
  const half = x.length / 2;
  const y = new Float32Array(x.length);
  for (let i = 0; i < half; i++) {
    y[i] = fround(fround(x[i]! * cosines[i]!) - fround(x[i + half]! * sines[i]!));
    y[i + half] = fround(fround(x[i + half]! * cosines[i]!) + fround(x[i]! * sines[i]!));
  }
  return y;
}

export function siluMultiply(gate: Float32Array, up: Float32Array): Float32Array {
  return gate.map((g, i) => fround(fround(g / fround(1 + exp32(-g))) * up[i]!));
}

/** One query head against all keys of its sequence so far; `keys[t]` and `values[t]` have the head's size. */
export function attend(q: Float32Array, keys: readonly Float32Array[], values: readonly Float32Array[], scale: number): Float32Array {
  const scores = new Float32Array(keys.length);
  for (let t = 0; t < keys.length; t++) {
    let sum = 0;
    for (let d = 0; d < q.length; d++) sum = fround(sum + fround(q[d]! * keys[t]![d]!));
    scores[t] = fround(sum * scale);
  }
  const highest = scores.reduce((a, b) => (b > a ? b : a), -Infinity);
  const weights = scores.map((score) => exp32(fround(score - highest)));
  const total = sumInLanes(weights.length, (i) => weights[i]!);
  const out = new Float32Array(q.length);
  for (let d = 0; d < q.length; d++) {
    let sum = 0;
    for (let t = 0; t < weights.length; t++) sum = fround(sum + fround(weights[t]! * values[t]![d]!));
    out[d] = fround(sum / total);
  }
  return out;
}

export function argmax(values: Float32Array): number {
  let best = -1;
  let highest = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (values[i]! > highest || (best < 0 && values[i] === highest)) {
      best = i;
      highest = values[i]!;
    }
  }
  return best;
}

export function sumExponentials(values: Float32Array, highest: number): number {
  return sumInLanes(values.length, (i) => exp32(fround(values[i]! - highest)));
}
