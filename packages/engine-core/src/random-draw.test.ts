import { expect, it } from 'vitest';
import { philox4x32, uniformDraw } from './random-draw.ts';

function philox(counter: number[], keyLo: number, keyHi: number): string {
  const words = Uint32Array.from(counter);
  philox4x32(words, keyLo, keyHi);
  return [...words].map((word) => word.toString(16).padStart(8, '0')).join(' ');
}

it("known answers of Random123's kat_vectors", () => {
  const ones = 0xffffffff;
  expect(philox([0, 0, 0, 0], 0, 0)).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
  expect(philox([ones, ones, ones, ones], ones, ones)).toBe('408f276d 41c83b0e a20bc7c6 6d5451fd');
  expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], 0xa4093822, 0x299f31d0)).toBe('d16cfe09 94fdcceb 5001e420 24126ea1');
});

it('draws are uniform in [0, 1) and depend on seed, choice and index alone', () => {
  const buckets = new Int32Array(16);
  for (let i = 0; i < 16_000; i++) {
    const u = uniformDraw(42, 7, 0, i);
    expect(u >= 0 && u < 1).toBe(true);
    buckets[Math.floor(u * 16)]!++;
  }
  for (const count of buckets) expect(Math.abs(count - 1000)).toBeLessThan(150);
  expect(uniformDraw(42, 7, 0, 5)).toBe(uniformDraw(42, 7, 0, 5));
  expect(new Set([uniformDraw(1, 0, 0, 0), uniformDraw(0, 1, 0, 0), uniformDraw(0, 0, 1, 0), uniformDraw(0, 0, 0, 1)]).size).toBe(4);
});
