import { latencyBucketBoundsMs } from '@armature/contracts';
import type { PlainData, PlannedPool } from '@armature/contracts';
import { latencyBucket } from '@armature/fleet-model';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { describe, expect, it } from 'vitest';
import { engineReport, pool, TestDiscovery, TestEvents, trafficReport, worker } from '../testing.test.support.ts';
import { Observer } from './observer.ts';
import type { Seen } from './observer.ts';

async function build(pools: readonly PlannedPool[] = [pool()]): Promise<{ clock: ManualClock; events: TestEvents; discovery: TestDiscovery; observer: Observer; traffic: (more?: Parameters<typeof trafficReport>[0]) => void; engine: (id: string, more?: Parameters<typeof engineReport>[1]) => void; join: (...args: Parameters<typeof worker>) => void; look: (desired?: Record<string, number>) => Seen }> {
  const [clock, events, discovery] = [new ManualClock(), new TestEvents(), new TestDiscovery()];
  const observer = new Observer({ model: 'm', pools, quantile: 0.5, events, discovery, clock });
  await observer.start();
  return {
    clock,
    events,
    discovery,
    observer,
    traffic: (more) => events.publish('traffic/m', trafficReport(more) as unknown as PlainData),
    engine: (id, more) => events.publish('engine/m', engineReport(id, more) as unknown as PlainData),
    join: (...args) => discovery.put(`workers/m/${worker(...args).instanceId}`, worker(...args) as unknown as PlainData),
    look: (desired = { all: 2 }) => observer.look(new Map(Object.entries(desired)), undefined),
  };
}

function column(ms: number, count: number): Uint32Array {
  const counts = new Uint32Array(latencyBucketBoundsMs.length);
  counts[latencyBucket(ms)] = count;
  return counts;
}

describe('traffic of several frontends', () => {
  it('adds up: rates by each one’s own time, means by all requests, quantiles over all', async () => {
    const t = await build();
    t.traffic({ source: 'a', ttft: column(100, 30) });
    t.traffic({ source: 'a', sequence: 2, ttft: column(100, 31) });
    t.traffic({ source: 'b', intervalMs: 500, arrived: 20, arrivedPromptTokens: 5_000, finished: 5, promptTokens: 1_000, cachedTokens: 1_000, generatedTokens: 300, withinObjective: 0, queued: 3, ttft: column(9_000, 10) });
    const { traffic } = t.look().observation;
    expect(traffic).toMatchObject({ requestsPerSecond: 10 + 40, finishedPerSecond: 20, promptTokens: 7_000 / 40, hitRate: 1_500 / 3_000, outputTokens: 1_500 / 25, queued: 3, attainment: 18 / 25 });
    expect(traffic.ttftMs).toBeGreaterThan(85);
    expect(traffic.ttftMs).toBeLessThan(105);
  });

  it('begins anew with each look, and hears of this model only', async () => {
    const t = await build();
    t.traffic();
    t.look();
    t.events.publish('traffic/m2', trafficReport({ sequence: 2 }) as unknown as PlainData);
    const { observation, isBlind } = t.look();
    expect([observation.traffic.requestsPerSecond, observation.traffic.attainment, isBlind]).toEqual([NaN, NaN, true]);
    expect(observation.problems).toContain('no frontend has reported since the last look');
  });

  it('lost reports are said; the rate is that of the others. One that comes twice counts once', async () => {
    const t = await build();
    t.traffic();
    t.traffic();
    t.traffic({ sequence: 4, arrived: 20 });
    const { observation } = t.look();
    expect(observation.traffic.requestsPerSecond).toBe(15);
    expect(observation.problems).toContain('2 traffic reports were lost; rates are those of the reports that came');
  });

  it.each([
    ['NaN', { arrived: NaN }, 'arrived is NaN'],
    ['negative', { generatedTokens: -1 }, 'generatedTokens is -1'],
    ['without time', { intervalMs: 0 }, 'its interval has no length'],
    ['of another shape', { ttft: [1, 2] as unknown as Uint32Array }, 'ttft is no column'],
  ])('a report that is %s is not used, and said', async (_what, more, problem) => {
    const t = await build();
    t.traffic({ source: 'good' });
    t.traffic({ source: 'bad', ...more });
    const { observation, isBlind } = t.look();
    expect(observation.traffic.requestsPerSecond).toBe(10);
    expect(observation.problems.join()).toContain(problem);
    expect(isBlind).toBe(true);
  });

  it('a frontend that falls silent is said, then counts as gone', async () => {
    const t = await build();
    t.traffic({ source: 'a' });
    t.traffic({ source: 'b' });
    t.look();
    let sequence = 1;
    const beat = async (): Promise<Seen> => {
      await t.clock.elapse(1_000);
      t.traffic({ source: 'a', sequence: ++sequence });
      return t.look();
    };
    expect((await beat()).isBlind).toBe(false);
    await beat();
    await beat();
    const silent = await beat();
    expect([silent.isBlind, silent.observation.problems]).toEqual([true, ['frontend b has been silent for 4000 ms']]);
    for (let i = 0; i < 6; i++) await beat();
    expect((await beat()).isBlind).toBe(false);
  });
});

