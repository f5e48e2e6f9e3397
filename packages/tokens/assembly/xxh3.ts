// XXH3_64 (seeded, default secret) over bytes, and block + sequence hashes over u32 tokens. AssemblyScript -> WebAssembly.
// Results are stored to memory, never returned: a u64 result would cross the boundary as a BigInt.
// Follows the XXH3 specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), length classes in its order.

// prettier-ignore
const SECRET: usize = memory.data<u8>([
  0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
  0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
  0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8,
  0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea,
  0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b,
  0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
], 16);
/** The default secret shifted by a seed (inputs above 240 bytes); one seed is remembered. */
const SEEDED: usize = memory.data(192, 16);
const ACC: usize = memory.data(64, 16);
let seededFor: u64 = 0;
let seededValid = false;

const P32_1: u64 = 0x9e3779b1, P32_2: u64 = 0x85ebca77, P32_3: u64 = 0xc2b2ae3d;
const P64_1: u64 = 0x9e3779b185ebca87, P64_2: u64 = 0xc2b2ae3d27d4eb4f, P64_3: u64 = 0x165667b19e3779f9;
const P64_4: u64 = 0x85ebca77c2b2ae63, P64_5: u64 = 0x27d4eb2f165667c5;
const PMX1: u64 = 0x165667919e3779f9, PMX2: u64 = 0x9fb21c651e98df25;
const S0: u64 = 0xbe4ba423396cfeb8, S1: u64 = 0x1cad21f72c81017c, S2: u64 = 0xdb979083e96dd4de, S3: u64 = 0x1f67b3b7a4a44072;
const S4: u64 = 0x78e5c0cc4ee679cb, S5: u64 = 0x2172ffcc7dd05a82, S6: u64 = 0x8e2443f7744608b8, S7: u64 = 0x4c263a81e69035e0;
/** Seed of the chain step, fixed by Dynamo; also the base of salt hashes. */
const CHAIN_SEED: u64 = 1337;

/** First byte the host may use. */
export function heapBase(): usize {
  return (__heap_base + 15) & ~15;
}

// @ts-ignore: decorator
@inline function fold(a: u64, b: u64): u64 { // low ^ high half of the 128-bit product (WebAssembly has no wide multiply)
  const al = a & 0xffffffff, ah = a >> 32, bl = b & 0xffffffff, bh = b >> 32;
  const ll = al * bl, hl = ah * bl, lh = al * bh, hh = ah * bh;
  const c = (ll >> 32) + (hl & 0xffffffff) + lh; // cannot overflow
  return ((c << 32) | (ll & 0xffffffff)) ^ (hh + (hl >> 32) + (c >> 32));
}
// @ts-ignore: decorator
@inline function avalanche(h: u64): u64 {
  h ^= h >> 37; h *= PMX1; return h ^ (h >> 32);
}
// @ts-ignore: decorator
@inline function avalanche64(h: u64): u64 {
  h ^= h >> 33; h *= P64_2; h ^= h >> 29; h *= P64_3; return h ^ (h >> 32);
}
// @ts-ignore: decorator
@inline function mix16(p: usize, secret: usize, seed: u64): u64 {
  return fold(load<u64>(p) ^ (load<u64>(secret) + seed), load<u64>(p, 8) ^ (load<u64>(secret, 8) - seed));
}

