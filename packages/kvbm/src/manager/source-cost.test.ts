import { expect, test } from 'vitest';
import { seeded } from '../random.test.support.ts';
import { SourceCost } from './source-cost.ts';

/** A disk: 1 ms and a microsecond a byte. */
const trueMs = (bytes: number): number => 1 + bytes / 1_000;
const PRIOR = { latencyMs: 2, bytesPerMs: 2_000 };
const BATCH = 8_000;

/** Loads one after the other; `factor` of what the disk really takes, `Infinity`: it does not come within its deadline. */
class Disk {
  readonly cost = new SourceCost(PRIOR);
  nowMs = 0;

  load(bytes: number, factor = 1, deadlineMs = 50): void {
    this.cost.begin(bytes);
    const startMs = this.nowMs;
    const tookMs = Math.min(deadlineMs, factor * trueMs(bytes));
    this.nowMs += tookMs;
    this.cost.end(bytes, startMs, this.nowMs, factor * trueMs(bytes) > deadlineMs ? 'late' : 'done');
    this.nowMs += 1;
  }
}

test.each([5, 100, Infinity])('one slow first load (%s times) does not make the disk look slow', (factor) => {
  const disk = new Disk();
  disk.load(BATCH, factor);
  expect(disk.cost.predictMs(BATCH)).toBeLessThan(3 * trueMs(BATCH));
  for (let i = 0; i < 3; i++) disk.load(BATCH);
  expect(disk.cost.predictMs(BATCH)).toBeLessThan(1.6 * trueMs(BATCH));
});

test('a disk that stays slow is believed to be at the second load, and its recovery within a few', () => {
  const disk = new Disk();
  for (let i = 0; i < 10; i++) disk.load(BATCH);
  for (let i = 0; i < 3; i++) disk.load(BATCH, 20, 1_000);
  expect(disk.cost.predictMs(BATCH)).toBeGreaterThan(8 * trueMs(BATCH));
  for (let i = 0; i < 12; i++) disk.load(BATCH);
  expect(disk.cost.predictMs(BATCH)).toBeLessThan(2.5 * trueMs(BATCH));
});

test('declined after one bad load it may be tried soon, after several ever later, at most a second', () => {
  const disk = new Disk();
  expect(disk.cost.probeIntervalMs).toBe(50);
  for (let i = 0; i < 4; i++) disk.load(BATCH);
  expect(disk.cost.probeIntervalMs).toBe(1_000);
  const intervals = [1, 2, 3, 4, 5, 6, 7].map(() => {
    disk.load(BATCH, Infinity);
    return disk.cost.probeIntervalMs;
  });
  expect(intervals).toEqual([50, 100, 200, 400, 800, 1_000, 1_000]);
  disk.load(BATCH); // it is back: looked at soon again, until it is known
  expect(disk.cost.probeIntervalMs).toBe(50);
  for (let i = 0; i < 3; i++) disk.load(BATCH);
  expect(disk.cost.probeIntervalMs).toBe(1_000);
});

test('until it has been read, the writes of a medium are its prior', () => {
  const { cost } = new Disk();
  expect(cost.predictMs(1_000)).toBe(2.5);
  for (const bytes of [1_000, 4_000, 2_000, 8_000, 1_000, 6_000, 3_000]) cost.wrote(bytes, 10 * trueMs(bytes), 0);
  expect(cost.predictMs(BATCH)).toBeGreaterThan(4 * trueMs(BATCH));
  cost.end(0, 0, 0, 'done'); // it has been read: writes say nothing any more
  const before = cost.predictMs(BATCH);
  cost.wrote(1_000, 1e6, 0);
  expect(cost.predictMs(BATCH)).toBe(before);
});

test('hostile latencies: whatever came, after two dozen ordinary loads of mixed sizes the estimate is within a factor of 2.5, latency apart from speed', () => {
  for (let seed = 1; seed <= 300; seed++) {
    const below = seeded(seed);
    const disk = new Disk();
    for (let i = below(12); i > 0; i--) disk.load(1_000 * (1 + below(8)), [0.1, 0.5, 1, 3, 10, 200, Infinity][below(7)]);
    for (let i = 0; i < 24; i++) disk.load(1_000 * (1 + below(8)));
    for (const bytes of [1_000, BATCH]) {
      const ratio = disk.cost.predictMs(bytes) / trueMs(bytes);
      expect(ratio, `seed ${seed}, ${bytes} bytes`).toBeGreaterThan(0.4);
      expect(ratio, `seed ${seed}, ${bytes} bytes`).toBeLessThan(2.5);
    }
  }
});
