import { expect, test } from 'vitest';
import { U64Map } from './index.ts';

/** Key makers from well spread to adversarial; `pool` small enough that keys come again. */
const keys: Record<string, (n: number) => [number, number]> = {
  spread: (n) => [Math.imul(n, 0x9e3779b1), Math.imul(n, 0x85ebca6b) ^ n],
  sequential: (n) => [n, 0],
  'high word only': (n) => [0, n],
  'multiples of 2^16': (n) => [n << 16, 0],
  'few low values': (n) => [n & 3, n >>> 2],
  'negative words': (n) => [-n, -1],
};

function check(map: U64Map, model: Map<string, number>): void {
  expect(map.size).toBe(model.size);
  const seen = new Map<string, number>();
  map.forEach((lo, hi, value) => seen.set(`${lo},${hi}`, value));
  expect(seen).toEqual(model);
}

for (const [name, make] of Object.entries(keys)) {
  test(`behaves like Map under random operations: ${name} keys`, () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      const where = `u64-map seed ${seed}, ${name}`;
      let x = seed * 7919;
      const random = (bound: number): number => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 7) % bound;
      const map = new U64Map(random(2) === 0 ? 8 : 100);
      const model = new Map<string, number>();
      const pool = 1 + random(4000);
      let grewWhileUsed = 0;
      for (let step = 0; step < 12_000; step++) {
        const [lo, hi] = make(random(pool) + 1).map((word) => word | 0) as [number, number];
        const key = `${lo},${hi}`;
        const action = random(10);
        if (action < 5) {
          const bytes = map.memoryBytes;
          if (map.set(lo, hi, step) !== !model.has(key)) expect.fail(`${where}: set at step ${step}`);
          model.set(key, step);
          if (map.memoryBytes > bytes) grewWhileUsed++;
        } else if (action < 8) {
          if (map.delete(lo, hi) !== model.delete(key)) expect.fail(`${where}: delete at step ${step}`);
        } else if (map.get(lo, hi) !== (model.get(key) ?? -1) || map.has(lo, hi) !== model.has(key)) expect.fail(`${where}: get at step ${step}`);
        if (step % 3000 === 0) check(map, model);
      }
      check(map, model);
      if (pool > 500) expect(grewWhileUsed, where).toBeGreaterThan(0);
      map.clear();
      model.clear();
      check(map, model);
      expect(map.set(5, 6, 7)).toBe(true);
      expect(map.get(5, 6)).toBe(7);
    }
  });
}

test('all keys in one probe run: still correct, deletes leave no tombstones', () => {
  // Keys with the same home slot, found by trying: the worst case for probing and backward shift.
  const map = new U64Map(600);
  const same: number[] = [];
  const mask = 1023;
  const home = (lo: number): number => (Math.imul(lo, 0x9e3779b1) ^ (Math.imul(lo, 0x9e3779b1) >>> 15)) & mask;
  for (let lo = 0; same.length < 200; lo++) if (home(lo) === 1000) same.push(lo); // the run wraps around the end
  for (const lo of same) map.set(lo, 0, lo);
  for (let i = 0; i < same.length; i += 2) expect(map.delete(same[i], 0)).toBe(true);
  for (let i = 0; i < same.length; i++) expect(map.get(same[i], 0)).toBe(i % 2 === 0 ? -1 : same[i]);
  expect(map.size).toBe(100);
});

test('unsigned and signed words are the same key; 0 and -1 are ordinary keys and values', () => {
  const map = new U64Map();
  map.set(0xffffffff, 0x80000000, -1);
  expect(map.has(-1, -0x80000000)).toBe(true);
  expect(map.get(0, 0)).toBe(-1);
  expect(map.has(0, 0)).toBe(false);
  map.set(0, 0, 0);
  expect(map.get(0, 0)).toBe(0);
});

test('growing is spread over insertions: the old table is emptied while both answer', () => {
  const map = new U64Map();
  let mixed = 0;
  for (let i = 0; i < 200_000; i++) {
    map.set(Math.imul(i, 0x9e3779b1), i, i);
    // Both tables are held while growing, so memory is 1.5 times that of the new one.
    if (i % 5000 === 0) {
      for (let k = 0; k <= i; k += 997) if (map.get(Math.imul(k, 0x9e3779b1), k) !== k) expect.fail(`lost key ${k} after ${i}`);
    }
    if (Math.log2(map.memoryBytes) % 1 !== 0) mixed++;
  }
  expect(map.size).toBe(200_000);
  expect(mixed).toBeGreaterThan(1000);
});
