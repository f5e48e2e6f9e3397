// XXH3_64 (seeded, default secret) of bytes that lie in the host's memory, which is imported: nothing is ever written to it, and no constant lies in
// it (no data segment, no stack), so that it may be the memory of somebody else. State is in globals; calls are synchronous.
// Follows the XXH3 specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md). packages/tokens has the same function for short inputs in own memory.
//
// Long inputs go through blocks of 1,024 bytes (16 stripes of 64), unrolled: each stripe has other secret words, which stay in locals. The plain
// sum of the input is kept apart and its lanes exchanged once per block instead of at each step: the same result, 10 % faster here.
const W0: u64 = 0xbe4ba423396cfeb8, W1: u64 = 0x1cad21f72c81017c, W2: u64 = 0xdb979083e96dd4de, W3: u64 = 0x1f67b3b7a4a44072;
const W4: u64 = 0x78e5c0cc4ee679cb, W5: u64 = 0x2172ffcc7dd05a82, W6: u64 = 0x8e2443f7744608b8, W7: u64 = 0x4c263a81e69035e0;
const W8: u64 = 0xcb00c391bb52283c, W9: u64 = 0xa32e531b8b65d088, W10: u64 = 0x4ef90da297486471, W11: u64 = 0xd8acdea946ef1938;
const W12: u64 = 0x3f349ce33f76faa8, W13: u64 = 0x1d4f0bc7c7bbdcf9, W14: u64 = 0x3159b4cd4be0518a, W15: u64 = 0x647378d9c97e9fc8;
const W16: u64 = 0xc3ebd33483acc5ea, W17: u64 = 0xeb6313faffa081c5, W18: u64 = 0x49daf0b751dd0d17, W19: u64 = 0x9e68d429265516d3;
const W20: u64 = 0xfca1477d58be162b, W21: u64 = 0xce31d07ad1b8f88f, W22: u64 = 0x280416958f3acb45, W23: u64 = 0x7e404bbbcafbd7af;

const P32_1: u64 = 0x9e3779b1, P32_2: u64 = 0x85ebca77, P32_3: u64 = 0xc2b2ae3d;
const P64_1: u64 = 0x9e3779b185ebca87, P64_2: u64 = 0xc2b2ae3d27d4eb4f, P64_3: u64 = 0x165667b19e3779f9;
const P64_4: u64 = 0x85ebca77c2b2ae63, P64_5: u64 = 0x27d4eb2f165667c5;
const PMX1: u64 = 0x165667919e3779f9, PMX2: u64 = 0x9fb21c651e98df25;
const BLOCK: u32 = 1024;

/** The running hash: result of the last run, seed of the next. */
let current: u64 = 0;
let acc0: v128 = i64x2.splat(0), acc1: v128 = i64x2.splat(0), acc2: v128 = i64x2.splat(0), acc3: v128 = i64x2.splat(0);

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
@inline function mix16(p: usize, k0: u64, k1: u64, seed: u64): u64 {
  return fold(load<u64>(p) ^ (k0 + seed), load<u64>(p, 8) ^ (k1 - seed));
}
/** Eight bytes of the secret from byte `shift / 8` of word `a` on. */
// @ts-ignore: decorator
@inline function between(a: u64, b: u64, shift: u64): u64 {
  return (a >> shift) | (b << (64 - shift));
}
// @ts-ignore: decorator
@inline function of16(lo: u64, hi: u64, seed: u64): u64 {
  lo ^= (W3 ^ W4) + seed; hi ^= (W5 ^ W6) - seed;
  return avalanche(16 + bswap<u64>(lo) + hi + fold(lo, hi));
}

function short16(p: usize, len: u32, seed: u64): u64 {
  if (len > 8) {
    const lo = load<u64>(p) ^ ((W3 ^ W4) + seed), hi = load<u64>(p + len - 8) ^ ((W5 ^ W6) - seed);
    return avalanche(<u64>len + bswap<u64>(lo) + hi + fold(lo, hi));
  }
  if (len >= 4) {
    seed ^= (<u64>bswap<u32>(<u32>seed)) << 32;
    let h = (<u64>load<u32>(p + len - 4) + (<u64>load<u32>(p) << 32)) ^ ((W1 ^ W2) - seed);
    h ^= rotl<u64>(h, 49) ^ rotl<u64>(h, 24);
    h *= PMX2; h ^= (h >> 35) + <u64>len; h *= PMX2;
    return h ^ (h >> 28);
  }
  if (len > 0) {
    const c: u64 = (<u64>load<u8>(p) << 16) | (<u64>load<u8>(p + (len >> 1)) << 24) | <u64>load<u8>(p + len - 1) | (<u64>len << 8);
    return avalanche64(c ^ (((W0 & 0xffffffff) ^ (W0 >> 32)) + seed));
  }
  return avalanche64(seed ^ W7 ^ W8);
}

