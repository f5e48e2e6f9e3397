import { exp4, maxLanes, sumLanes } from './exp';

// Shape of the model and of its KV blocks; constant after `configure`. One block is
// [layer]( keys [kv head][dim][token], values [kv head][token][dim] ) in f32: keys lie token-minor so that lanes are tokens.
export let queryHeads: i32 = 0;
export let kvHeads: i32 = 0;
export let headDim: i32 = 0;
export let blockSize: i32 = 0;
let arena: usize = 0;
let blockBytes: usize = 0;
let scale: f32 = 0;

export function configure(heads: i32, keyValueHeads: i32, dim: i32, tokensPerBlock: i32, arenaBase: usize, bytesPerBlock: usize, scoreScale: f32): void {
  queryHeads = heads;
  kvHeads = keyValueHeads;
  headDim = dim;
  blockSize = tokensPerBlock;
  arena = arenaBase;
  blockBytes = bytesPerBlock;
  scale = scoreScale;
}

/** scores[token] = (sum over d in order of q[d] * k[d][token]) * scale, for all tokens of one block. */
// @ts-ignore: decorator
@inline function blockScores(q: usize, keys: usize, scores: usize): void {
  const row = <usize>blockSize << 2, end = <usize>headDim << 2, s = f32x4.splat(scale);
  let t: usize = 0;
  for (; t + 64 <= row; t += 64) {
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
    let k = keys + t;
    for (let d: usize = 0; d < end; d += 4) {
      const v = v128.load_splat<f32>(q + d);
      a0 = f32x4.add(a0, f32x4.mul(v, v128.load(k)));
      a1 = f32x4.add(a1, f32x4.mul(v, v128.load(k, 16)));
      a2 = f32x4.add(a2, f32x4.mul(v, v128.load(k, 32)));
      a3 = f32x4.add(a3, f32x4.mul(v, v128.load(k, 48)));
      k += row;
    }
    v128.store(scores + t, f32x4.mul(a0, s));
    v128.store(scores + t, f32x4.mul(a1, s), 16);
    v128.store(scores + t, f32x4.mul(a2, s), 32);
    v128.store(scores + t, f32x4.mul(a3, s), 48);
  }
  for (; t < row; t += 16) {
    let a0 = f32x4.splat(0);
    let k = keys + t;
    for (let d: usize = 0; d < end; d += 4) {
      a0 = f32x4.add(a0, f32x4.mul(v128.load_splat<f32>(q + d), v128.load(k)));
      k += row;
    }
    v128.store(scores + t, f32x4.mul(a0, s));
  }
}

/** Scores become e^(score - max); lanes beyond `count` become 0. Returns their sum: 4 lanes (position % 4), then the lanes. */
// @ts-ignore: decorator
@inline function softmaxWeights(scores: usize, count: i32): f32 {
  const end = <usize>((count + 3) & ~3) << 2;
  for (let i = count; i < ((count + 3) & ~3); i++) store<f32>(scores + (<usize>i << 2), -Infinity);
  let highest = f32x4.splat(-Infinity);
  for (let i: usize = 0; i < end; i += 16) highest = f32x4.pmax(highest, v128.load(scores + i));
  const top = f32x4.splat(maxLanes(highest));
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < end; i += 16) {
    const e = exp4(f32x4.sub(v128.load(scores + i), top));
    v128.store(scores + i, e);
    sum = f32x4.add(sum, e);
  }
  return sumLanes(sum);
}

/** 32 dimensions of out = (sum over tokens in order of weight[token] * v[token]) / total. */
// @ts-ignore: decorator
@inline function weigh32(weights: usize, count: i32, blocks: usize, offset: usize, total: v128, out: usize): void {
  const row = <usize>headDim << 2;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
  for (let first = 0; first < count; first += blockSize) {
    let v = arena + <usize>load<u32>(blocks) * blockBytes + offset;
    blocks += 4;
    for (let t = min(blockSize, count - first); t > 0; t--) {
      const p = v128.load_splat<f32>(weights);
      weights += 4;
      a0 = f32x4.add(a0, f32x4.mul(p, v128.load(v)));
      a1 = f32x4.add(a1, f32x4.mul(p, v128.load(v, 16)));
      a2 = f32x4.add(a2, f32x4.mul(p, v128.load(v, 32)));
      a3 = f32x4.add(a3, f32x4.mul(p, v128.load(v, 48)));
      a4 = f32x4.add(a4, f32x4.mul(p, v128.load(v, 64)));
      a5 = f32x4.add(a5, f32x4.mul(p, v128.load(v, 80)));
      a6 = f32x4.add(a6, f32x4.mul(p, v128.load(v, 96)));
      a7 = f32x4.add(a7, f32x4.mul(p, v128.load(v, 112)));
      v += row;
    }
  }
  v128.store(out, f32x4.div(a0, total));
  v128.store(out, f32x4.div(a1, total), 16);
  v128.store(out, f32x4.div(a2, total), 32);
  v128.store(out, f32x4.div(a3, total), 48);
  v128.store(out, f32x4.div(a4, total), 64);
  v128.store(out, f32x4.div(a5, total), 80);
  v128.store(out, f32x4.div(a6, total), 96);
  v128.store(out, f32x4.div(a7, total), 112);
}

// @ts-ignore: decorator
@inline function weigh4(weights: usize, count: i32, blocks: usize, offset: usize, total: v128, out: usize): void {
  const row = <usize>headDim << 2;
  let a0 = f32x4.splat(0);
  for (let first = 0; first < count; first += blockSize) {
    let v = arena + <usize>load<u32>(blocks) * blockBytes + offset;
    blocks += 4;
    for (let t = min(blockSize, count - first); t > 0; t--) {
      a0 = f32x4.add(a0, f32x4.mul(v128.load_splat<f32>(weights), v128.load(v)));
      weights += 4;
      v += row;
    }
  }
  v128.store(out, f32x4.div(a0, total));
}

/**
 * Causal attention of `rows` consecutive query rows of one sequence, the first at position `context`; each sees keys 0..its position.
 * `blocks`: u32 block numbers of the sequence. `q` is overwritten with the result. `scores`: f32 scratch for the longest sequence,
 * rounded up to a whole block.
 */
export function attention(q: usize, qStride: usize, rows: i32, context: i32, blocks: usize, layerOffset: usize, scores: usize): void {
  const head = <usize>headDim << 2, group = queryHeads / kvHeads;
  const perHead = <usize>headDim * (<usize>blockSize << 2), values = layerOffset + <usize>kvHeads * perHead;
  for (let r = 0; r < rows; r++) {
    const count = context + r + 1;
    for (let h = 0; h < queryHeads; h++) {
      const offset = <usize>(h / group) * perHead;
      const at = q + <usize>r * qStride + <usize>h * head;
      for (let first = 0; first < count; first += blockSize) {
        const keys = arena + <usize>load<u32>(blocks + (<usize>(first / blockSize) << 2)) * blockBytes + layerOffset + offset;
        blockScores(at, keys, scores + (<usize>first << 2));
      }
      const total = f32x4.splat(softmaxWeights(scores, count));
      let d: usize = 0;
      for (; d + 128 <= head; d += 128) weigh32(scores, count, blocks, values + offset + d, total, at + d);
      for (; d < head; d += 16) weigh4(scores, count, blocks, values + offset + d, total, at + d);
    }
  }
}
