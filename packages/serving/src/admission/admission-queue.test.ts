import { describe, expect, it } from 'vitest';
import { testRandom } from '../test-support/fakes.ts';
import { build, seedOf } from './testing.test.support.ts';
import type { Heard } from './testing.test.support.ts';

/** A worker of which each admitted request takes `tokens` of prefill. */
function withWorker(more: Parameters<typeof build>[0] = {}) {
  const t = build(more);
  t.loads.add('both/0', 'both');
  const busy = (): void => t.loads.set('both/0', 101);
  const idle = (): void => t.loads.set('both/0', 0);
  return { ...t, busy, idle };
}

describe('parking and release', () => {
  it('parks while every eligible worker is busy, and admits in order when one is not', () => {
    const t = withWorker();
    expect(t.enter('first').entry.type).toBe('free');
    t.busy();
    t.loads.add('both/1', 'both');
    expect(t.enter('second').entry.type).toBe('free'); // the other worker is idle
    t.loads.set('both/1', 101);
    const { heard, entry } = t.enter('third');
    expect(entry).toMatchObject({ type: 'parked', ahead: 0, occupancy: { workers: 2, busyByPrefillTokens: 2, busyByKvBlocks: 0 } });
    t.enter('fourth', {}, () => t.busy());
    t.queue.capacityChanged();
    expect(t.order).toEqual([]);
    t.idle();
    expect(t.order).toEqual([]); // nothing is polled
    t.queue.capacityChanged();
    expect(t.order).toEqual(['third', 'fourth']);
    expect(heard.admissions).toBe(1);
    expect([t.queue.size, t.queue.promptTokens, t.clock.pendingTimers]).toEqual([0, 0, 0]);
    expect(t.metrics.values.get('armature_queue_exits_total{m,admitted}')).toBe(2);
    expect(t.metrics.total('armature_queue_parked_total')).toBe(2);
  });

  it('never lets a newcomer pass a backlog of its class, even when there is room', () => {
    const t = withWorker();
    t.busy();
    t.enter('old', {}, () => t.busy());
    t.idle();
    const { entry } = t.enter('new'); // capacity came back unheard: the older one gets it
    expect(entry.type).toBe('parked');
    expect(t.order).toEqual(['old']);
    expect(t.queue.size).toBe(1);
  });

  it('counts a worker as busy by either threshold, each by itself', () => {
    const t = withWorker({ prefillFraction: 0.5, kvBlocksFraction: 0.9 }); // batch limit 512, 100 blocks
    const type = (tokens: number, blocks: number): string => {
      t.loads.set('both/0', tokens, blocks);
      const { entry, heard } = t.enter('x');
      if (heard.ticket !== undefined) t.queue.leave(heard.ticket);
      return entry.type;
    };
    expect([type(100, 0), type(101, 0), type(0, 90), type(0, 91)]).toEqual(['free', 'parked', 'free', 'parked']);
    const fraction = build({ prefillFraction: 0.5, prefillTokens: 1_000 });
    fraction.loads.add('both/0', 'both');
    fraction.loads.set('both/0', 257);
    expect(fraction.enter('x').entry.type).toBe('parked');
  });

  it('assumes a batch limit of workers that report none, and says so', () => {
    const t = build({ prefillFraction: 2, assumedBatchTokens: 50, kvBlocksFraction: 0.5 });
    const record = t.loads.add('both/0', 'both', { maxBatchedTokens: 0, totalBlocks: 0 });
    t.queue.joined(record);
    expect(t.warnings.map(({ fields }) => fields?.['code'])).toEqual(['SERVING_BATCH_LIMIT_UNKNOWN', 'SERVING_BLOCKS_UNKNOWN']);
    t.loads.set('both/0', 100);
    expect(t.enter('x').entry.type).toBe('free');
    t.loads.set('both/0', 100.5);
    expect(t.enter('x').entry.type).toBe('parked');
  });

  it('keeps classes apart: a pinned request waits for its worker alone, and holds up nobody', () => {
    const t = withWorker();
    t.loads.add('both/1', 'both', { taints: ['fast'] });
    t.busy();
    expect(t.enter('pinned', { gate: { worker: 'both/0@1' } }).entry.type).toBe('parked');
    expect(t.enter('any').entry.type).toBe('free');
    t.loads.set('both/1', 101);
    expect(t.enter('fast', { gate: { requiredTaints: ['fast'] } }).entry.type).toBe('parked');
    t.idle();
    t.queue.capacityChanged();
    expect(t.order).toEqual(['pinned']);
    t.loads.set('both/1', 0);
    t.queue.capacityChanged();
    expect(t.order).toEqual(['pinned', 'fast']);
  });

  it('gives classes that share a worker turns', () => {
    const t = withWorker();
    t.busy();
    for (let i = 0; i < 3; i++) t.enter(`any${i}`, {}, () => t.busy());
    for (let i = 0; i < 3; i++) t.enter(`pin${i}`, { gate: { worker: 'both/0@1' } }, () => t.busy());
    for (let i = 0; i < 6; i++) {
      t.idle();
      t.queue.capacityChanged();
    }
    expect(t.order).toEqual(['any0', 'pin0', 'any1', 'pin1', 'any2', 'pin2']);
  });

  it('survives the loss of all workers; a pin on a lost one is admitted for the router to refuse', () => {
    const t = withWorker();
    t.busy();
    t.enter('stays');
    t.enter('pinned', { gate: { worker: 'both/0@1' } });
    t.loads.workers.length = 0;
    t.queue.capacityChanged();
    expect(t.order).toEqual(['pinned']);
    expect(t.enter('newcomer').entry.type).toBe('parked'); // behind the backlog
    t.queue.joined(t.loads.add('both/1', 'both'));
    expect(t.order).toEqual(['pinned', 'stays', 'newcomer']);
  });

  it('waits for decode workers too when the prompt goes to a prefill worker', () => {
    const t = build({ kvBlocksFraction: 0.5 });
    t.loads.add('prefill/0', 'prefill');
    t.loads.add('decode/0', 'decode');
    t.loads.set('prefill/0', 101);
    expect(t.enter('x', { gate: { role: 'prefill' } }).entry.type).toBe('parked');
    t.loads.set('decode/0', 0, 51);
    t.loads.set('prefill/0', 0);
    t.queue.capacityChanged();
    expect(t.order).toEqual([]);
    t.loads.set('decode/0', 0, 0);
    t.queue.capacityChanged();
    expect(t.order).toEqual(['x']);
  });

  it('keeps the place and the time of a request that has to wait once more', () => {
    const t = build({ maxWaitMs: 1_000 });
    t.loads.add('prefill/0', 'prefill');
    t.loads.add('decode/0', 'decode');
    t.loads.set('prefill/0', 101);
    t.loads.set('decode/0', 101);
    const first = t.enter('older', { gate: { role: 'decode' } }).heard.ticket;
    t.clock.advance(600);
    t.enter('younger', { gate: { role: 'prefill' } });
    t.loads.set('decode/0', 0);
    t.queue.capacityChanged();
    const again = t.enter('older again', { gate: { role: 'prefill' }, first: first as NonNullable<typeof first> }).heard;
    t.enter('youngest', { gate: { role: 'prefill' } });
    t.clock.advance(410);
    expect(again.error).toMatchObject({ code: 'SERVING_QUEUE_TIMEOUT' });
    const once = t.enter('older once more', { gate: { role: 'prefill' }, first: { ...first, arrivedAtMs: 500 } as NonNullable<typeof first> }).heard;
    t.loads.set('prefill/0', 0);
    t.queue.capacityChanged();
    expect([t.order, once.admissions]).toEqual([['older', 'older once more', 'younger', 'youngest'], 1]);
  });

  it('admits a long queue of requests without load in slices of a turn', () => {
    const t = withWorker();
    t.busy();
    for (let i = 0; i < 200; i++) t.enter(`r${i}`);
    t.idle();
    t.queue.capacityChanged();
    expect(t.order).toHaveLength(64);
    t.clock.advance(0);
    expect(t.order).toHaveLength(200);
  });

  it('looks by itself once a second, for load that ended unheard elsewhere', () => {
    const t = withWorker();
    t.busy();
    t.enter('x');
    t.idle();
    t.clock.advance(1_000);
    expect(t.order).toEqual(['x']);
    expect(t.metrics.values.get('armature_queue_exits_total{m,admitted-by-scan}')).toBe(1);
  });
});