function short128(p: usize, len: u32, seed: u64): u64 {
  let h: u64 = <u64>len * P64_1;
  if (len > 32) {
    if (len > 64) {
      if (len > 96) h += mix16(p + 48, W12, W13, seed) + mix16(p + len - 64, W14, W15, seed);
      h += mix16(p + 32, W8, W9, seed) + mix16(p + len - 48, W10, W11, seed);
    }
    h += mix16(p + 16, W4, W5, seed) + mix16(p + len - 32, W6, W7, seed);
  }
  h += mix16(p, W0, W1, seed) + mix16(p + len - 16, W2, W3, seed);
  return avalanche(h);
}

function short240(p: usize, len: u32, seed: u64): u64 {
  let h: u64 = <u64>len * P64_1;
  h += mix16(p + 0, W0, W1, seed);
  h += mix16(p + 16, W2, W3, seed);
  h += mix16(p + 32, W4, W5, seed);
  h += mix16(p + 48, W6, W7, seed);
  h += mix16(p + 64, W8, W9, seed);
  h += mix16(p + 80, W10, W11, seed);
  h += mix16(p + 96, W12, W13, seed);
  h += mix16(p + 112, W14, W15, seed);
  h = avalanche(h);
  if (len >= 144) h += mix16(p + 128, between(W0, W1, 24), between(W1, W2, 24), seed);
  if (len >= 160) h += mix16(p + 144, between(W2, W3, 24), between(W3, W4, 24), seed);
  if (len >= 176) h += mix16(p + 160, between(W4, W5, 24), between(W5, W6, 24), seed);
  if (len >= 192) h += mix16(p + 176, between(W6, W7, 24), between(W7, W8, 24), seed);
  if (len >= 208) h += mix16(p + 192, between(W8, W9, 24), between(W9, W10, 24), seed);
  if (len >= 224) h += mix16(p + 208, between(W10, W11, 24), between(W11, W12, 24), seed);
  if (len >= 240) h += mix16(p + 224, between(W12, W13, 24), between(W13, W14, 24), seed);
  return avalanche(h + mix16(p + len - 16, between(W14, W15, 56), between(W15, W16, 56), seed)); // from byte 119
}

/** Two words of the secret, shifted by the seed: + in the words of even number, - in the odd. */
// @ts-ignore: decorator
@inline function even(a: u64, b: u64, seed: u64): v128 {
  return i64x2.replace_lane(i64x2.splat(a + seed), 1, b - seed);
}
// @ts-ignore: decorator
@inline function odd(a: v128, b: v128): v128 {
  return i64x2.shuffle(a, b, 1, 2);
}
// @ts-ignore: decorator
@inline function swap(x: v128): v128 {
  return i64x2.shuffle(x, x, 1, 0);
}
// @ts-ignore: decorator
@inline function scramble(acc: v128, key: v128): v128 {
  return i64x2.mul(v128.xor(v128.xor(acc, i64x2.shr_u(acc, 47)), key), i64x2.splat(P32_1));
}
// @ts-ignore: decorator
@inline function product(x: v128): v128 { // low half times high half of each lane
  return i64x2.extmul_low_i32x4_u(i32x4.shuffle(x, x, 0, 2, 0, 2), i32x4.shuffle(x, x, 1, 3, 1, 3));
}
// @ts-ignore: decorator
@inline function step(acc: v128, p: usize, key: v128): v128 {
  const data = v128.load(p);
  return i64x2.add(acc, i64x2.add(product(v128.xor(data, key)), swap(data)));
}