describe('workers', () => {
  it('are counted by discovery, and their loads added; those on their way are what is ordered and not there', async () => {
    const t = await build();
    t.join('all', 0);
    t.engine('all/0@a');
    const [seen] = t.look({ all: 3 }).observation.pools;
    expect(seen).toMatchObject({ desired: 3, ready: 1, starting: 2, draining: 0, running: 4, waiting: 1, prefillTokens: 100, usedBlocks: 10, totalBlocks: 100, capacity: { kvTokens: 1_600, maxSequences: 8, maxBatchedTokens: 2_048 } });
  });

  it('that say nothing are taken to be as loaded as the others, and said; those that have just come are idle', async () => {
    const t = await build();
    t.join('all', 0);
    t.join('all', 1);
    t.look();
    t.engine('all/0@a');
    t.join('all', 2);
    const { observation } = t.look({ all: 3 });
    expect(observation.pools[0]).toMatchObject({ ready: 3, running: 8 });
    expect(observation.problems.join()).toContain('1 of 3 workers of pool all do not report their load');
  });

  it('whose reports are old have no known load', async () => {
    const t = await build();
    t.join('all', 0);
    t.engine('all/0@a');
    t.look({ all: 1 });
    await t.clock.elapse(5_000);
    const { observation } = t.look({ all: 1 });
    expect(observation.pools[0]?.running).toBeNaN();
  });

  it('that have left and still report are draining, until they are silent', async () => {
    const t = await build();
    t.join('all', 0);
    t.engine('all/0@a');
    t.discovery.lapse('workers/m/all/0@a');
    expect(t.look({ all: 0 }).observation.pools[0]).toMatchObject({ ready: 0, draining: 0, running: 0 });
    t.engine('all/0@a', { sequence: 2 });
    expect(t.look({ all: 0 }).observation.pools[0]).toMatchObject({ ready: 0, draining: 1 });
    await t.clock.elapse(3_000);
    expect(t.look({ all: 0 }).observation.pools[0]?.draining).toBe(0);
  });

  it('whose engine failed are not there, not draining, and said until they are well', async () => {
    const t = await build();
    t.join('all', 0);
    t.discovery.lapse('workers/m/all/0@a');
    t.discovery.put('unwell/m/all/0@a', { state: 'failed', code: 'ENGINE_STUCK', reason: 'a pass has not ended' });
    t.engine('all/0@a');
    const { observation } = t.look({ all: 1 });
    expect(observation.pools[0]).toMatchObject({ ready: 0, starting: 1, draining: 0 });
    expect(observation.problems).toContain('worker all/0@a takes no requests: a pass has not ended (ENGINE_STUCK)');
    t.discovery.lapse('unwell/m/all/0@a');
    expect(t.look({ all: 1 }).observation.problems.join()).not.toContain('takes no requests');
  });

  it('in another role are lent by their pool, and their load is that of the pool they work for', async () => {
    const t = await build([pool({ pool: 'p', role: 'prefill' }), pool({ pool: 'd', role: 'decode' })]);
    t.join('p', 0, { role: 'prefill' });
    t.join('d', 0, { role: 'decode' });
    t.join('d', 1, { role: 'prefill', roleChange: 'live' });
    for (const id of ['p/0@a', 'd/0@a', 'd/1@a']) t.engine(id);
    const [p, d] = t.look({ p: 1, d: 2 }).observation.pools;
    expect([p, d]).toMatchObject([{ ready: 1, lent: 0, running: 8, starting: 0 }, { ready: 1, lent: 1, running: 4, starting: 0 }]);
  });

  it('more than ordered, and of pools that are not planned, are said', async () => {
    const t = await build();
    t.join('all', 0);
    t.join('all', 1);
    t.join('stray', 0);
    const { observation } = t.look({ all: 1 });
    expect(observation.problems).toEqual(expect.arrayContaining(['pool all has 2 live workers where 1 are ordered', 'pool stray has live workers and is not in the plan']));
  });

  it('say what their passes were: all that came since the last look', async () => {
    const t = await build();
    t.join('all', 0);
    const passes = (ms: number): Parameters<typeof engineReport>[1] => ({ passes: { prefillTokens: Float64Array.of(1), decodeSequences: Float64Array.of(2), contextTokens: Float64Array.of(3), ms: Float64Array.of(ms) } });
    t.engine('all/0@a', { sequence: 1, ...passes(5) });
    t.engine('all/0@a', { sequence: 2, ...passes(6) });
    expect([...(t.look().observation.pools[0]?.passes.ms ?? [])]).toEqual([5, 6]);
    expect([...(t.look().observation.pools[0]?.passes.ms ?? [])]).toEqual([]);
    t.engine('all/0@a', { sequence: 3, passes: { ...(passes(7)?.passes as never as object), ms: Float64Array.of(NaN) } as never });
    expect(t.look().observation.problems.join()).toContain('passes are not four columns');
  });

  it('take as long to start as was seen', async () => {
    const t = await build();
    expect(t.look().observation.pools[0]?.startupMs).toBe(5_000);
    t.observer.ordered('all', 2);
    t.observer.ordered('all', -1);
    await t.clock.elapse(3_000);
    t.join('all', 0);
    t.join('all', 1); // nobody ordered that one
    expect(t.look().observation.pools[0]?.startupMs).toBe(3_000);
  });
});