function short16(p: usize, len: u32, seed: u64): u64 {
  if (len > 8) {
    const lo = load<u64>(p) ^ ((S3 ^ S4) + seed), hi = load<u64>(p + len - 8) ^ ((S5 ^ S6) - seed);
    return avalanche(<u64>len + bswap<u64>(lo) + hi + fold(lo, hi));
  }
  if (len >= 4) {
    seed ^= (<u64>bswap<u32>(<u32>seed)) << 32;
    let h = (<u64>load<u32>(p + len - 4) + (<u64>load<u32>(p) << 32)) ^ ((S1 ^ S2) - seed);
    h ^= rotl<u64>(h, 49) ^ rotl<u64>(h, 24);
    h *= PMX2; h ^= (h >> 35) + <u64>len; h *= PMX2;
    return h ^ (h >> 28);
  }
  if (len > 0) {
    const c: u64 = (<u64>load<u8>(p) << 16) | (<u64>load<u8>(p + (len >> 1)) << 24) | <u64>load<u8>(p + len - 1) | (<u64>len << 8);
    return avalanche64(c ^ (((S0 & 0xffffffff) ^ (S0 >> 32)) + seed));
  }
  return avalanche64(seed ^ S7 ^ load<u64>(SECRET, 64));
}

function short128(p: usize, len: u32, seed: u64): u64 {
  let h: u64 = <u64>len * P64_1;
  if (len > 32) {
    if (len > 64) {
      if (len > 96) h += mix16(p + 48, SECRET + 96, seed) + mix16(p + len - 64, SECRET + 112, seed);
      h += mix16(p + 32, SECRET + 64, seed) + mix16(p + len - 48, SECRET + 80, seed);
    }
    h += mix16(p + 16, SECRET + 32, seed) + mix16(p + len - 32, SECRET + 48, seed);
  }
  h += mix16(p, SECRET, seed) + mix16(p + len - 16, SECRET + 16, seed);
  return avalanche(h);
}

function short240(p: usize, len: u32, seed: u64): u64 {
  let h: u64 = <u64>len * P64_1;
  for (let i: usize = 0; i < 128; i += 16) h += mix16(p + i, SECRET + i, seed);
  h = avalanche(h);
  const rounds: usize = (len >> 4) << 4;
  for (let i: usize = 128; i < rounds; i += 16) h += mix16(p + i, SECRET + i - 125, seed);
  return avalanche(h + mix16(p + len - 16, SECRET + 119, seed));
}

function useSeed(seed: u64): void {
  if (seededValid && seededFor == seed) return;
  for (let i: usize = 0; i < 192; i += 16) {
    store<u64>(SEEDED + i, load<u64>(SECRET + i) + seed);
    store<u64>(SEEDED + i, load<u64>(SECRET + i, 8) - seed, 8);
  }
  seededFor = seed; seededValid = true;
}

/** One stripe of 16 bytes into two lanes of the accumulator. */
// @ts-ignore: decorator
@inline function stripe(acc: v128, p: usize, secret: usize): v128 {
  const data = v128.load(p), key = v128.xor(data, v128.load(secret));
  const product = i64x2.extmul_low_i32x4_u(i32x4.shuffle(key, key, 0, 2, 0, 2), i32x4.shuffle(key, key, 1, 3, 1, 3));
  return i64x2.add(acc, i64x2.add(product, i64x2.shuffle(data, data, 1, 0)));
}
// @ts-ignore: decorator
@inline function scramble(acc: v128, secret: usize): v128 {
  const x = v128.xor(v128.xor(acc, i64x2.shr_u(acc, 47)), v128.load(secret));
  return i64x2.mul(x, i64x2.splat(P32_1));
}

