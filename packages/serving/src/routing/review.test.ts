import { ArmatureError } from '@armature/contracts';
import type { EventPlane, KvEvent, PlainData, RouterPolicy } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { CountingMetrics, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import { KvStreams } from './kv-streams.ts';
import { LogGate } from './log-gate.ts';
import { ModelRouter } from './model-router.ts';
import type { ModelRouterOptions, RouteQuery } from './model-router.ts';

const flat: RouterPolicy = { name: 'flat', supports: { deterministic: true }, score: () => undefined };

function build(policy: RouterPolicy, more: Partial<ModelRouterOptions> = {}) {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const router = new ModelRouter({ model: 'm', policy, clock, random: testRandom(1), log: silentLog, metrics, snapshot: (_w, done) => done([]), ...more });
  return { clock, metrics, router };
}

const query: RouteQuery = { id: 'r', hop: 'aggregated', role: 'both', promptTokens: 16, sequenceHashes: new Int32Array(8), blockSize: 4, creditsOverlap: true, overrides: {}, excluded: [], startedAtMs: 0 };

function streams(options: { expectsHeartbeats?: boolean; snapshot: (done: (events: readonly KvEvent[] | undefined) => void) => void }) {
  const clock = new ManualClock();
  const degraded: boolean[] = [];
  let last = 0;
  const kv = new KvStreams({
    model: 'm',
    clock,
    log: silentLog,
    metrics: new CountingMetrics(),
    expectsHeartbeats: options.expectsHeartbeats ?? false,
    sink: {
      apply: (_slot, event) => event.eventId <= last || (event.eventId === last + 1 && ((last = event.eventId), true)),
      restore: (_slot, _events, lastEventId) => void (last = lastEventId),
      degraded: (_slot, isDegraded) => void degraded.push(isDegraded),
    },
    snapshot: (_worker, done) => options.snapshot(done),
    replay: (_worker, _from, _to, done) => done(undefined),
  });
  return { kv, clock, degraded };
}

describe('KvStreams under attack', () => {
  it('a state that the next event never follows is not asked for over and over: degraded, tried again later', () => {
    let asked = 0;
    const { kv, degraded } = streams({ snapshot: (done) => (++asked, done([])) });
    kv.joined(0, workerRecord('w/0', 'both'));
    kv.receive(0, { type: 'cleared', eventId: 9 });
    expect(asked).toBeLessThanOrEqual(2);
    expect(degraded.at(-1)).toBe(true);
  });

  it('a worker of which nothing is ever heard is degraded; one without events is not', () => {
    const { kv, clock, degraded } = streams({ expectsHeartbeats: true, snapshot: (done) => done([]) });
    kv.joined(0, { ...workerRecord('w/0', 'both'), kvEvents: false });
    clock.advance(20_000);
    expect(degraded).toEqual([]);
    kv.joined(1, { ...workerRecord('w/1', 'both'), kvEvents: true });
    clock.advance(20_000);
    expect(degraded).toEqual([true]);
    kv.close();
  });

  it('close lets go who waits, and late answers change nothing', () => {
    let answer: ((events: readonly KvEvent[] | undefined) => void) | undefined;
    const { kv, degraded } = streams({ snapshot: (done) => void (answer = done) });
    kv.joined(0, workerRecord('w/0', 'both'));
    let resumed = 0;
    kv.whenApplied(0, 5, () => resumed++);
    kv.close();
    answer?.(undefined);
    expect(resumed).toBe(1);
    expect(degraded).toEqual([]);
  });
});

describe('ModelRouter under attack', () => {
  it('required taints hold under any policy: nobody carries them, nobody is chosen', () => {
    const { router } = build(flat);
    router.join({ ...workerRecord('w/0', 'both'), taints: ['big'] });
    router.join(workerRecord('w/1', 'both'));
    for (let i = 0; i < 20; i++) expect(router.route({ ...query, overrides: { requiredTaints: ['big'] } })).toMatchObject({ slot: 0 });
    const none = router.route({ ...query, overrides: { requiredTaints: ['small'] } });
    expect(ArmatureError.is(none) && none.code).toBe('SERVING_NO_WORKER');
  });

  it.each([['a number out of range', 7], ['NaN', NaN], ['an excluded candidate', 0]])('a picker that gives %s is overruled, and the record says so', (_what, picked) => {
    const { router } = build({ ...flat, score: (_r, _c, costs) => void (costs[0] = Infinity), pick: () => picked });
    router.join(workerRecord('w/0', 'both'));
    router.join(workerRecord('w/1', 'both'));
    const route = router.route(query);
    if (ArmatureError.is(route)) throw route;
    expect(route.slot).toBe(1);
    expect(route.decision.policyError).toContain('picked candidate');
  });

  it('settling a decision computes no terms', () => {
    let explained = 0;
    const { router } = build({ ...flat, explain: () => (explained++, {}) });
    for (const name of ['w/0', 'w/1']) router.join(workerRecord(name, 'both'));
    const route = router.route(query);
    if (ArmatureError.is(route)) throw route;
    router.settle(route.decision, route, 0);
    expect(explained).toBe(0);
    expect(route.decision.regretBlocks).toBe(0);
    expect(route.decision.candidates).toHaveLength(2);
    expect(explained).toBe(2);
  });

  it('without anybody to ask for candidates none are kept; regret is counted all the same, and lenders are still found', () => {
    const settled = (more: Partial<Parameters<typeof build>[1]>, tiers: object): { regret: number | undefined; candidates: number; holders: number } => {
      const holds: RouterPolicy = { ...flat, score: (_r, { overlapBlocks }, costs) => void ((overlapBlocks[0] = 3), (costs[0] = -2)) };
      const { router } = build(holds, more);
      for (const name of ['w/0', 'w/1']) router.join(workerRecord(name, 'both', tiers));
      const route = router.route(query);
      if (ArmatureError.is(route)) throw route;
      router.settle(route.decision, route, 0);
      return { regret: route.decision.regretBlocks, candidates: route.decision.candidates.length, holders: route.decision.holders(0).length };
    };
    const kept = settled({}, {});
    expect(kept).toEqual({ regret: 1, candidates: 2, holders: 1 });
    expect(settled({ keepsCandidates: false }, {})).toEqual({ regret: 1, candidates: 0, holders: 0 });
    expect(settled({ keepsCandidates: false }, { kvTiers: ['host'] })).toEqual(kept);
  });

  it('load that others gave a worker before it was known here counts once it joins; a request without a block size is refused', () => {
    const listeners: ((subject: string, payload: PlainData) => void)[] = [];
    const events: EventPlane = { supports: { processes: true }, publish: () => undefined, subscribe: (_prefix, listener) => (listeners.push(listener), { close: () => undefined }) };
    const { router, metrics } = build(flat, { replica: { events, routerId: 'me' } });
    router.join(workerRecord('w/1', 'both'));
    router.replica?.start();
    const late = workerRecord('w/0', 'both');
    const request = { type: 'add', id: 'x', instanceId: late.instanceId, hop: 'aggregated', promptTokens: 16, prefillTokens: 16, blockSize: 4, creditsOverlap: true, sequenceHashes: new Int32Array(8) };
    for (const listener of listeners) listener('load/m/other', { type: 'state', batch: 0, requests: [request], prefilled: [] });
    router.join(late);
    expect(router.table.load(1)).toEqual({ requests: 1, prefillTokens: 16, blocks: 4 });
    for (const listener of listeners) listener('load/m/third', { type: 'state', batch: 0, requests: [{ ...request, blockSize: 0 }], prefilled: [] });
    expect(metrics.total('armature_router_load_malformed_total')).toBe(1);
    expect(router.table.load(1).blocks).toBe(4);
  });

  it('logs what fails with every request once per interval', () => {
    const clock = new ManualClock();
    const gate = new LogGate(clock);
    expect([gate.pass('a'), gate.pass('a'), gate.pass('b')]).toEqual([0, undefined, 0]);
    clock.advance(10_000);
    expect(gate.pass('a')).toBe(1);
  });
});