function begin(): void {
  acc0 = i64x2.replace_lane(i64x2.splat(P32_3), 1, P64_1); acc1 = i64x2.replace_lane(i64x2.splat(P64_2), 1, P64_3);
  acc2 = i64x2.replace_lane(i64x2.splat(P64_4), 1, P32_2); acc3 = i64x2.replace_lane(i64x2.splat(P64_5), 1, P32_1);
}

/** `count` whole blocks of 1,024 bytes into the accumulators. */
function blocks(p: usize, count: u32, seed: u64): void {
  let a0 = acc0, a1 = acc1, a2 = acc2, a3 = acc3;
  const e0 = even(W0, W1, seed), e1 = even(W2, W3, seed), e2 = even(W4, W5, seed), e3 = even(W6, W7, seed);
  const e4 = even(W8, W9, seed), e5 = even(W10, W11, seed), e6 = even(W12, W13, seed), e7 = even(W14, W15, seed);
  const e8 = even(W16, W17, seed), e9 = even(W18, W19, seed), e10 = even(W20, W21, seed), e11 = even(W22, W23, seed);
  const o0 = odd(e0, e1), o1 = odd(e1, e2), o2 = odd(e2, e3), o3 = odd(e3, e4), o4 = odd(e4, e5), o5 = odd(e5, e6);
  const o6 = odd(e6, e7), o7 = odd(e7, e8), o8 = odd(e8, e9), o9 = odd(e9, e10), o10 = odd(e10, e11);
  for (let end = p + <usize>count * BLOCK; p != end; p += BLOCK) {
    let s0 = i64x2.splat(0), s1 = s0, s2 = s0, s3 = s0, x: v128;
    x = v128.load(p, 0); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e0)));
    x = v128.load(p, 16); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e1)));
    x = v128.load(p, 32); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e2)));
    x = v128.load(p, 48); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e3)));
    x = v128.load(p, 64); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o0)));
    x = v128.load(p, 80); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o1)));
    x = v128.load(p, 96); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o2)));
    x = v128.load(p, 112); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o3)));
    x = v128.load(p, 128); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e1)));
    x = v128.load(p, 144); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e2)));
    x = v128.load(p, 160); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e3)));
    x = v128.load(p, 176); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e4)));
    x = v128.load(p, 192); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o1)));
    x = v128.load(p, 208); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o2)));
    x = v128.load(p, 224); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o3)));
    x = v128.load(p, 240); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o4)));
    x = v128.load(p, 256); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e2)));
    x = v128.load(p, 272); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e3)));
    x = v128.load(p, 288); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e4)));
    x = v128.load(p, 304); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e5)));
    x = v128.load(p, 320); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o2)));
    x = v128.load(p, 336); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o3)));
    x = v128.load(p, 352); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o4)));
    x = v128.load(p, 368); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o5)));
    x = v128.load(p, 384); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e3)));
    x = v128.load(p, 400); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e4)));
    x = v128.load(p, 416); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e5)));
    x = v128.load(p, 432); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e6)));
    x = v128.load(p, 448); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o3)));
    x = v128.load(p, 464); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o4)));
    x = v128.load(p, 480); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o5)));
    x = v128.load(p, 496); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o6)));
    x = v128.load(p, 512); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e4)));
    x = v128.load(p, 528); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e5)));
    x = v128.load(p, 544); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e6)));
    x = v128.load(p, 560); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e7)));
    x = v128.load(p, 576); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o4)));
    x = v128.load(p, 592); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o5)));
    x = v128.load(p, 608); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o6)));
    x = v128.load(p, 624); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o7)));
    x = v128.load(p, 640); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e5)));
    x = v128.load(p, 656); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e6)));
    x = v128.load(p, 672); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e7)));
    x = v128.load(p, 688); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e8)));
    x = v128.load(p, 704); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o5)));
    x = v128.load(p, 720); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o6)));
    x = v128.load(p, 736); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o7)));
    x = v128.load(p, 752); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o8)));
    x = v128.load(p, 768); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e6)));
    x = v128.load(p, 784); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e7)));
    x = v128.load(p, 800); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e8)));
    x = v128.load(p, 816); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e9)));
    x = v128.load(p, 832); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o6)));
    x = v128.load(p, 848); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o7)));
    x = v128.load(p, 864); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o8)));
    x = v128.load(p, 880); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o9)));
    x = v128.load(p, 896); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, e7)));
    x = v128.load(p, 912); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, e8)));
    x = v128.load(p, 928); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, e9)));
    x = v128.load(p, 944); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, e10)));
    x = v128.load(p, 960); s0 = i64x2.add(s0, x); a0 = i64x2.add(a0, product(v128.xor(x, o7)));
    x = v128.load(p, 976); s1 = i64x2.add(s1, x); a1 = i64x2.add(a1, product(v128.xor(x, o8)));
    x = v128.load(p, 992); s2 = i64x2.add(s2, x); a2 = i64x2.add(a2, product(v128.xor(x, o9)));
    x = v128.load(p, 1008); s3 = i64x2.add(s3, x); a3 = i64x2.add(a3, product(v128.xor(x, o10)));
    a0 = scramble(i64x2.add(a0, swap(s0)), e8); a1 = scramble(i64x2.add(a1, swap(s1)), e9);
    a2 = scramble(i64x2.add(a2, swap(s2)), e10); a3 = scramble(i64x2.add(a3, swap(s3)), e11);
  }
  acc0 = a0; acc1 = a1; acc2 = a2; acc3 = a3;
}

