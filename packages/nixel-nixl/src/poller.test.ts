import { expect, test } from 'vitest';
import { SteppedClock } from './fake-nixl.test.support.ts';
import { Poller } from './poller.ts';

/** A clock whose time also moves by `turnMs` for each turn of the event loop. */
class TurningClock extends SteppedClock {
  turns = 0;
  readonly pending: (() => void)[] = [];
  override defer(callback: () => void): void {
    this.turns++;
    this.pending.push(callback);
  }
  step(ms: number): void {
    this.elapse(ms);
    for (const callback of this.pending.splice(0)) callback();
  }
}

function make(isBusy: () => boolean, poll: () => boolean): { clock: TurningClock; poller: Poller } {
  const clock = new TurningClock();
  return { clock, poller: new Poller({ clock, isBusy, poll, spinMs: 0.05, idleMs: 5 }) };
}

test('idle: one look per idleMs, no turn of the event loop', () => {
  const { clock, poller } = make(() => false, () => false);
  poller.start();
  clock.elapse(1000);
  expect([poller.looks, clock.turns]).toEqual([200, 0]);
});

test('busy: spins for what is expected, then looks each millisecond', () => {
  const { clock, poller } = make(() => true, () => false);
  poller.wake(0.2);
  for (let i = 0; i < 50; i++) clock.step(0.01);
  expect(clock.turns).toBeGreaterThanOrEqual(19);
  expect(clock.turns).toBeLessThanOrEqual(21);
  const looks = poller.looks;
  clock.elapse(100);
  expect(poller.looks - looks).toBe(100);
});

test('something happened: spins again, then stays at a millisecond for a while, then idles', () => {
  let isBusy = true;
  let events = 1;
  const { clock, poller } = make(() => isBusy, () => events-- > 0);
  poller.wake();
  clock.step(0.01);
  isBusy = false;
  clock.step(0.01);
  const looks = poller.looks;
  clock.elapse(40);
  expect(poller.looks - looks).toBe(40);
  clock.elapse(1060);
  const later = poller.looks;
  clock.elapse(1000);
  expect(poller.looks - later).toBe(200);
});

test('closed: no timer left, no further look', () => {
  const { clock, poller } = make(() => true, () => false);
  poller.wake(1);
  clock.step(0.01);
  poller.close();
  const looks = poller.looks;
  clock.step(10);
  clock.elapse(100);
  expect([poller.looks, clock.pendingTimers]).toEqual([looks, 0]);
});