describe('bounds', () => {
  it('refuse with the status of whose limit it is, and when to come back', () => {
    const t = withWorker({ maxRequests: 3, maxTenantRequests: 2, overloadStatus: 503 });
    t.busy();
    t.enter('a1', { tenant: 'a' });
    t.enter('a2', { tenant: 'a' });
    const own = t.enter('a3', { tenant: 'a' }).entry;
    expect(own).toMatchObject({ type: 'refused', error: { code: 'SERVING_TENANT_QUEUE_FULL', retryable: true, refusal: { status: 429 } } });
    t.enter('b1', { tenant: 'b' });
    expect(t.enter('c1', { tenant: 'c' }).entry).toMatchObject({ type: 'refused', error: { code: 'SERVING_QUEUE_FULL', refusal: { status: 503, retryAfterMs: 1_000 } } });
    expect(t.metrics.values.get('armature_queue_rejections_total{m,tenant-requests}')).toBe(1);
    expect(t.metrics.values.get('armature_queue_rejections_total{m,requests}')).toBe(1);
    expect(t.queue.size).toBe(3);
  });

  it('on tokens let the crossing request in, so that none is too large for ever', () => {
    const t = withWorker({ maxTokens: 100, maxTenantTokens: 50 });
    t.busy();
    expect(t.enter('a', { tenant: 'a', tokens: 5_000 }).entry.type).toBe('parked');
    expect(t.enter('a2', { tenant: 'a', tokens: 1 }).entry).toMatchObject({ error: { code: 'SERVING_TENANT_QUEUE_FULL' } });
    expect(t.enter('b', { tenant: 'b', tokens: 1 }).entry).toMatchObject({ error: { code: 'SERVING_QUEUE_FULL' } });
    expect(t.metrics.values.get('armature_queue_rejections_total{m,tokens}')).toBe(1);
    expect(t.metrics.values.get('armature_queue_rejections_total{m,tenant-tokens}')).toBe(1);
  });

  it('on classes stop clients from inventing them', () => {
    const t = withWorker();
    t.busy();
    const taints = Array.from({ length: 300 }, (_, i) => `t${i}`);
    Object.assign(t.loads.workers[0].record, { taints });
    const types = taints.map((taint) => t.enter(taint, { gate: { requiredTaints: [taint] } }).entry.type);
    expect(types.filter((type) => type === 'parked')).toHaveLength(256);
    expect(t.metrics.values.get('armature_queue_rejections_total{m,classes}')).toBe(44);
  });

  it('tell a Retry-After from the measured drain rate, within limits', () => {
    const t = withWorker({ maxRequests: 100, maxRetryAfterMs: 20_000 });
    t.busy();
    const retryAfterMs = (): number | undefined => {
      const { entry } = t.enter('over');
      return entry.type === 'refused' ? entry.error.refusal?.retryAfterMs : undefined;
    };
    for (let i = 0; i < 100; i++) t.enter(`r${i}`, { tokens: 10 }, () => t.busy());
    expect(retryAfterMs()).toBe(1_000); // nothing is known yet
    for (let i = 0; i < 20; i++) {
      t.clock.advance(100);
      t.idle();
      t.queue.capacityChanged(); // 10 tokens in 100 ms
      t.enter(`s${i}`, { tokens: 10 }, () => t.busy());
    }
    expect(t.queue.size).toBe(100);
    expect(retryAfterMs()).toBeGreaterThan(9_500); // 1,000 tokens at 100 per second
    expect(retryAfterMs()).toBeLessThan(10_500);
    t.clock.advance(30_000);
    expect(retryAfterMs()).toBe(20_000); // ever slower, up to the limit
  });

  it('share one turn and one limit among tenants above maxTenants', () => {
    const t = withWorker({ maxTenants: 2, maxTenantRequests: 2 });
    t.busy();
    for (const name of ['a', 'b', 'c', 'd']) expect(t.enter(name, { tenant: name }).entry.type).toBe('parked');
    expect(t.enter('e', { tenant: 'e' }).entry).toMatchObject({ error: { code: 'SERVING_TENANT_QUEUE_FULL' } });
    expect(t.enter('a', { tenant: 'a' }).entry.type).toBe('parked');
    expect(t.queue.snapshot(10)).toMatchObject({ tenants: [{ requests: 2 }, { requests: 2 }, { name: 'b', requests: 1 }] });
  });
});

