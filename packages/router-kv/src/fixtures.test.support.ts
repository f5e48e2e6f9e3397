import { PerformanceObserver } from 'node:perf_hooks';
import type { Clock, Metrics, PluginContext, Random, Timer } from '@armature/contracts';

/** Small seeded source (mulberry32). */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  const u32 = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (x ^ (x >>> 14)) >>> 0;
  };
  return { u32, next: () => u32() / 4_294_967_296, below: (bound) => Math.floor((u32() / 4_294_967_296) * bound), fork: (label) => seeded(seed + label.length) };
}

/** Time passes by `advance` only. */
export class ManualClock implements Clock {
  #nowMs = 0;
  #timers: { dueMs: number; callback: () => void }[] = [];

  get timers(): number {
    return this.#timers.length;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const timer = { dueMs: this.#nowMs + delayMs, callback };
    this.#timers.push(timer);
    return timer;
  }

  clearTimer(timer: Timer): void {
    this.#timers = this.#timers.filter((entry) => entry !== timer);
  }

  defer(callback: () => void): void {
    this.setTimer(0, callback);
  }

  sleep(): Promise<void> {
    throw new Error('not needed');
  }

  advance(ms: number): void {
    const until = this.#nowMs + ms;
    for (;;) {
      const next = this.#timers.filter((entry) => entry.dueMs <= until).sort((a, b) => a.dueMs - b.dueMs)[0];
      if (next === undefined) break;
      this.#nowMs = next.dueMs;
      this.clearTimer(next);
      next.callback();
    }
    this.#nowMs = until;
  }
}

export interface FakeContext extends PluginContext {
  readonly clock: ManualClock;
  /** Last value of each metric, after `collect`. */
  readonly values: Map<string, number>;
  readonly warnings: string[];
  collect(): void;
}

export function fakeContext(seed = 1): FakeContext {
  const values = new Map<string, number>();
  const collectors = new Set<() => void>();
  const warnings: string[] = [];
  const family = ({ name }: { name: string }) => ({
    with: () => ({
      set: (value: number) => void values.set(name, value),
      add: (by: number) => void values.set(name, (values.get(name) ?? 0) + by),
      inc: (by = 1) => void values.set(name, (values.get(name) ?? 0) + by),
      observe: () => {},
    }),
  });
  const metrics: Metrics = {
    counter: family,
    gauge: family,
    histogram: family,
    onCollect: (callback) => {
      collectors.add(callback);
      return () => void collectors.delete(callback);
    },
  };
  const log = { debug: () => {}, info: () => {}, warn: (message: string) => void warnings.push(message), error: () => {}, child: () => log, isEnabled: () => false };
  return {
    path: 'models[0].router',
    log,
    clock: new ManualClock(),
    random: seeded(seed),
    metrics,
    values,
    warnings,
    collect: () => collectors.forEach((callback) => callback()),
  } as Partial<FakeContext> as FakeContext;
}

/** Garbage collections while `body` runs, after warming it up: what allocates fills the young generation (16 MB or less) again and again. */
export async function collections(body: () => void): Promise<number> {
  let count = 0;
  const observer = new PerformanceObserver((list) => {
    count += list.getEntries().length;
  });
  body();
  observer.observe({ entryTypes: ['gc'] });
  await new Promise((resolve) => setTimeout(resolve, 5));
  count = 0;
  body();
  await new Promise((resolve) => setTimeout(resolve, 5));
  observer.disconnect();
  return count;
}
