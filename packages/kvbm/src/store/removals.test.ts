import { expect, test } from 'vitest';
import { Removals } from './removals.ts';

test('told in order, once, in runs of one reason; what the listener causes comes after', () => {
  const told: string[] = [];
  const removals: Removals = new Removals((hashes, count, reason) => {
    told.push(`${reason} ${[...hashes.subarray(0, 2 * count)].join(' ')}`);
    if (told.length === 2) {
      removals.add(9, 90, 'evicted');
      removals.flush();
      // Borrowed until return, also now.
      expect(hashes[0]).toBe(3);
    }
  });
  removals.flush();
  removals.add(1, 10, 'evicted');
  removals.add(2, 20, 'evicted');
  removals.add(3, 30, 'corrupt');
  removals.flush();
  removals.flush();
  expect(told).toEqual(['evicted 1 10 2 20', 'corrupt 3 30', 'evicted 9 90']);
});

test('any number', () => {
  let seen = 0;
  const removals = new Removals((hashes, count) => {
    for (let row = 0; row < count; row++) expect([hashes[2 * row], hashes[2 * row + 1]]).toEqual([seen++, -seen]);
  });
  for (let i = 0; i < 200; i++) removals.add(i, -i - 1, 'removed');
  removals.flush();
  expect(seen).toBe(200);
});