describe('leaving', () => {
  it('by cancel, deadline or longest wait leaves no residue, and is counted', () => {
    const t = withWorker({ maxWaitMs: 1_500 });
    t.busy();
    const cancelled = t.enter('cancelled').heard;
    const late = t.enter('late', { deadlineMs: 500 }).heard;
    const waited = t.enter('waited').heard;
    expect(t.clock.pendingTimers).toBe(1); // one for all
    t.queue.leave(cancelled.ticket as NonNullable<Heard['ticket']>);
    t.queue.leave(cancelled.ticket as NonNullable<Heard['ticket']>);
    t.clock.advance(510);
    expect(late.error).toMatchObject({ code: 'SERVING_DEADLINE_EXCEEDED' });
    t.clock.advance(1_500);
    expect(waited.error).toMatchObject({ code: 'SERVING_QUEUE_TIMEOUT', retryable: true, refusal: { status: 529 } });
    expect(cancelled.error).toBeUndefined();
    const exits = ['left', 'deadline', 'max-wait', 'admitted'].map((outcome) => t.metrics.values.get(`armature_queue_exits_total{m,${outcome}}`));
    expect(exits).toEqual([1, 1, 1, undefined]);
    expect([t.queue.size, t.queue.promptTokens, t.clock.pendingTimers, t.order.length]).toEqual([0, 0, 0, 0]);
    expect(t.queue.snapshot(10)).toMatchObject({ classes: [], tenants: [] });
  });

  it('by close tells everybody, and newcomers, to go elsewhere', () => {
    const t = withWorker();
    t.busy();
    const heard = [t.enter('a').heard, t.enter('b', { gate: { worker: 'both/0@1' } }).heard];
    t.queue.close();
    for (const { error } of heard) expect(error).toMatchObject({ code: 'SERVING_QUEUE_DRAINING', retryable: true });
    expect([t.queue.size, t.clock.pendingTimers]).toEqual([0, 0]);
    t.idle();
    expect(t.enter('c').entry).toMatchObject({ type: 'refused', error: { code: 'SERVING_QUEUE_DRAINING' } });
  });
});