/** The last 1 to 1,024 bytes, and the end. The 64 bytes before `p + rest` must be there. */
function finish(p: usize, rest: u32, len: u64, seed: u64): u64 {
  let a0 = acc0, a1 = acc1, a2 = acc2, a3 = acc3;
  const e0 = even(W0, W1, seed), e1 = even(W2, W3, seed), e2 = even(W4, W5, seed), e3 = even(W6, W7, seed);
  const e4 = even(W8, W9, seed), e5 = even(W10, W11, seed), e6 = even(W12, W13, seed), e7 = even(W14, W15, seed);
  const e8 = even(W16, W17, seed), e9 = even(W18, W19, seed), e10 = even(W20, W21, seed), e11 = even(W22, W23, seed);
  const full = (rest - 1) >> 6, end = p + rest - 64; // full stripes before the last, which always ends at the end
  if (full > 0) {
    a0 = step(a0, p + 0, e0); a1 = step(a1, p + 16, e1);
    a2 = step(a2, p + 32, e2); a3 = step(a3, p + 48, e3);
  }
  if (full > 1) {
    a0 = step(a0, p + 64, odd(e0, e1)); a1 = step(a1, p + 80, odd(e1, e2));
    a2 = step(a2, p + 96, odd(e2, e3)); a3 = step(a3, p + 112, odd(e3, e4));
  }
  if (full > 2) {
    a0 = step(a0, p + 128, e1); a1 = step(a1, p + 144, e2);
    a2 = step(a2, p + 160, e3); a3 = step(a3, p + 176, e4);
  }
  if (full > 3) {
    a0 = step(a0, p + 192, odd(e1, e2)); a1 = step(a1, p + 208, odd(e2, e3));
    a2 = step(a2, p + 224, odd(e3, e4)); a3 = step(a3, p + 240, odd(e4, e5));
  }
  if (full > 4) {
    a0 = step(a0, p + 256, e2); a1 = step(a1, p + 272, e3);
    a2 = step(a2, p + 288, e4); a3 = step(a3, p + 304, e5);
  }
  if (full > 5) {
    a0 = step(a0, p + 320, odd(e2, e3)); a1 = step(a1, p + 336, odd(e3, e4));
    a2 = step(a2, p + 352, odd(e4, e5)); a3 = step(a3, p + 368, odd(e5, e6));
  }
  if (full > 6) {
    a0 = step(a0, p + 384, e3); a1 = step(a1, p + 400, e4);
    a2 = step(a2, p + 416, e5); a3 = step(a3, p + 432, e6);
  }
  if (full > 7) {
    a0 = step(a0, p + 448, odd(e3, e4)); a1 = step(a1, p + 464, odd(e4, e5));
    a2 = step(a2, p + 480, odd(e5, e6)); a3 = step(a3, p + 496, odd(e6, e7));
  }
  if (full > 8) {
    a0 = step(a0, p + 512, e4); a1 = step(a1, p + 528, e5);
    a2 = step(a2, p + 544, e6); a3 = step(a3, p + 560, e7);
  }
  if (full > 9) {
    a0 = step(a0, p + 576, odd(e4, e5)); a1 = step(a1, p + 592, odd(e5, e6));
    a2 = step(a2, p + 608, odd(e6, e7)); a3 = step(a3, p + 624, odd(e7, e8));
  }
  if (full > 10) {
    a0 = step(a0, p + 640, e5); a1 = step(a1, p + 656, e6);
    a2 = step(a2, p + 672, e7); a3 = step(a3, p + 688, e8);
  }
  if (full > 11) {
    a0 = step(a0, p + 704, odd(e5, e6)); a1 = step(a1, p + 720, odd(e6, e7));
    a2 = step(a2, p + 736, odd(e7, e8)); a3 = step(a3, p + 752, odd(e8, e9));
  }
  if (full > 12) {
    a0 = step(a0, p + 768, e6); a1 = step(a1, p + 784, e7);
    a2 = step(a2, p + 800, e8); a3 = step(a3, p + 816, e9);
  }
  if (full > 13) {
    a0 = step(a0, p + 832, odd(e6, e7)); a1 = step(a1, p + 848, odd(e7, e8));
    a2 = step(a2, p + 864, odd(e8, e9)); a3 = step(a3, p + 880, odd(e9, e10));
  }
  if (full > 14) {
    a0 = step(a0, p + 896, e7); a1 = step(a1, p + 912, e8);
    a2 = step(a2, p + 928, e9); a3 = step(a3, p + 944, e10);
  }
  // Secret from byte 121.
  a0 = step(a0, end, i8x16.shuffle(e7, e8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24));
  a1 = step(a1, end + 16, i8x16.shuffle(e8, e9, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24));
  a2 = step(a2, end + 32, i8x16.shuffle(e9, e10, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24));
  a3 = step(a3, end + 48, i8x16.shuffle(e10, e11, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24));
  // Secret from byte 11.
  let h: u64 = len * P64_1;
  h += folded(v128.xor(a0, i8x16.shuffle(e0, e1, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)));
  h += folded(v128.xor(a1, i8x16.shuffle(e1, e2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)));
  h += folded(v128.xor(a2, i8x16.shuffle(e2, e3, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)));
  h += folded(v128.xor(a3, i8x16.shuffle(e3, e4, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)));
  return avalanche(h);
}
// @ts-ignore: decorator
@inline function folded(x: v128): u64 {
  return fold(i64x2.extract_lane(x, 0), i64x2.extract_lane(x, 1));
}

