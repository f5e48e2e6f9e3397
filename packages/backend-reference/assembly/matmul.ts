// y[row][out] = sum over k, in the order k = 0, 1, ..., of x[row][k] * w[out][k]: one f32 accumulator per result, in every tile shape.
// Weights lie in panels of 8 outputs, [out / 8][k][out % 8] (zeros beyond the last output), so that lanes are outputs and no lane is ever summed.

// @ts-ignore: decorator
@inline function emit(y: usize, value: v128, add: bool): void {
  v128.store(y, add ? f32x4.add(v128.load(y), value) : value);
}

/** 4 rows x 8 outputs: 8 accumulators, 2 weight loads for 32 products. `wide`: all 8 outputs exist, else 4. */
function tile4x8(x: usize, xStride: usize, w: usize, k: i32, y: usize, yStride: usize, add: bool, wide: bool): void {
  const x1 = x + xStride, x2 = x1 + xStride, x3 = x2 + xStride;
  let a0 = f32x4.splat(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  for (let i: usize = 0, end = <usize>k << 2; i < end; i += 4) {
    const w0 = v128.load(w), w1 = v128.load(w, 16);
    w += 32;
    const xa = v128.load_splat<f32>(x + i);
    a0 = f32x4.add(a0, f32x4.mul(xa, w0));
    a1 = f32x4.add(a1, f32x4.mul(xa, w1));
    const xb = v128.load_splat<f32>(x1 + i);
    b0 = f32x4.add(b0, f32x4.mul(xb, w0));
    b1 = f32x4.add(b1, f32x4.mul(xb, w1));
    const xc = v128.load_splat<f32>(x2 + i);
    c0 = f32x4.add(c0, f32x4.mul(xc, w0));
    c1 = f32x4.add(c1, f32x4.mul(xc, w1));
    const xd = v128.load_splat<f32>(x3 + i);
    d0 = f32x4.add(d0, f32x4.mul(xd, w0));
    d1 = f32x4.add(d1, f32x4.mul(xd, w1));
  }
  emit(y, a0, add);
  emit(y + yStride, b0, add);
  emit(y + 2 * yStride, c0, add);
  emit(y + 3 * yStride, d0, add);
  if (!wide) return;
  emit(y + 16, a1, add);
  emit(y + yStride + 16, b1, add);
  emit(y + 2 * yStride + 16, c1, add);
  emit(y + 3 * yStride + 16, d1, add);
}

/** 2 rows x 16 outputs. */
function tile2x16(x: usize, xStride: usize, w: usize, k: i32, y: usize, yStride: usize, add: bool): void {
  const x1 = x + xStride, panel = <usize>k << 5;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (let i: usize = 0, end = <usize>k << 2; i < end; i += 4) {
    const w0 = v128.load(w), w1 = v128.load(w, 16), w2 = v128.load(w + panel), w3 = v128.load(w + panel, 16);
    w += 32;
    const xa = v128.load_splat<f32>(x + i);
    a0 = f32x4.add(a0, f32x4.mul(xa, w0));
    a1 = f32x4.add(a1, f32x4.mul(xa, w1));
    a2 = f32x4.add(a2, f32x4.mul(xa, w2));
    a3 = f32x4.add(a3, f32x4.mul(xa, w3));
    const xb = v128.load_splat<f32>(x1 + i);
    b0 = f32x4.add(b0, f32x4.mul(xb, w0));
    b1 = f32x4.add(b1, f32x4.mul(xb, w1));
    b2 = f32x4.add(b2, f32x4.mul(xb, w2));
    b3 = f32x4.add(b3, f32x4.mul(xb, w3));
  }
  emit(y, a0, add);
  emit(y + 16, a1, add);
  emit(y + 32, a2, add);
  emit(y + 48, a3, add);
  y += yStride;
  emit(y, b0, add);
  emit(y + 16, b1, add);
  emit(y + 32, b2, add);
  emit(y + 48, b3, add);
}

/** 1 row x 32 outputs: four weight streams for single-sequence decode. */
function tile1x32(x: usize, w: usize, k: i32, y: usize, add: bool): void {
  const panel = <usize>k << 5;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
  for (let i: usize = 0, end = <usize>k << 2; i < end; i += 4) {
    const v = v128.load_splat<f32>(x + i);
    const w1 = w + panel, w2 = w1 + panel, w3 = w2 + panel;
    a0 = f32x4.add(a0, f32x4.mul(v, v128.load(w)));
    a1 = f32x4.add(a1, f32x4.mul(v, v128.load(w, 16)));
    a2 = f32x4.add(a2, f32x4.mul(v, v128.load(w1)));
    a3 = f32x4.add(a3, f32x4.mul(v, v128.load(w1, 16)));
    a4 = f32x4.add(a4, f32x4.mul(v, v128.load(w2)));
    a5 = f32x4.add(a5, f32x4.mul(v, v128.load(w2, 16)));
    a6 = f32x4.add(a6, f32x4.mul(v, v128.load(w3)));
    a7 = f32x4.add(a7, f32x4.mul(v, v128.load(w3, 16)));
    w += 32;
  }
  emit(y, a0, add);
  emit(y + 16, a1, add);
  emit(y + 32, a2, add);
  emit(y + 48, a3, add);
  emit(y + 64, a4, add);
  emit(y + 80, a5, add);
  emit(y + 96, a6, add);
  emit(y + 112, a7, add);
}

/** 1 row x 8 outputs: what is left at the end of the outputs. */
function tile1x8(x: usize, w: usize, k: i32, y: usize, add: bool, wide: bool): void {
  let a0 = f32x4.splat(0), a1 = a0;
  for (let i: usize = 0, end = <usize>k << 2; i < end; i += 4) {
    const v = v128.load_splat<f32>(x + i);
    a0 = f32x4.add(a0, f32x4.mul(v, v128.load(w)));
    a1 = f32x4.add(a1, f32x4.mul(v, v128.load(w, 16)));
    w += 32;
  }
  emit(y, a0, add);
  if (wide) emit(y + 16, a1, add);
}

function oneRow(x: usize, w: usize, k: i32, outs: i32, y: usize, add: bool): void {
  const panel = <usize>k << 5;
  let o = 0;
  for (; o + 32 <= outs; o += 32) tile1x32(x, w + <usize>(o >> 3) * panel, k, y + (<usize>o << 2), add);
  for (; o < outs; o += 8) tile1x8(x, w + <usize>(o >> 3) * panel, k, y + (<usize>o << 2), add, o + 8 <= outs);
}

function twoRows(x: usize, xStride: usize, w: usize, k: i32, outs: i32, y: usize, yStride: usize, add: bool): void {
  const panel = <usize>k << 5;
  let o = 0;
  for (; o + 16 <= outs; o += 16) tile2x16(x, xStride, w + <usize>(o >> 3) * panel, k, y + (<usize>o << 2), yStride, add);
  for (; o < outs; o += 8) {
    const wide = o + 8 <= outs;
    tile1x8(x, w + <usize>(o >> 3) * panel, k, y + (<usize>o << 2), add, wide);
    tile1x8(x + xStride, w + <usize>(o >> 3) * panel, k, y + yStride + (<usize>o << 2), add, wide);
  }
}

/** `outs` is a multiple of 4. `add` != 0 adds the finished sum to what `y` holds (residual). */
export function matmul(x: usize, xStride: usize, rows: i32, w: usize, k: i32, outs: i32, y: usize, yStride: usize, add: i32): void {
  const adds = add != 0, quads = rows & ~3, panel = <usize>k << 5;
  if (quads > 0) {
    for (let o = 0; o < outs; o += 8) {
      const wide = o + 8 <= outs, wo = w + <usize>(o >> 3) * panel, yo = y + (<usize>o << 2);
      for (let r = 0; r < quads; r += 4) tile4x8(x + <usize>r * xStride, xStride, wo, k, yo + <usize>r * yStride, yStride, adds, wide);
    }
  }
  let r = quads;
  if (rows - r >= 2) {
    twoRows(x + <usize>r * xStride, xStride, w, k, outs, y + <usize>r * yStride, yStride, adds);
    r += 2;
  }
  if (r < rows) oneRow(x + <usize>r * xStride, w, k, outs, y + <usize>r * yStride, adds);
}
