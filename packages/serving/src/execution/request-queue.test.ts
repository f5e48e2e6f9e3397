import { FinishCode } from '@armature/contracts';
import type { InferenceEnd, InferenceRequest, PlaneMessage, RouterPolicy, WorkerRole } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { AdmissionQueue } from '../admission/admission-queue.ts';
import type { QueueConfig } from '../admission/config.ts';
import { SessionTable } from '../admission/session-table.ts';
import { config } from '../admission/testing.test.support.ts';
import { always, never } from '../policies/disaggregation.ts';
import { ModelRouter } from '../routing/model-router.ts';
import { RequestRecords } from '../routing/records.ts';
import { CountingMetrics, FakePlane, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import type { FakeCall } from '../test-support/fakes.ts';
import type { ExecutionHost } from './execution-host.ts';
import { RequestRun } from './request-run.ts';

const leastTokens: RouterPolicy = {
  name: 'least-tokens',
  supports: { deterministic: true },
  score: (_request, candidates, costs) => {
    for (let i = 0; i < candidates.count; i++) costs[i] = candidates.activePrefillTokens[i];
  },
};
const context = undefined as never;
const remote = await always.create({ whenNoPrefillWorker: 'fail' }, context);
const local = await never.create({}, context);

function build(roles: readonly WorkerRole[], queue: Partial<QueueConfig> | undefined, more: Partial<ExecutionHost> = {}, policy = leastTokens) {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const plane = new FakePlane();
  const router = new ModelRouter({ model: 'm', policy, clock, random: testRandom(3), log: silentLog, metrics, snapshot: (_w, done) => done([]) });
  const admission = queue === undefined ? undefined : new AdmissionQueue({ model: 'm', config: { ...config, prefillTokens: 15, ...queue }, loads: router.table, clock, log: silentLog, metrics });
  roles.forEach((role, i) => router.join(workerRecord(`${role}/${i}`, role)));
  const counter = (name: string) => metrics.counter({ name }).with();
  let runs = 0;
  const host: ExecutionHost = {
    model: 'm',
    blockSize: 4,
    leaseTtlMs: 1_000,
    migrationLimit: 3,
    deadlines: { prefillMs: 0, transferMs: 0, firstTokenMs: 0, interTokenMs: 0 },
    failoverWaitMs: 0,
    router,
    policy: remote,
    admission,
    requests: plane,
    records: new RequestRecords(100),
    clock,
    log: silentLog,
    input: { promptTokens: 0, overlapTokens: 0, prefillWorkers: 0, leastPrefillTokens: 0, decodePrefillTokens: 0, localFirstTokenMs: NaN, remoteFirstTokenMs: NaN },
    metrics: { finished: counter('finished'), failed: counter('failed'), cancelled: counter('cancelled'), remotePrefills: counter('remote'), localPrefills: counter('local'), fallbacks: counter('fallbacks'), migrations: counter('migrations'), decodeReattached: counter('reattached') },
    nextRunId: () => `run-${++runs}`,
    ...more,
  };
  const ends = new Map<string, InferenceEnd>();
  const start = (id: string, request: Partial<InferenceRequest> = {}): RequestRun => {
    const whole: InferenceRequest = { id, promptTokenIds: new Int32Array(10), sampling: {} as never, stop: {} as never, choices: 1, deadlineMs: 60_000, cacheSalt: '', priority: 0, routing: {}, traceparent: '', ...request };
    const run = new RequestRun(host, whole, { tokens: () => undefined, end: (end) => void ends.set(id, end) });
    run.start();
    return run;
  };
  const residue = () => ({ queued: admission?.size, load: router.table.records().map((w) => router.table.load(router.table.slotOf(w.instanceId) ?? -1)), timers: clock.pendingTimers });
  return { clock, metrics, plane, router, admission, host, ends, start, residue };
}

const IDLE = { requests: 0, prefillTokens: 0, blocks: 0 };
const lost = { code: 'PLANE_DISCONNECTED', message: 'gone', retryable: true };
const token = (finish: number = FinishCode.None): PlaneMessage => ({ type: 'tokens', count: 1, tokenIds: Int32Array.of(1), finish: Uint8Array.of(finish), topCount: 0 });
const end: PlaneMessage = { type: 'end', promptTokens: 10, cachedTokens: 0, outputTokens: 1, eventId: 0 };
const call = (t: { plane: FakePlane }, i: number): FakeCall => t.plane.calls[i];

describe('requests in front of busy workers', () => {
  it('that wait are told to the prefetcher, once each; others and refused ones are not', () => {
    const told: unknown[] = [];
    const prefetch = { waiting: (hashes: () => Int32Array, salt: string, role: string) => void told.push([hashes().length, salt, role]) } as never;
    const t = build(['both'], { maxRequests: 1 }, { prefetch });
    t.start('a');
    t.start('b');
    expect(told).toEqual([]);
    t.start('c', { cacheSalt: 'x' });
    t.start('d'); // no room in the queue
    expect(told).toEqual([[4, 'x', 'both']]);
  });

  it('wait, and go when a first token says that a prompt is computed', () => {
    const t = build(['both'], {});
    t.start('a');
    t.start('b'); // 10 of 15 tokens: not busy yet
    t.start('c');
    t.start('d');
    expect(t.plane.calls).toHaveLength(2);
    t.clock.advance(40);
    call(t, 0).reply(token());
    expect(t.plane.calls).toHaveLength(3); // 10 + 10 again: busy
    expect(t.host.records.get('c')).toMatchObject({ queue: { role: 'both', reason: 'busy', ahead: 0, workers: 1, busyByPrefillTokens: 1, waitMs: 40, outcome: 'admitted' }, decisions: [{ atMs: 40 }] });
    expect(t.host.records.get('d')).toMatchObject({ queue: { reason: 'backlog', ahead: 1, waitMs: undefined, outcome: 'waiting' } });
    expect(t.host.records.get('a')).not.toHaveProperty('queue');
    t.clock.advance(10);
    call(t, 1).reply(token(FinishCode.Stop));
    call(t, 1).reply(end);
    expect(t.plane.calls).toHaveLength(4);
    for (const one of t.plane.calls) {
      one.reply(token(FinishCode.Stop));
      one.reply(end);
    }
    expect([...t.ends.values()].map((of) => of.type)).toEqual(['finished', 'finished', 'finished', 'finished']);
    expect(t.residue()).toEqual({ queued: 0, load: [IDLE], timers: 0 });
    expect(t.metrics.values.get('armature_queue_exits_total{m,admitted}')).toBe(2);
    expect(t.metrics.total('armature_queue_exits_total')).toBe(2);
  });

  it('do not wait without a queue', () => {
    const t = build(['both'], undefined);
    for (let i = 0; i < 20; i++) t.start(`r${i}`);
    expect(t.plane.calls).toHaveLength(20);
    expect(t.host.records.get('r19')).not.toHaveProperty('queue');
    expect([...t.metrics.values.keys()].filter((name) => name.includes('queue'))).toEqual([]);
  });

  it('that are cancelled or too late leave nothing behind', () => {
    const t = build(['both'], {});
    t.start('a');
    t.start('b');
    const cancelled = t.start('cancelled');
    t.start('late', { deadlineMs: 100 });
    t.start('waits');
    cancelled.cancel();
    cancelled.cancel();
    expect(t.host.records.get('cancelled')).toMatchObject({ outcome: 'cancelled', queue: { outcome: 'left' } });
    t.clock.advance(120);
    expect(t.ends.get('late')).toMatchObject({ type: 'failed', error: { code: 'SERVING_DEADLINE_EXCEEDED' } });
    expect(t.host.records.get('late')).toMatchObject({ queue: { outcome: 'SERVING_DEADLINE_EXCEEDED' } });
    expect(t.admission?.size).toBe(1);
    call(t, 0).reply(token());
    expect(t.plane.calls).toHaveLength(3);
    expect(t.residue()).toMatchObject({ queued: 0, timers: 0 });
    expect(t.metrics.values.get('armature_queue_exits_total{m,left}')).toBe(1);
    expect(t.metrics.values.get('armature_queue_exits_total{m,deadline}')).toBe(1);
  });

  it('survive the loss of the worker, and requests that move pass by them', () => {
    const t = build(['both', 'both'], {});
    for (let i = 0; i < 5; i++) t.start(`r${i}`); // two each, and r4 waits
    expect(t.admission?.size).toBe(1);
    const onFirst = t.plane.to('fake:both/0');
    t.router.leave('both/0@1');
    for (const one of onFirst) one.finish(lost);
    expect(t.metrics.total('migrations')).toBe(2);
    expect(t.plane.to('fake:both/1')).toHaveLength(4);
    expect(t.admission?.size).toBe(1);
    for (const one of t.plane.to('fake:both/1')) one.reply(token());
    expect(t.admission?.size).toBe(0);
    expect(t.plane.to('fake:both/1')).toHaveLength(5);
  });

  it('go elsewhere when the server closes', () => {
    const t = build(['both'], {});
    for (let i = 0; i < 4; i++) t.start(`r${i}`);
    t.admission?.close();
    expect(t.ends.get('r3')).toMatchObject({ type: 'failed', error: { code: 'SERVING_QUEUE_DRAINING', retryable: true } });
    expect(t.ends.get('r0')).toBeUndefined(); // what runs goes on
    t.start('new');
    expect(t.ends.get('new')).toMatchObject({ error: { code: 'SERVING_QUEUE_DRAINING' } });
  });

  it('wait for the workers that compute their prompt', () => {
    const t = build(['prefill', 'decode'], {});
    for (let i = 0; i < 4; i++) t.start(`r${i}`);
    expect(t.plane.to('fake:prefill/0')).toHaveLength(2);
    expect(t.host.records.get('r2')).toMatchObject({ queue: { role: 'prefill' }, decisions: [] });
    call(t, 0).reply({ type: 'prefilled', lease: 7, blocks: Int32Array.of(1), tokens: 10, cachedTokens: 0 });
    call(t, 0).reply(token());
    expect(t.plane.to('fake:prefill/0')).toHaveLength(3);
    expect(t.host.records.get('r2')).toMatchObject({ queue: { outcome: 'admitted' }, decisions: [{ hop: 'decode' }, { hop: 'prefill' }] });
    const here = build(['prefill', 'decode'], {}, { policy: local });
    for (let i = 0; i < 4; i++) here.start(`r${i}`);
    expect(here.plane.to('fake:decode/1')).toHaveLength(2);
    expect(here.host.records.get('r2')).toMatchObject({ queue: { role: 'decode' } });
  });

  it('that wait for a pinned worker hear from the router that it has gone', () => {
    const t = build(['both', 'both'], {});
    const routing = { worker: 'both/0@1' };
    for (let i = 0; i < 3; i++) t.start(`r${i}`, { routing });
    expect(t.admission?.size).toBe(1);
    t.router.leave('both/0@1');
    t.admission?.capacityChanged();
    expect(t.ends.get('r2')).toMatchObject({ type: 'failed', error: { code: 'SERVING_WORKER_UNKNOWN' } });
  });

  it('give a light tenant its share by deficit round robin; first come, first served starves it', () => {
    const heavyBeforeLight = (order: QueueConfig['order']): number => {
      const t = build(['both'], { order, quantumTokens: 10 });
      for (let i = 0; i < 40; i++) t.start(`heavy${i}`, { cacheSalt: 'heavy' });
      for (let i = 0; i < 5; i++) t.start(`light${i}`, { cacheSalt: 'light' });
      for (let i = 0; i < t.plane.calls.length; i++) {
        call(t, i).reply(token(FinishCode.Stop));
        call(t, i).reply(end);
      }
      const finished = [...t.ends.keys()];
      expect(finished).toHaveLength(45);
      return finished.indexOf('light4') - 4;
    };
    expect(heavyBeforeLight('drr')).toBeLessThanOrEqual(8); // two were there before the queue, then in turns
    expect(heavyBeforeLight('fcfs')).toBe(40);
  });

  it('are charged what the workers do not hold, and asking makes no decision', () => {
    const policy: RouterPolicy = {
      ...leastTokens,
      score: (request, candidates, costs) => {
        leastTokens.score(request, candidates, costs);
        if (request.promptTokens === 12) candidates.overlapBlocks.fill(2, 0, candidates.count); // only these prompts are known
      },
    };
    const finishedOf = (cachedPrompts: boolean): number => {
      const t = build(['both'], { order: 'drr', quantumTokens: 12, prefillTokens: 0 }, {}, policy);
      t.start('first', { promptTokenIds: new Int32Array(11) });
      for (let i = 0; i < 20; i++) t.start(`a${i}`, { cacheSalt: 'a', promptTokenIds: new Int32Array(cachedPrompts ? 12 : 11) });
      for (let i = 0; i < 20; i++) t.start(`b${i}`, { cacheSalt: 'b', promptTokenIds: new Int32Array(11) });
      expect(t.metrics.total('armature_router_decisions_total')).toBe(1);
      for (let i = 0; t.ends.size < 21; i++) {
        call(t, i).reply(token(FinishCode.Stop));
        call(t, i).reply(end);
      }
      return [...t.ends.keys()].filter((id) => id.startsWith('a')).length;
    };
    expect(finishedOf(false)).toBe(10);
    expect(finishedOf(true)).toBeGreaterThan(13); // 4 of 12 tokens each
  });

  it('bind their session to the worker they are dispatched to, and unbind it when that fails', () => {
    const sessions = new SessionTable({ bonusBlocks: 8, ttlMs: 1_000, maxSessions: 10 });
    const t = build(['both', 'both'], undefined, { sessions });
    t.start('a', { session: 's', cacheSalt: 't' });
    const key = 'both\u0000s\u0000t';
    const first = call(t, 0).address;
    expect(`fake:${sessions.workerOf(key, 0)}`).toBe(`${first}@1`);
    call(t, 0).finish(lost);
    expect(`fake:${sessions.workerOf(key, 0)}`).toBe(`${call(t, 1).address}@1`); // it went with the request
    expect(call(t, 1).address).not.toBe(first);
  });
});
