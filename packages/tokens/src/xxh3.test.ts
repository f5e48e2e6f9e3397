import { createXXHash3 } from 'hash-wasm';
import { expect, test } from 'vitest';
import { hashFromHex, hashToHex, xxh3 } from './index.ts';

// Oracle: hash-wasm, the reference C implementation compiled to WebAssembly.
const seeds: [number, number][] = [[0, 0], [1, 0], [1337, 0], [0xdeadbeef, 0], [0, 1], [0xffffffff, 0xffffffff], [0x12345678, 0x9abcdef0]];

function randomBytes(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let x = seed >>> 0;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

test('equals the reference for every length class and seed', async () => {
  const lengths = Array.from({ length: 520 }, (_, i) => i);
  lengths.push(1023, 1024, 1025, 1087, 1088, 1089, 2047, 2048, 2049, 4096, 65535, 65536, 200_001);
  let compared = 0;
  for (const [lo, hi] of seeds) {
    const oracle = await createXXHash3(lo, hi);
    for (const length of lengths) {
      const bytes = randomBytes(length, length * 31 + 7);
      const expected = oracle.init().update(bytes).digest('hex');
      const hash = xxh3(bytes, lo, hi);
      if (hashToHex(hash.lo, hash.hi) !== expected) expect.fail(`length ${length}, seed ${hi}:${lo}: ${hashToHex(hash.lo, hash.hi)}, reference ${expected}`);
      compared++;
    }
  }
  expect(compared).toBe(seeds.length * lengths.length);
});

test('a single bit changes the result (the comparison above can fail)', () => {
  const bytes = randomBytes(300, 1);
  const a = xxh3(bytes);
  bytes[299] ^= 1;
  expect(xxh3(bytes)).not.toEqual(a);
  expect(xxh3(bytes, 1, 0)).not.toEqual(xxh3(bytes, 2, 0));
});

test('hexadecimal form goes there and back, and refuses what is not a hash', () => {
  expect(hashToHex(-1, 1)).toBe('00000001ffffffff');
  expect(hashFromHex('00000001ffffffff')).toEqual({ lo: -1, hi: 1 });
  for (const text of ['', 'xyz', '00000001fffffff', '00000001fffffffff', '0x000001ffffffff']) expect(hashFromHex(text)).toBeUndefined();
});
