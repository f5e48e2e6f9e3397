import { blockSize, headDim, kvHeads, queryHeads } from './attention';

// @ts-ignore: decorator
@inline function scatter(k: usize, v: v128, strideBytes: usize): void {
  v128.store_lane<f32>(k, v, 0);
  v128.store_lane<f32>(k + strideBytes, v, 1);
  v128.store_lane<f32>(k + 2 * strideBytes, v, 2);
  v128.store_lane<f32>(k + 3 * strideBytes, v, 3);
}

/**
 * Takes rows [query heads | key heads | value heads] x headDim: rotates queries into `q`, rotates keys and copies values into the
 * row's KV block. `positions[row]`, `blocks[row]` (byte address of the row's block), `layerOffset` (bytes into the block).
 * `table` holds per position headDim / 2 cosines, then headDim / 2 sines. First and second half of a head turn together, as in
 * Hugging Face's Llama: (a, b) -> (a cos - b sin, b cos + a sin).
 */
export function ropeStore(qkv: usize, qkvStride: usize, rows: i32, positions: usize, blocks: usize, layerOffset: usize, q: usize, qStride: usize, table: usize): void {
  const half = <usize>headDim << 1, head = <usize>headDim << 2, tokenStride = <usize>blockSize << 2;
  for (let r = 0; r < rows; r++) {
    const position = load<u32>(positions + (<usize>r << 2));
    const cosines = table + <usize>position * head, sines = cosines + half;
    const slot = <usize>(position % <u32>blockSize);
    const keys = <usize>load<u32>(blocks + (<usize>r << 2)) + layerOffset + (slot << 2);
    let source = qkv + <usize>r * qkvStride, target = q + <usize>r * qStride;
    for (let h = 0; h < queryHeads; h++) {
      for (let i: usize = 0; i < half; i += 16) {
        const a = v128.load(source + i), b = v128.load(source + half + i), c = v128.load(cosines + i), s = v128.load(sines + i);
        v128.store(target + i, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s)));
        v128.store(target + half + i, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s)));
      }
      source += head;
      target += head;
    }
    let key = keys;
    for (let h = 0; h < kvHeads; h++) {
      for (let i: usize = 0; i < half; i += 16) {
        const a = v128.load(source + i), b = v128.load(source + half + i), c = v128.load(cosines + i), s = v128.load(sines + i);
        const at = key + (i >> 2) * tokenStride;
        scatter(at, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s)), tokenStride);
        scatter(at + (half >> 2) * tokenStride, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s)), tokenStride);
      }
      source += head;
      key += <usize>headDim * tokenStride;
    }
    // Values follow all keys of the layer, [head][token][dim].
    let value = keys - (slot << 2) + <usize>kvHeads * <usize>headDim * tokenStride + slot * head;
    for (let h = 0; h < kvHeads; h++) {
      for (let i: usize = 0; i < head; i += 16) v128.store(value + i, v128.load(source + i));
      source += head;
      value += <usize>blockSize * head;
    }
  }
}
