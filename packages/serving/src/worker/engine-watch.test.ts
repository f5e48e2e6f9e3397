import type { ErrorData } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { ManualClock } from '../test-support/fakes.ts';
import { EngineWatch } from './engine-watch.ts';

function build() {
  const clock = new ManualClock();
  const engine = { failing: undefined as ErrorData | undefined, failure: () => engine.failing };
  const heard: string[] = [];
  const watch = new EngineWatch({ engine, clock, changed: (state) => heard.push(`${clock.nowMs() / 1000} ${state.is}${state.is === 'held' ? ` ${state.holdMs / 1000}` : ''}`) });
  watch.start();
  return { clock, heard, watch, fail: () => (engine.failing = { code: 'X', message: 'broken' }), mend: () => (engine.failing = undefined) };
}

describe('the watch over an engine', () => {
  it('tells a failure within a second, and that it is well after a hold', () => {
    const t = build();
    t.clock.advance(3_000);
    expect(t.heard).toEqual([]);
    t.fail();
    t.clock.advance(60_000);
    t.mend();
    t.clock.advance(60_000);
    expect(t.heard).toEqual(['4 failed', '64 held 5', '69 well']);
  });

  it('a failure within the hold begins it anew; without a look in between it is not seen', () => {
    const t = build();
    t.fail();
    t.clock.advance(1_000);
    t.mend();
    t.clock.advance(5_000);
    t.fail();
    t.watch.look(); // a leg ended
    t.mend();
    t.clock.advance(6_000);
    expect(t.heard).toEqual(['1 failed', '2 held 5', '6 failed', '7 held 5', '12 well']);
  });

  it('failures in a row double the hold up to five minutes; ten good minutes forgive', () => {
    const t = build();
    const holds = (): number[] => t.heard.filter((line) => line.includes('held')).map((line) => Number(line.split(' ')[2]));
    for (let i = 0; i < 9; i++) {
      t.fail();
      t.clock.advance(1_000);
      t.mend();
      t.clock.advance(310_000);
      expect(t.watch.state.is).toBe('well');
    }
    expect(holds()).toEqual([5, 10, 20, 40, 80, 160, 300, 300, 300]);
    t.clock.advance(600_000);
    t.fail();
    t.clock.advance(1_000);
    t.mend();
    t.clock.advance(6_000);
    expect([holds().at(-1), t.watch.state.is]).toEqual([5, 'well']);
  });

  it('stops for good', () => {
    const t = build();
    t.watch.stop();
    t.fail();
    t.clock.advance(10_000);
    expect([t.heard, t.clock.pendingTimers]).toEqual([[], 0]);
  });
});
