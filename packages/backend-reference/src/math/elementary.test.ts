import { expect, it } from 'vitest';
import { cos64, exp32, exp64, ln64, sin64 } from './elementary.ts';

it('double-precision functions are within a few units of the last place of Math', () => {
  for (let i = 0; i < 20_000; i++) {
    const x = (i - 10_000) / 17;
    if (Math.abs(x) < 690) expect(Math.abs(exp64(x) / Math.exp(x) - 1)).toBeLessThan(4e-15);
    const positive = Math.exp(x / 3);
    expect(Math.abs(ln64(positive) - Math.log(positive))).toBeLessThan(4e-14);
    const angle = i * 6.5537;
    expect(Math.abs(sin64(angle) - Math.sin(angle))).toBeLessThan(2e-15);
    expect(Math.abs(cos64(angle) - Math.cos(angle))).toBeLessThan(2e-15);
  }
});

it('single-precision e^x is within 2 units of the last place, 0 far below, finite far above', () => {
  for (let i = -8700; i <= 8800; i++) {
    const x = Math.fround(i / 100);
    expect(Math.abs(exp32(x) / Math.exp(x) - 1)).toBeLessThan(2.5e-7);
  }
  expect(exp32(-88)).toBe(0);
  expect(exp32(-Infinity)).toBe(0);
  expect(exp32(1e9)).toBeLessThan(3.4e38);
  expect(exp32(0)).toBe(1);
});

it('bits do not drift: a fixed fold over all functions', () => {
  const words = new Uint32Array(2);
  const value = new Float64Array(words.buffer);
  let fold = 0;
  for (let i = 1; i < 500; i++) {
    for (const result of [exp64(i / 9), ln64(i / 7), sin64(i * 3.3), cos64(i * 3.3), exp32(-i / 9)]) {
      value[0] = result;
      fold = (Math.imul(fold, 31) + (words[0]! ^ words[1]!)) >>> 0;
    }
  }
  expect(fold.toString(16)).toMatchInlineSnapshot(`"45a741e7"`);
});