function long(p: usize, len: u32, seed: u64): u64 {
  useSeed(seed);
  let a0 = i64x2.replace_lane(i64x2.splat(P32_3), 1, P64_1), a1 = i64x2.replace_lane(i64x2.splat(P64_2), 1, P64_3);
  let a2 = i64x2.replace_lane(i64x2.splat(P64_4), 1, P32_2), a3 = i64x2.replace_lane(i64x2.splat(P64_5), 1, P32_1);
  const stripes: u32 = (len - 1) >> 6; // full stripes before the last, which always ends at the end
  let secret = SEEDED;
  for (let s: u32 = 0, q = p; s < stripes; s++, q += 64) {
    a0 = stripe(a0, q, secret); a1 = stripe(a1, q + 16, secret + 16);
    a2 = stripe(a2, q + 32, secret + 32); a3 = stripe(a3, q + 48, secret + 48);
    secret += 8;
    if ((s & 15) == 15) { // a block of 1,024 bytes is full
      a0 = scramble(a0, SEEDED + 128); a1 = scramble(a1, SEEDED + 144);
      a2 = scramble(a2, SEEDED + 160); a3 = scramble(a3, SEEDED + 176);
      secret = SEEDED;
    }
  }
  const end = p + len - 64, last = SEEDED + 121;
  a0 = stripe(a0, end, last); a1 = stripe(a1, end + 16, last + 16);
  a2 = stripe(a2, end + 32, last + 32); a3 = stripe(a3, end + 48, last + 48);
  v128.store(ACC, a0); v128.store(ACC, a1, 16); v128.store(ACC, a2, 32); v128.store(ACC, a3, 48);
  let h: u64 = <u64>len * P64_1;
  for (let i: usize = 0; i < 64; i += 16) {
    h += fold(load<u64>(ACC + i) ^ load<u64>(SEEDED + i, 11), load<u64>(ACC + i, 8) ^ load<u64>(SEEDED + i, 19));
  }
  return avalanche(h);
}

function hash(p: usize, len: u32, seed: u64): u64 {
  if (len <= 16) return short16(p, len, seed);
  if (len <= 128) return short128(p, len, seed);
  if (len <= 240) return short240(p, len, seed);
  return long(p, len, seed);
}

// @ts-ignore: decorator
@inline function seedOf(lo: u32, hi: u32): u64 {
  return <u64>lo | (<u64>hi << 32);
}

/** Stores XXH3_64(bytes at p, seed) at `dst`. */
export function xxh3(p: usize, len: u32, dst: usize, seedLo: u32, seedHi: u32): void {
  store<u64>(dst, hash(p, len, seedOf(seedLo, seedHi)));
}

// @ts-ignore: decorator
@inline function chainStep(previous: u64, block: u64): u64 { // XXH3_64 of 16 bytes: previous, block
  const lo = previous ^ ((S3 ^ S4) + CHAIN_SEED), hi = block ^ ((S5 ^ S6) - CHAIN_SEED);
  return avalanche(16 + bswap<u64>(lo) + hi + fold(lo, hi));
}

/**
 * Block hashes of `n` blocks of `bytes` bytes at `src` to `blocks`, sequence hashes to `sequences`.
 * `continues` != 0: the sequence hash before the first block is already stored at `sequences - 8`.
 */
export function chain(src: usize, bytes: u32, n: u32, blocks: usize, sequences: usize, continues: i32, seedLo: u32, seedHi: u32): void {
  const seed = seedOf(seedLo, seedHi);
  if (bytes == 64) { chain64(src, n, blocks, sequences, continues, seed); return; }
  if (bytes == 128) { chain128(src, n, blocks, sequences, continues, seed); return; }
  let p: u64 = continues ? load<u64>(sequences - 8) : 0, first = !continues;
  for (let i: usize = 0, e = <usize>n << 3; i < e; i += 8, src += bytes) {
    const h = hash(src, bytes, seed);
    store<u64>(blocks + i, h);
    p = first ? h : chainStep(p, h);
    first = false;
    store<u64>(sequences + i, p);
  }
}

// @ts-ignore: decorator
@inline function fold2(a: v128, b: v128): v128 { // two folded products at once
  const as = i32x4.shuffle(a, a, 0, 2, 1, 3), bs = i32x4.shuffle(b, b, 0, 2, 1, 3); // (lo, lo, hi, hi)
  const ar = i32x4.shuffle(a, a, 1, 3, 0, 2); // (hi, hi, lo, lo)
  const ll = i64x2.extmul_low_i32x4_u(as, bs), hh = i64x2.extmul_high_i32x4_u(as, bs);
  const hl = i64x2.extmul_low_i32x4_u(ar, bs), lh = i64x2.extmul_high_i32x4_u(ar, bs);
  const mask = i64x2.splat(0xffffffff);
  const c = i64x2.add(i64x2.add(i64x2.shr_u(ll, 32), v128.and(hl, mask)), lh);
  return v128.xor(v128.or(i64x2.shl(c, 32), v128.and(ll, mask)), i64x2.add(i64x2.add(hh, i64x2.shr_u(hl, 32)), i64x2.shr_u(c, 32)));
}

