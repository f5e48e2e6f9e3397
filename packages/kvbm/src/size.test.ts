import { expect, test } from 'vitest';
import { formatSize, parseSize, sizeBytes, sizeSchema } from './size.ts';

const good: readonly (readonly [number | string, number])[] = [
  [1, 1],
  [4096, 4096],
  ['4096B', 4096],
  ['1KiB', 1024],
  ['256MiB', 2 ** 28],
  ['256 MiB', 2 ** 28],
  ['2gib', 2 ** 31],
  ['1.5TiB', 1.5 * 2 ** 40],
  ['1KB', 1000],
  ['100MB', 1e8],
  ['100GB', 1e11],
  ['2TB', 2e12],
  ['0.3KiB', 307],
];
for (const [size, bytes] of good) {
  test(`${JSON.stringify(size)} is ${bytes} bytes`, () => {
    expect(parseSize(size)).toBe(bytes);
    expect(typeof size === 'number' || new RegExp(sizeSchema.pattern).test(size)).toBe(true);
  });
}

const bad: readonly (number | string)[] = ['', '256', 'MiB', '-1MiB', '1e3MiB', '256MiBs', '1 000MB', '1,5GiB', '12Mi', '12iB', '0B', '0.1B', 0, -1, 1.5, Number.NaN, Infinity, '99999999TiB'];
for (const size of bad) {
  test(`${JSON.stringify(size)} is no size`, () => {
    expect(parseSize(size)).toBe(undefined);
    expect(() => sizeBytes(size, 'capacity')).toThrow(expect.objectContaining({ code: 'KVBM_CAPACITY_INVALID', message: expect.stringContaining('capacity') as string }) as Error);
  });
}

test('sizes for people', () => {
  expect([1, 1023, 1024, 1536, 2 ** 28, 1.5 * 2 ** 40, 2 ** 51].map(formatSize)).toEqual(['1 B', '1023 B', '1 KiB', '1.5 KiB', '256 MiB', '1.5 TiB', '2048 TiB']);
});
