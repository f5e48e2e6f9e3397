import { expect, test } from 'vitest';
import { seeded } from '../random.test.support.ts';
import { FrequencySketch } from './frequency-sketch.ts';
import { TinyLfuOrder } from './tiny-lfu-order.ts';

test('never below the true count, up to 16, and mostly equal to it', () => {
  const places = 4096;
  const sketch = new FrequencySketch(places);
  const below = seeded(11);
  const counts = new Map<number, number>();
  for (let i = 0; i < places * 4; i++) {
    const hash = below(places) < places / 2 ? below(64) : 64 + below(places);
    counts.set(hash, (counts.get(hash) ?? 0) + 1);
    sketch.record(hash, ~hash);
  }
  let exact = 0;
  for (const [hash, count] of counts) {
    const estimate = sketch.estimate(hash, ~hash);
    if (estimate < Math.min(16, count)) expect.fail(`seed 11: hash ${hash} came ${count} times, estimate ${estimate}`);
    if (estimate === Math.min(16, count)) exact++;
  }
  expect(exact / counts.size).toBeGreaterThan(0.8);
  expect(sketch.estimate(0x7fffffff, 0)).toBeLessThan(3);
});

test('old fame fades: after a sample of other uses the count is halved', () => {
  const sketch = new FrequencySketch(64);
  for (let i = 0; i < 12; i++) sketch.record(1, 1);
  const before = sketch.estimate(1, 1);
  for (let i = 0; i < 640; i++) sketch.record(2, 2);
  expect(before).toBeGreaterThanOrEqual(12);
  expect(sketch.estimate(1, 1)).toBeLessThanOrEqual(before / 2);
  expect(sketch.estimate(1, 1)).toBeGreaterThan(0);
});

test('tinylfu: a newcomer leaves the window for the others only if it was asked for more often than the oldest of them', () => {
  const order = new TinyLfuOrder(5); // a window of one place
  for (let place = 0; place < 4; place++) {
    for (let use = 0; use < 3; use++) order.seen(place, 1);
    order.inserted(place, place, 1);
  }
  let uses = 0;
  for (order.inserted(4, 99, 1); order.victim() === 4; uses++) order.seen(99, 1);
  expect(uses).toBe(4);
  expect(order.victim()).toBe(0);
  order.removed(0);
  order.inserted(0, 100, 1); // 99 has stayed
  expect(order.victim()).toBe(0);
});

test('tinylfu: of victims that the caller chose, a proven one goes only for a newcomer that was asked for as often', () => {
  const order = new TinyLfuOrder(5);
  for (let place = 0; place < 5; place++) {
    for (let use = 0; use < 2; use++) order.seen(place, 1);
    order.inserted(place, place, 1);
  }
  order.seen(99, 1);
  expect([0, 1, 2, 3, 4].map((victim) => order.admits(99, 1, victim))).toEqual([false, false, false, false, true]);
  order.seen(99, 1);
  expect([0, 1, 2, 3, 4].every((victim) => order.admits(99, 1, victim))).toBe(true);
});