/** 16 tokens per block: the latency-bound chain step hides behind the next block's products (5 us per 512 blocks). */
function chain64(src: usize, n: u32, blocks: usize, sequences: usize, continues: i32, seed: u64): void {
  const k0 = i64x2.replace_lane(i64x2.splat(S0 + seed), 1, S1 - seed), k1 = i64x2.replace_lane(i64x2.splat(S4 + seed), 1, S5 - seed);
  const k2 = i64x2.replace_lane(i64x2.splat(S6 + seed), 1, S7 - seed), k3 = i64x2.replace_lane(i64x2.splat(S2 + seed), 1, S3 - seed);
  let p: u64 = continues ? load<u64>(sequences - 8) : 0, first = !continues;
  for (let i: usize = 0, e = <usize>n << 3; i < e; i += 8, src += 64) {
    const x0 = v128.xor(v128.load(src), k0), x1 = v128.xor(v128.load(src, 16), k1);
    const x2 = v128.xor(v128.load(src, 32), k2), x3 = v128.xor(v128.load(src, 48), k3);
    const f = fold2(i64x2.shuffle(x0, x1, 0, 2), i64x2.shuffle(x0, x1, 1, 3)), g = fold2(i64x2.shuffle(x2, x3, 0, 2), i64x2.shuffle(x2, x3, 1, 3));
    const s = i64x2.add(f, g);
    const h = avalanche(64 * P64_1 + <u64>i64x2.extract_lane(s, 0) + <u64>i64x2.extract_lane(s, 1));
    store<u64>(blocks + i, h);
    p = first ? h : chainStep(p, h);
    first = false;
    store<u64>(sequences + i, p);
  }
}

// @ts-ignore: decorator
@inline function pair(x: v128, y: v128): v128 { // two 16-byte steps, each already mixed with its secret
  return fold2(i64x2.shuffle(x, y, 0, 2), i64x2.shuffle(x, y, 1, 3));
}
// @ts-ignore: decorator
@inline function key(at: usize, seed: v128): v128 {
  return i64x2.add(v128.load(SECRET + at), seed);
}

/** 32 tokens per block: as `chain64`, eight products. */
function chain128(src: usize, n: u32, blocks: usize, sequences: usize, continues: i32, seed: u64): void {
  const both = i64x2.replace_lane(i64x2.splat(seed), 1, 0 - seed);
  const k0 = key(0, both), k1 = key(32, both), k2 = key(64, both), k3 = key(96, both);
  const k4 = key(112, both), k5 = key(80, both), k6 = key(48, both), k7 = key(16, both);
  let p: u64 = continues ? load<u64>(sequences - 8) : 0, first = !continues;
  for (let i: usize = 0, e = <usize>n << 3; i < e; i += 8, src += 128) {
    const a = pair(v128.xor(v128.load(src), k0), v128.xor(v128.load(src, 16), k1));
    const b = pair(v128.xor(v128.load(src, 32), k2), v128.xor(v128.load(src, 48), k3));
    const c = pair(v128.xor(v128.load(src, 64), k4), v128.xor(v128.load(src, 80), k5));
    const d = pair(v128.xor(v128.load(src, 96), k6), v128.xor(v128.load(src, 112), k7));
    const s = i64x2.add(i64x2.add(a, b), i64x2.add(c, d));
    const h = avalanche(128 * P64_1 + <u64>i64x2.extract_lane(s, 0) + <u64>i64x2.extract_lane(s, 1));
    store<u64>(blocks + i, h);
    p = first ? h : chainStep(p, h);
    first = false;
    store<u64>(sequences + i, p);
  }
}