function hash(p: usize, len: u32, seed: u64): u64 {
  if (len <= 16) return short16(p, len, seed);
  if (len <= 128) return short128(p, len, seed);
  if (len <= 240) return short240(p, len, seed);
  const whole = (len - 1) / BLOCK;
  begin();
  blocks(p, whole, seed);
  return finish(p + whole * BLOCK, len - whole * BLOCK, len, seed);
}

/** Sets the running hash. */
export function seed(lo: u32, hi: u32): void {
  current = <u64>lo | (<u64>hi << 32);
}

/** The running hash becomes XXH3_64 of 16 bytes, seed 0: a sequence hash, then the layout's. */
export function start(lo: u32, hi: u32, layoutLo: u32, layoutHi: u32): void {
  current = of16(<u64>lo | (<u64>hi << 32), <u64>layoutLo | (<u64>layoutHi << 32), 0);
}

/** Runs of `bytes` bytes, `perPiece` of them next to each other at each of `pieces` places `stride` apart: each is hashed with the hash of the one before as seed. Gives the low word. */
export function runs(p: usize, pieces: u32, stride: usize, perPiece: u32, bytes: u32): i32 {
  for (; pieces != 0; pieces--, p += stride) {
    for (let i: u32 = 0, q = p; i < perPiece; i++, q += bytes) current = hash(q, bytes, current);
  }
  return <i32>current;
}

export function high(): i32 {
  return <i32>(current >> 32);
}

/** A run of more than 240 bytes that comes in parts: `open`, whole blocks of 1,024 bytes, then the last 1 to 1,024 with 64 bytes before their end. */
export function open(): void {
  begin();
}
export function feed(p: usize, count: u32): void {
  blocks(p, count, current);
}
export function close(p: usize, rest: u32, length: u32): i32 {
  current = finish(p, rest, length, current);
  return <i32>current;
}
