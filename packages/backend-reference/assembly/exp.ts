const LOG2E: f32 = 1.44269504088896341;
const ROUND: f32 = 12582912; // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, ties to even
const LN2_HIGH: f32 = 0.693359375;
const LN2_LOW: f32 = -2.12194440e-4;
const HIGHEST: f32 = 88.37;
const LOWEST: f32 = -87.33;

/** e^x of four lanes, Cephes' expf polynomial; 0 below -87.33, saturated above 88.37. Within 2 units in the last place. */
// @ts-ignore: decorator
@inline export function exp4(x: v128): v128 {
  const flushed = f32x4.lt(x, f32x4.splat(LOWEST));
  const a = f32x4.pmax(f32x4.splat(LOWEST), f32x4.pmin(f32x4.splat(HIGHEST), x));
  const n = f32x4.sub(f32x4.add(f32x4.mul(a, f32x4.splat(LOG2E)), f32x4.splat(ROUND)), f32x4.splat(ROUND));
  let r = f32x4.sub(a, f32x4.mul(n, f32x4.splat(LN2_HIGH)));
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(LN2_LOW)));
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1));
  const scale = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
  return v128.andnot(f32x4.mul(p, scale), flushed);
}

/** Lanes summed in the one order used everywhere. */
// @ts-ignore: decorator
@inline export function sumLanes(v: v128): f32 {
  return (f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1)) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}

// @ts-ignore: decorator
@inline export function maxLanes(v: v128): f32 {
  return max(max(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)), max(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)));
}
