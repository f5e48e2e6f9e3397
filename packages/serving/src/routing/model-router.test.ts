import { ArmatureError } from '@armature/contracts';
import type { KvEvent, RouterPolicy, WorkerRecord } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { CountingMetrics, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import { ModelRouter } from './model-router.ts';
import type { RouteQuery } from './model-router.ts';

const flat: RouterPolicy = { name: 'flat', supports: { deterministic: true }, score: () => undefined };

function build(policy: RouterPolicy, snapshot: (worker: WorkerRecord, done: (events: readonly KvEvent[] | undefined) => void) => void = (_, done) => done([])) {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const router = new ModelRouter({ model: 'm', policy, clock, random: testRandom(1), log: silentLog, metrics, snapshot });
  return { clock, metrics, router };
}

const query = (more: Partial<RouteQuery> = {}): RouteQuery => ({
  id: 'r',
  hop: 'aggregated',
  role: 'both',
  promptTokens: 16,
  sequenceHashes: new Int32Array(8),
  blockSize: 4,
  creditsOverlap: true,
  overrides: {},
  excluded: [],
  startedAtMs: 0,
  ...more,
});

const removed = (eventId: number): KvEvent => ({ type: 'removed', eventId, sequenceHashes: new Int32Array(2), tier: 'device' });

/** A kv face that notes what it is told. */
function noting() {
  const applied: number[] = [];
  let last = 0;
  const policy: RouterPolicy = {
    ...flat,
    kv: {
      joined: () => undefined,
      left: () => undefined,
      restore: (_slot, events, lastEventId) => {
        applied.push(...events.map((event) => event.eventId));
        last = lastEventId;
      },
      apply: (_slot, event) => {
        if (event.eventId > last + 1) return false;
        last = Math.max(last, event.eventId);
        applied.push(event.eventId);
        return true;
      },
    },
  };
  return { applied, policy };
}

describe('a policy that throws', () => {
  const boom = (): never => {
    throw new Error('boom');
  };
  it('in pick or explain: the cheapest worker is taken', () => {
    const { router, metrics } = build({ ...flat, pick: boom, explain: boom });
    router.join(workerRecord('w/0', 'both'));
    expect(router.route(query())).toMatchObject({ slot: 0 });
    expect(metrics.total('armature_router_policy_errors_total')).toBeGreaterThan(0);
  });

  it('in its load and kv faces: charges stay exact, the event plane goes on', () => {
    const { router } = build({ ...flat, load: { dispatched: boom, firstToken: boom, grown: boom, ended: boom }, kv: { joined: boom, left: boom, apply: boom, restore: boom } });
    expect(router.join(workerRecord('w/0', 'both'))).toBe(true);
    const route = router.route(query());
    if (ArmatureError.is(route)) throw route;
    const charge = router.dispatch(route, query(), 'aggregated');
    router.prefilled(charge, 'r');
    router.grown(charge, 'r', 5);
    router.apply('w/0@1', removed(1));
    router.ended(charge, 'r');
    expect(router.table.load(0)).toEqual({ requests: 0, prefillTokens: 0, blocks: 0 });
    router.leave('w/0@1');
  });
});

describe('ModelRouter', () => {
  it('without an index does not wait for events it never asked for', () => {
    const { router } = build(flat);
    router.join(workerRecord('w/0', 'both'));
    let resumed = false;
    router.whenApplied(0, 500, () => {
      resumed = true;
    });
    expect(resumed).toBe(true);
  });

  it('spreads equal costs over all workers', () => {
    const { router } = build(flat);
    for (let i = 0; i < 5; i++) router.join(workerRecord(`w/${i}`, 'both'));
    const counts = new Map<string, number>();
    for (let i = 0; i < 5_000; i++) {
      const route = router.route(query());
      if (ArmatureError.is(route)) throw route;
      counts.set(route.worker.instanceId, (counts.get(route.worker.instanceId) ?? 0) + 1);
    }
    expect(counts.size).toBe(5);
    for (const count of counts.values()) expect(count).toBeGreaterThan(800);
  });

  it.each([
    ['throws', { ...flat, score: () => { throw new Error('boom'); } }],
    ['writes NaN', { ...flat, score: (_r, _c, costs) => void costs.fill(NaN) }],
    ['excludes everybody', { ...flat, score: (_r, _c, costs) => void costs.fill(Infinity) }],
  ] as [string, RouterPolicy][])('isolates a policy that %s: least loaded worker, counted, recorded', (_name, policy) => {
    const { router, metrics } = build(policy);
    router.join(workerRecord('a/0', 'both'));
    router.join(workerRecord('b/0', 'both'));
    const first = router.route(query());
    if (ArmatureError.is(first)) throw first;
    router.dispatch(first, query(), 'aggregated');
    const second = router.route(query());
    if (ArmatureError.is(second)) throw second;
    expect(second.slot).not.toBe(first.slot);
    expect(second.decision.policyError).toBeTruthy();
    expect(metrics.total('armature_router_policy_errors_total')).toBe(2);
  });

  it('excludes workers that failed the request, and says so when none is left', () => {
    const { router } = build(flat);
    router.join(workerRecord('a/0', 'both'));
    router.join(workerRecord('b/0', 'both'));
    const route = router.route(query({ excluded: ['a/0@1'] }));
    expect(ArmatureError.is(route)).toBe(false);
    if (!ArmatureError.is(route)) expect(route.worker.instanceId).toBe('b/0@1');
    const none = router.route(query({ excluded: ['a/0@1', 'b/0@1'] }));
    expect(ArmatureError.is(none) && none.code).toBe('SERVING_NO_WORKER');
  });

  it('fails a pin to a worker that does not exist rather than going elsewhere', () => {
    const { router } = build(flat);
    router.join(workerRecord('a/0', 'both'));
    const route = router.route(query({ overrides: { worker: 'zzz@1' } }));
    expect(ArmatureError.is(route) && route.code).toBe('SERVING_WORKER_UNKNOWN');
  });

  it('a data-parallel rank that nobody has is an error, not another rank', () => {
    const { router } = build(flat);
    router.join(workerRecord('a/0', 'both'));
    router.join(workerRecord('a/1', 'both', { dpRank: 1 }));
    const route = router.route(query({ overrides: { dpRank: 1 } }));
    expect(ArmatureError.is(route) ? route.code : route.worker.instanceId).toBe('a/1@1');
    const none = router.route(query({ overrides: { dpRank: 2 } }));
    expect(ArmatureError.is(none) && none.code).toBe('SERVING_WORKER_UNKNOWN');
  });

  it('a busy worker gets nothing while another is not; when all are, the policy decides', () => {
    const loves = { ...flat, score: (_r: unknown, candidates: { count: number }, costs: Float64Array) => { for (let i = 0; i < candidates.count; i++) costs[i] += i * 100; } } as RouterPolicy;
    const busy = new Set(['a/0@1']);
    const router = new ModelRouter({ model: 'm', policy: loves, clock: new ManualClock(), random: testRandom(1), log: silentLog, metrics: new CountingMetrics(), snapshot: (_w, done) => done([]), isBusy: (worker) => busy.has(worker.instanceId) });
    for (const name of ['a/0', 'a/1', 'a/2']) router.join(workerRecord(name, 'both'));
    const chosen = (): string => {
      const route = router.route(query());
      return ArmatureError.is(route) ? route.code : route.worker.instanceId;
    };
    expect(chosen()).toBe('a/1@1');
    for (const name of ['a/1@1', 'a/2@1']) busy.add(name);
    expect(chosen()).toBe('a/0@1');
  });

  it('refuses workers of another model or block size', () => {
    const { router } = build(flat);
    expect(router.join(workerRecord('a/0', 'both'))).toBe(true);
    expect(router.join(workerRecord('b/0', 'both', { modelFingerprint: 'other' }))).toBe(false);
    expect(router.join(workerRecord('c/0', 'both', { blockSize: 64 }))).toBe(false);
    expect(router.table.size).toBe(1);
  });

  it('resyncs on a gap and applies what came meanwhile afterwards, once', () => {
    const { applied, policy } = noting();
    let answer: ((events: readonly KvEvent[] | undefined) => void) | undefined;
    let asked = 0;
    const { router, metrics } = build(policy, (_worker, done) => {
      asked++;
      if (asked === 1) done([]);
      else answer = done;
    });
    router.join(workerRecord('a/0', 'both'));
    router.apply('a/0@1', removed(1));
    router.apply('a/0@1', removed(4)); // 2 and 3 were lost
    router.apply('a/0@1', removed(5));
    expect(asked).toBe(2);
    expect(metrics.total('armature_router_kv_event_gaps_total')).toBe(1);
    answer?.([{ ...removed(4) }]);
    expect(applied).toEqual([1, 4, 5]);
  });

  it('holds an end back until its events have come, and no longer than the fence', () => {
    const { clock, router, metrics } = build(noting().policy);
    router.join(workerRecord('a/0', 'both'));
    const shown: string[] = [];
    router.whenApplied(0, 1, () => shown.push('first'));
    expect(shown).toEqual([]);
    router.apply('a/0@1', removed(1));
    expect(shown).toEqual(['first']);
    router.whenApplied(0, 99, () => shown.push('second'));
    clock.advance(10_000);
    expect(shown).toEqual(['first', 'second']);
    expect(metrics.total('armature_router_fence_timeouts_total')).toBe(1);
    expect(clock.pendingTimers).toBe(0);
  });
});
