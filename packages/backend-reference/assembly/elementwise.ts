import { exp4, sumLanes } from './exp';

/**
 * Rows of the embedding table. `panel` is the table's panel width: 8 when it is the tied output matrix in matmul layout, 1 when it
 * is row-major.
 */
export function embed(tokens: usize, rows: i32, table: usize, k: i32, panel: i32, out: usize, outStride: usize): void {
  const step = <usize>panel << 2;
  for (let r = 0; r < rows; r++) {
    const token = load<i32>(tokens + (<usize>r << 2));
    let source = table + <usize>(token / panel) * <usize>k * step + (<usize>(token % panel) << 2);
    const y = out + <usize>r * outStride;
    for (let i: usize = 0, end = <usize>k << 2; i < end; i += 4) {
      store<f32>(y + i, load<f32>(source));
      source += step;
    }
  }
}

/** y = (x * (1 / sqrt(mean of squares + eps))) * weight. The mean is summed in 4 lanes (index % 4), then the lanes. `n` is a multiple of 4. */
export function rmsnorm(x: usize, xStride: usize, rows: i32, weight: usize, n: i32, eps: f32, out: usize, outStride: usize): void {
  const end = <usize>n << 2;
  for (let r = 0; r < rows; r++) {
    const source = x + <usize>r * xStride, y = out + <usize>r * outStride;
    let sum = f32x4.splat(0);
    for (let i: usize = 0; i < end; i += 16) {
      const v = v128.load(source + i);
      sum = f32x4.add(sum, f32x4.mul(v, v));
    }
    const scale = f32x4.splat(<f32>1 / sqrt<f32>(sumLanes(sum) / <f32>n + eps));
    for (let i: usize = 0; i < end; i += 16) {
      v128.store(y + i, f32x4.mul(f32x4.mul(v128.load(source + i), scale), v128.load(weight + i)));
    }
  }
}

/** y += bias, per row. */
export function addBias(y: usize, yStride: usize, rows: i32, bias: usize, n: i32): void {
  const end = <usize>n << 2;
  for (let r = 0; r < rows; r++) {
    const row = y + <usize>r * yStride;
    for (let i: usize = 0; i < end; i += 16) v128.store(row + i, f32x4.add(v128.load(row + i), v128.load(bias + i)));
  }
}

/** Rows hold n gates, then n ups; the gates become gate / (1 + e^-gate) * up. */
export function siluMultiply(gateUp: usize, stride: usize, rows: i32, n: i32): void {
  const end = <usize>n << 2, one = f32x4.splat(1);
  for (let r = 0; r < rows; r++) {
    const gate = gateUp + <usize>r * stride, up = gate + end;
    for (let i: usize = 0; i < end; i += 16) {
      const g = v128.load(gate + i);
      const silu = f32x4.div(g, f32x4.add(one, exp4(f32x4.neg(g))));
      v128.store(gate + i, f32x4.mul(silu, v128.load(up + i)));
    }
  }
}