describe('against a naive model', () => {
  interface Row {
    readonly name: string;
    readonly tenant: string;
    readonly tokens: number;
    readonly expiresAtMs: number;
  }

  it('admits, refuses and expires the same, in any order of events', () => {
    const seed = seedOf();
    console.log(`queue seed ${seed}`);
    let overflows = 0;
    for (let round = 0; round < 60; round++) {
      const random = testRandom(seed + round);
      const limits = { maxRequests: 12, maxTokens: 300, maxTenantRequests: 4, maxTenantTokens: 150, maxWaitMs: 5_000 };
      const t = withWorker(limits);
      let rows: Row[] = [];
      const admitted: string[] = [];
      const sum = (of: readonly Row[]): number => of.reduce((total, row) => total + row.tokens, 0);
      const tickets = new Map<string, Heard>();
      let load = 0;
      const setLoad = (tokens: number): void => {
        load = tokens;
        t.loads.set('both/0', tokens);
      };
      const drain = (): void => {
        while (load <= 100 && rows.length > 0) {
          const row = rows.shift() as Row;
          admitted.push(row.name);
          load += row.tokens;
        }
      };
      for (let step = 0; step < 400; step++) {
        const at = `seed ${seed + round} step ${step}`;
        const dice = random.below(10);
        if (dice < 5) {
          const row: Row = { name: `r${step}`, tenant: `t${random.below(4)}`, tokens: 1 + random.below(60), expiresAtMs: t.clock.nowMs() + Math.min(5_000, 100 * (1 + random.below(100))) };
          const own = rows.filter((other) => other.tenant === row.tenant);
          const isFree = rows.length === 0 && load <= 100;
          const code =
            own.length >= limits.maxTenantRequests || sum(own) >= limits.maxTenantTokens ? 'SERVING_TENANT_QUEUE_FULL' : rows.length >= limits.maxRequests || sum(rows) >= limits.maxTokens ? 'SERVING_QUEUE_FULL' : undefined;
          const { heard, entry } = t.enter(row.name, { tenant: row.tenant, tokens: row.tokens, deadlineMs: row.expiresAtMs - t.clock.nowMs() }, () => setLoad(load + row.tokens));
          if (isFree) expect(entry.type, at).toBe('free');
          else if (code !== undefined) {
            overflows++;
            expect(entry, at).toMatchObject({ type: 'refused', error: { code } });
          } else {
            expect(entry.type, at).toBe('parked');
            rows.push(row);
            tickets.set(row.name, heard);
          }
        } else if (dice < 7) {
          const kept = load;
          setLoad(Math.max(0, load - random.below(120)));
          const target = load;
          drain();
          const after = load;
          setLoad(target);
          t.queue.capacityChanged();
          expect([load, kept >= target], at).toEqual([after, true]);
        } else if (dice < 8 && rows.length > 0) {
          const [row] = rows.splice(random.below(rows.length), 1);
          t.queue.leave(tickets.get(row.name)?.ticket as NonNullable<Heard['ticket']>);
        } else {
          setLoad(Math.max(load, 101)); // so that the safety scan finds nothing
          t.clock.advance(random.below(1_000) + 20);
          rows = rows.filter((row) => row.expiresAtMs > t.clock.nowMs() - 10);
          // Expiry is in batches of 10 ms: what is due within the last batch may or may not have gone, what is not due must not.
          rows = rows.filter((row) => {
            const { error } = tickets.get(row.name) as Heard;
            if (error !== undefined) expect(row.expiresAtMs, at).toBeLessThanOrEqual(t.clock.nowMs());
            return error === undefined;
          });
        }
        expect(t.order, at).toEqual(admitted);
        expect([t.queue.size, t.queue.promptTokens], at).toEqual([rows.length, sum(rows)]);
      }
    }
    expect(overflows).toBeGreaterThan(100);
  });
});
