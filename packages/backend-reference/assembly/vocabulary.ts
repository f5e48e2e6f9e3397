import { exp4, sumLanes } from './exp';

/** Index of the highest value; of equal ones the lowest. -1 if nothing compares (NaN). Reads whole vectors: the row is padded to 4. */
export function argmax(values: usize, count: i32): i32 {
  const whole = count & ~3;
  let highest: f32 = -Infinity;
  let lanes = f32x4.splat(-Infinity);
  for (let i = 0; i < whole; i += 4) lanes = f32x4.pmax(lanes, v128.load(values + (<usize>i << 2)));
  for (let i = 0; i < 4; i++) {
    const v = f32x4.extract_lane(lanes, 0);
    if (v > highest) highest = v;
    lanes = i8x16.shuffle(lanes, lanes, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3);
  }
  for (let i = whole; i < count; i++) {
    const v = load<f32>(values + (<usize>i << 2));
    if (v > highest) highest = v;
  }
  for (let i = 0; i < count; i++) if (load<f32>(values + (<usize>i << 2)) == highest) return i;
  return -1;
}

/** Sum of e^(value - highest): 4 lanes (index % 4), then the lanes. Reads whole vectors. */
export function sumExponentials(values: usize, count: i32, highest: f32): f32 {
  const top = f32x4.splat(highest);
  let sum = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= count; i += 4) sum = f32x4.add(sum, exp4(f32x4.sub(v128.load(values + (<usize>i << 2)), top)));
  if (i < count) {
    const left = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(count - i));
    sum = f32x4.add(sum, v128.and(left, exp4(f32x4.sub(v128.load(values + (<usize>i << 2)), top))));
  }
  return sumLanes(sum);
}

/** out = e^((value - highest)), whole vectors. */
export function exponentials(values: usize, count: i32, highest: f32, out: usize): void {
  const top = f32x4.splat(highest);
  for (let i = 0; i < count; i += 4) v128.store(out + (<usize>i << 2), exp4(f32x4.sub(v128.load(values + (<usize>i << 2)), top)));
}
