import { describe, expect, test } from 'vitest';
import type { Clock } from '@armature/contracts';
import { descriptors } from '../descriptors.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { CompiledCopies } from './copies.ts';
import { CopyEngine } from './copy-engine.ts';
import { CudaCounters } from './counters.ts';
import { FakeDriver } from './fake-driver.test.support.ts';
import { LaneJob } from './lane-job.ts';
import { CudaRuntime } from './runtime.ts';

/** Time passes by driver calls only; each turn of the engine is measured. */
class CallClock implements Clock {
  micros = 0;
  readonly turnsMs: number[] = [];
  nowMs(): number {
    return this.micros / 1000;
  }
  wallMs = (): number => this.nowMs();
  setTimer = (_delayMs: number, callback: () => void): ReturnType<Clock['setTimer']> => realClock.setTimer(1, () => this.#measured(callback));
  clearTimer = realClock.clearTimer.bind(realClock);
  defer = (callback: () => void): void => realClock.defer(() => this.#measured(callback));
  sleep = realClock.sleep.bind(realClock);
  #measured(callback: () => void): void {
    const start = this.nowMs();
    callback();
    this.turnsMs.push(this.nowMs() - start);
  }
}

function setUp(hasBatch: boolean, microsPerCopy: number, turnBudgetMs = 0.5) {
  const driver = new FakeDriver(undefined, { batch: hasBatch });
  const clock = new CallClock();
  const [copy, copyBatch] = [driver.copy.bind(driver), driver.copyBatch.bind(driver)];
  driver.copy = (...call) => ((clock.micros += microsPerCopy), copy(...call));
  driver.copyBatch = (tables, from, to, stream) => ((clock.micros += microsPerCopy * (to - from)), copyBatch(tables, from, to, stream));
  const runtime = new CudaRuntime(driver);
  const counters = new CudaCounters();
  const engine = new CopyEngine(0, { runtime, clock, log: recordingLogger(), counters, batch: hasBatch, turnBudgetMs, spinMs: 2 });
  const [target, source] = [runtime.allocate(0, 1 << 20), runtime.allocate(0, 1 << 20)];
  const copies = (count: number): CompiledCopies => {
    const columns = descriptors(Array.from({ length: count }, (_, i) => ({ segment: 1, offset: i * 16, length: 16 })));
    const side = (base: bigint) => ({ columns, bases: new Map([[1, base]]) });
    return new CompiledCopies({ direction: 'onDevice', ordinal: 0, target: side(target), source: side(source), isStaged: false, hold: () => [] });
  };
  const run = (count: number): Promise<number> => new Promise((resolve) => engine.add(new LaneJob(copies(count), () => true, resolve)));
  return { driver, clock, runtime, counters, engine, run };
}

describe.each([
  [true, 0.2],
  [true, 2],
  [false, 1],
  [false, 5],
])('copies at batch %s, %s us each', (hasBatch, microsPerCopy) => {
  test('take no turn of the event loop for longer than a millisecond, inside the call that posts them neither', async () => {
    const { clock, run, counters } = setUp(hasBatch, microsPerCopy);
    const ended = run(20_000);
    const inPostMs = clock.nowMs();
    expect(await ended).toBe(0);
    expect(counters.copies).toBe(20_000);
    expect(inPostMs).toBeLessThanOrEqual(1.05);
    expect(Math.max(...clock.turnsMs)).toBeLessThanOrEqual(1.05);
    expect(counters.turns).toBeGreaterThan((20_000 * microsPerCopy) / 1100);
  });
});

test('without the budget they would', async () => {
  const { clock, run } = setUp(false, 10, Infinity);
  await run(20_000);
  expect(Math.max(clock.turnsMs.length === 0 ? clock.nowMs() : 0, ...clock.turnsMs)).toBeGreaterThan(1.05);
});

test('batch calls grow while they are quick and shrink when they are slow', async () => {
  const quick = setUp(true, 0.01);
  await quick.run(30_000);
  const slow = setUp(true, 5);
  await slow.run(30_000);
  expect(quick.counters.batches).toBeLessThan(20);
  expect(slow.counters.batches).toBeGreaterThan(30_000 / 256);
});

test('a small job does not wait for a large one to be on the stream', async () => {
  const { run } = setUp(false, 1);
  const order: string[] = [];
  await Promise.all([run(10_000).then(() => order.push('large')), run(10).then(() => order.push('small'))]);
  expect(order).toEqual(['small', 'large']);
});

test('an idle engine looks at nothing', async () => {
  const { run, driver, engine, runtime } = setUp(true, 1);
  await run(100);
  const { queries } = driver.counts;
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(driver.counts.queries).toBe(queries);
  engine.close();
  expect(runtime.held()).toMatchObject({ streams: 0, events: 0 });
});
