import { FinishCode } from '@armature/contracts';
import type { InferenceEnd, InferenceRequest, KvEvent, PlaneMessage, RouterPolicy } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { Method } from '../messages.ts';
import { always, conditional } from '../policies/disaggregation.ts';
import { ModelRouter } from '../routing/model-router.ts';
import { RequestRecords } from '../routing/records.ts';
import { CountingMetrics, FakePlane, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import type { FakeCall } from '../test-support/fakes.ts';
import type { ExecutionHost } from './execution-host.ts';
import { HopTimes } from './hop-times.ts';
import { RequestRun } from './request-run.ts';
import { WaitingRoom } from './waiting-room.ts';

const flat: RouterPolicy = { name: 'flat', supports: { deterministic: true }, score: () => undefined };
const context = undefined as never;
const always_ = await always.create({ whenNoPrefillWorker: 'fail' }, context);

async function build(roles: readonly ('both' | 'prefill' | 'decode')[], more: Partial<ExecutionHost> = {}, clock = new ManualClock()) {
  const metrics = new CountingMetrics();
  const plane = new FakePlane();
  const router = new ModelRouter({ model: 'm', policy: flat, clock, random: testRandom(3), log: silentLog, metrics, snapshot: (_w, done) => done([]) });
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
    policy: always_,
    requests: plane,
    records: new RequestRecords(10),
    clock,
    log: silentLog,
    input: { promptTokens: 0, overlapTokens: 0, prefillWorkers: 0, leastPrefillTokens: 0, decodePrefillTokens: 0, localFirstTokenMs: NaN, remoteFirstTokenMs: NaN },
    metrics: {
      finished: counter('finished'),
      failed: counter('failed'),
      cancelled: counter('cancelled'),
      remotePrefills: counter('remote'),
      localPrefills: counter('local'),
      fallbacks: counter('fallbacks'),
      migrations: counter('migrations'),
      decodeReattached: counter('reattached'),
    },
    nextRunId: () => `run-${++runs}`,
    ...more,
  };
  const output = { tokens: [] as number[], ends: [] as InferenceEnd[] };
  const rows: { choices: number[] | undefined; tokens: number[]; logprobs: number[] | undefined }[] = [];
  const start = (request: Partial<InferenceRequest> = {}): RequestRun => {
    const run = new RequestRun(
      host,
      {
        id: 'req',
        promptTokenIds: Int32Array.from({ length: 10 }, (_, i) => i),
        sampling: {} as never,
        stop: {} as never,
        choices: 1,
        deadlineMs: 60_000,
        cacheSalt: '',
        priority: 0,
        routing: {},
        traceparent: '',
        ...request,
      },
      {
        tokens: (batch) => {
          const tokens = [...batch.tokenIds.subarray(0, batch.count)];
          output.tokens.push(...tokens);
          rows.push({ choices: batch.choices === undefined ? undefined : [...batch.choices.subarray(0, batch.count)], tokens, logprobs: batch.logprobs === undefined ? undefined : [...batch.logprobs.subarray(0, batch.count)] });
        },
        end: (end) => output.ends.push(end),
      },
    );
    run.start();
    return run;
  };
  const loads = () => router.table.records().map((w) => router.table.load(router.table.slotOf(w.instanceId) ?? -1).requests);
  return { clock, metrics, plane, router, host, output, rows, start, loads };
}

const tokens = (...ids: number[]): PlaneMessage => ({ type: 'tokens', count: ids.length, tokenIds: Int32Array.from(ids), finish: new Uint8Array(ids.length), topCount: 0 });
const last = (id: number, finish: number = FinishCode.Stop): PlaneMessage => ({ type: 'tokens', count: 1, tokenIds: Int32Array.of(id), finish: Uint8Array.of(finish), topCount: 0 });
const end = (more: object = {}): PlaneMessage => ({ type: 'end', promptTokens: 10, cachedTokens: 4, outputTokens: 2, eventId: 0, ...more });
const prefilled = (count: number): PlaneMessage => ({ type: 'prefilled', lease: 7, blocks: Int32Array.of(1, 2, 3), tokens: count, cachedTokens: 4 });
const lost = { code: 'PLANE_DISCONNECTED', message: 'gone', retryable: true };
const isLeg = (call: FakeCall): boolean => call.open.method === Method.Generate || call.open.method === Method.Decode;
const at = (calls: readonly FakeCall[], i: number): FakeCall => {
  const call = calls[i];
  if (call === undefined) throw new Error(`no call ${i}; there are ${calls.length}`);
  return call;
};

describe('aggregated requests', () => {
  it('stream tokens and end once, with usage and every charge taken back', async () => {
    const t = await build(['both', 'both']);
    t.start();
    const call = at(t.plane.calls, 0);
    expect(call.open.message['leg']).toBe('full');
    expect(call.open.message['sequenceHashes']).toHaveLength(4); // 2 complete blocks of 4
    call.reply(tokens(5));
    call.reply(last(6));
    call.reply(end());
    call.finish();
    expect(t.output.tokens).toEqual([5, 6]);
    expect(t.output.ends).toEqual([{ type: 'finished', usage: { promptTokens: 10, cachedTokens: 4, outputTokens: 2 } }]);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('show what their worker brought up from lower tiers', async () => {
    const t = await build(['both']);
    t.start();
    const record = { runs: [{ source: 'host', fromBlock: 0, blocks: 2, estimatedMs: 1, recomputeMs: 9, tookMs: 1.5, outcome: 'done' }], onboardedBlocks: 2, waitedMs: 1.5 };
    const call = at(t.plane.calls, 0);
    call.reply({ type: 'fetched', record });
    expect(t.host.records.get('req')?.kv).toEqual(record);
    call.reply(last(6));
    call.reply(end());
    expect(t.output.ends).toMatchObject([{ type: 'finished' }]);
  });

  it('fail with a code when there is no worker', async () => {
    const t = await build([]);
    t.start();
    expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_NO_WORKER' } }]);
  });

  it('go on elsewhere with what was generated when the worker is lost', async () => {
    const t = await build(['both', 'both']);
    t.start();
    const first = at(t.plane.calls, 0);
    first.reply(tokens(100, 101));
    first.finish(lost);
    const second = at(t.plane.calls, 1);
    expect(second.address).not.toBe(first.address);
    expect([...(second.open.message['tokenIds'] as Int32Array)].slice(10)).toEqual([100, 101]);
    expect(second.open.message['promptTokens']).toBe(10);
    second.reply(last(102));
    second.reply(end());
    expect(t.output.tokens).toEqual([100, 101, 102]);
    expect(t.output.ends).toMatchObject([{ type: 'finished', usage: { outputTokens: 3 } }]);
    expect(t.metrics.total('migrations')).toBe(1);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('never end as an empty success when the stream stops early', async () => {
    const t = await build(['both']);
    t.start();
    at(t.plane.calls, 0).finish();
    expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_NO_WORKER' } }]);
  });

  it('move several choices one by one, each with its own output', async () => {
    const t = await build(['both', 'both']);
    t.start({ choices: 3 });
    const call = at(t.plane.calls, 0);
    call.reply({ ...tokens(10, 11, 12), choices: Uint8Array.of(0, 1, 2) });
    call.reply({ ...last(20), choices: Uint8Array.of(1) });
    call.finish(lost);
    expect(t.plane.calls).toHaveLength(3); // the second choice had ended
    const [first, third] = [at(t.plane.calls, 1), at(t.plane.calls, 2)];
    for (const [leg, choice, output] of [[first, 0, [10]], [third, 2, [12]]] as const) {
      expect(leg.open.message).toMatchObject({ firstChoice: choice, choices: 1, leg: 'full', promptTokens: 10 });
      expect([...(leg.open.message['tokenIds'] as Int32Array)].slice(10)).toEqual(output);
    }
    expect(first.open.message['id']).not.toBe(third.open.message['id']);
    third.reply({ ...tokens(32), logprobs: Float32Array.of(-1) });
    expect(t.rows.at(-1)).toEqual({ choices: [2], tokens: [32], logprobs: [-1] });
    third.reply(last(33));
    third.reply(end());
    expect(t.output.ends).toEqual([]);
    first.reply(last(30));
    first.reply(end({ cachedTokens: 0 }));
    expect(t.output.ends).toEqual([{ type: 'finished', usage: { promptTokens: 10, cachedTokens: 0, outputTokens: 7 } }]);
    expect(t.host.records.get('req')?.moves).toMatchObject([{ choice: 0, atToken: 1, from: 'both/0@1', to: 'both/1@1', code: 'PLANE_DISCONNECTED' }, { choice: 2, atToken: 1 }]);
    expect(t.metrics.total('migrations')).toBe(1);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('move as a whole while nothing is out', async () => {
    const t = await build(['both', 'both']);
    t.start({ choices: 2 });
    at(t.plane.calls, 0).finish(lost);
    expect(at(t.plane.calls, 1).open.message).toMatchObject({ firstChoice: 0, choices: 2 });
  });

  it('keep on moving while workers drain or have gone, whatever the limit; a loss counts', async () => {
    const draining = { code: 'SERVING_WORKER_DRAINING', message: 'draining', retryable: true };
    const gone = { code: 'PLANE_UNREACHABLE', message: 'nothing is served there', retryable: true };
    for (const migrationLimit of [0, 1]) {
      const t = await build(['both', 'both', 'both', 'both', 'both'], { migrationLimit });
      t.start();
      for (let i = 0; i < 3; i++) at(t.plane.calls, i).finish(i === 1 ? gone : draining);
      for (let i = 0; i <= migrationLimit; i++) at(t.plane.calls, 3 + i).finish(lost);
      expect(t.plane.calls).toHaveLength(4 + migrationLimit);
      expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'PLANE_DISCONNECTED', retryable: true } }]);
      expect(t.loads()).toEqual([0, 0, 0, 0, 0]);
    }
  });

  it('leave a worker that says nothing, by what it is at, and say what that cost', async () => {
    const t = await build(['both', 'both', 'both'], { deadlines: { prefillMs: 0, transferMs: 0, firstTokenMs: 50, interTokenMs: 20 } });
    t.start();
    t.clock.advance(49);
    expect(t.plane.calls).toHaveLength(1);
    t.clock.advance(1);
    const second = at(t.plane.calls, 1);
    expect(at(t.plane.calls, 0).isClosed).toBe(true);
    second.reply(tokens(1));
    t.clock.advance(19);
    second.reply(tokens(2)); // in time: the wait begins anew
    t.clock.advance(19);
    expect(t.plane.calls).toHaveLength(2);
    t.clock.advance(1);
    const third = at(t.plane.calls, 2);
    t.clock.advance(5);
    third.reply(last(3));
    third.reply(end());
    expect(t.output.tokens).toEqual([1, 2, 3]);
    expect(t.host.records.get('req')?.moves).toMatchObject([
      { code: 'SERVING_STALLED', atToken: 0, addedMs: 50 },
      { code: 'SERVING_STALLED', atToken: 2, addedMs: 25 },
    ]);
    expect(t.clock.pendingTimers).toBe(0);
  });

  it('fail with the stall when they may not move', async () => {
    const t = await build(['both', 'both'], { migrationLimit: 0, deadlines: { prefillMs: 0, transferMs: 0, firstTokenMs: 50, interTokenMs: 0 } });
    t.start();
    t.clock.advance(50);
    expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_STALLED', message: expect.stringContaining('during first token') as string } }]);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('that lost their worker wait for another, as long as they are told, and no longer than they live', async () => {
    for (const how of ['joined', 'nobody', 'deadline', 'cancelled'] as const) {
      const clock = new ManualClock();
      const waitingRoom = new WaitingRoom(clock);
      const t = await build(['both'], { waitingRoom, failoverWaitMs: 500, clock }, clock);
      const run = t.start({ deadlineMs: how === 'deadline' ? 300 : 60_000 });
      at(t.plane.calls, 0).reply(tokens(1));
      at(t.plane.calls, 0).finish(lost);
      expect(waitingRoom.size).toBe(1);
      waitingRoom.wake(); // for nothing: what is left of the wait goes on
      clock.advance(200);
      if (how === 'nobody') waitingRoom.wake();
      if (how === 'joined') {
        t.router.join(workerRecord('both/9', 'both'));
        waitingRoom.wake();
        expect(at(t.plane.calls, 1).address).toBe('fake:both/9');
        run.cancel();
      }
      if (how === 'cancelled') run.cancel();
      clock.advance(100);
      if (how === 'deadline') expect(t.output.ends).toMatchObject([{ error: { code: 'SERVING_DEADLINE_EXCEEDED', message: expect.stringContaining('placement') as string } }]);
      clock.advance(199);
      if (how === 'nobody') expect(t.output.ends).toEqual([]);
      clock.advance(1);
      if (how === 'nobody') expect(t.output.ends).toMatchObject([{ error: { code: 'SERVING_NO_WORKER', retryable: true, message: expect.stringContaining('PLANE_DISCONNECTED') as string } }]);
      expect(t.output.ends).toHaveLength(1);
      expect([waitingRoom.size, clock.pendingTimers]).toEqual([0, 0]);
    }
  });

  it('cancel closes the worker stream and ends once', async () => {
    const t = await build(['both'], { deadlines: { prefillMs: 0, transferMs: 0, firstTokenMs: 50, interTokenMs: 50 } });
    const run = t.start();
    expect(t.clock.pendingTimers).toBe(1);
    run.cancel();
    run.cancel();
    at(t.plane.calls, 0).reply(tokens(1));
    expect(t.clock.pendingTimers).toBe(0);
    expect(at(t.plane.calls, 0).closedByCaller).toMatchObject({ code: 'SERVING_CANCELLED' });
    expect(t.output).toEqual({ tokens: [], ends: [{ type: 'cancelled' }] });
    expect(t.loads()).toEqual([0]);
  });

  it('stop: finished at once with usage, and the worker is told', async () => {
    const t = await build(['both']);
    const run = t.start();
    const call = at(t.plane.calls, 0);
    call.reply(tokens(5));
    expect(run.stop()).toEqual({ promptTokens: 10, cachedTokens: 0, outputTokens: 1 });
    expect(t.output.ends).toMatchObject([{ type: 'finished', usage: { outputTokens: 1 } }]);
    expect(call.closedByCaller).toMatchObject({ code: 'SERVING_CANCELLED' });
    expect(run.stop()).toEqual({ promptTokens: 10, cachedTokens: 0, outputTokens: 1 });
    expect(t.metrics.total('finished')).toBe(1);
    expect(t.loads()).toEqual([0]);
  });

  it('tell the client that the workers are overloaded, not that there are none', async () => {
    const t = await build(['both']);
    t.start();
    at(t.plane.calls, 0).finish({ code: 'ENGINE_OVERLOADED', message: 'full', retryable: true });
    expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'ENGINE_OVERLOADED' } }]);
  });

  it('hear nothing after the end', async () => {
    const t = await build(['both']);
    t.start();
    const call = at(t.plane.calls, 0);
    call.reply(last(1));
    call.reply(end());
    call.reply(tokens(2));
    expect(t.output).toMatchObject({ tokens: [1], ends: [{ type: 'finished' }] });
  });

  it('name the arrow when the deadline passes', async () => {
    const t = await build(['both']);
    t.start({ deadlineMs: 50 });
    at(t.plane.calls, 0).finish({ code: 'PLANE_DEADLINE_EXCEEDED', message: 'late' });
    expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_DEADLINE_EXCEEDED', message: expect.stringContaining('first token') as string } }]);
  });

  it('a malformed worker message fails the request, not the process', async () => {
    const t = await build(['both']);
    t.start();
    at(t.plane.calls, 0).reply({ type: 'tokens', tokenIds: [1, 2, 3] });
    expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_MESSAGE_INVALID' } }]);
  });
});

describe('disaggregated requests', () => {
  it('prefill on P, pull and decode on D, first token from P', async () => {
    const t = await build(['prefill', 'decode']);
    t.start();
    const p = at(t.plane.to('fake:prefill/0'), 0);
    expect(p.open.message['leg']).toBe('prefill');
    p.reply(prefilled(8));
    const d = at(t.plane.to('fake:decode/1'), 0);
    expect(d.open.method).toBe(Method.Decode);
    expect(d.open.message['source']).toMatchObject({ address: 'fake:prefill/0', layoutFingerprint: 'layout' });
    p.reply(prefilled(10));
    p.reply(tokens(50));
    expect(t.output.tokens).toEqual([50]);
    p.reply(end({ cachedTokens: 8 }));
    p.finish();
    expect(d.received.map((message) => message.type)).toEqual(['prefilled', 'prefilled', 'start']);
    expect(d.received[2]?.['firstTokens']).toEqual(Int32Array.of(50));
    d.reply({ type: 'transferred', matchedBlocks: 1, movedBlocks: 2, movedBytes: 64, durationMs: 1, outcome: 'valid' });
    d.reply(last(51));
    d.reply(end());
    expect(t.output.ends).toEqual([{ type: 'finished', usage: { promptTokens: 10, cachedTokens: 4, outputTokens: 2 } }]);
    expect(t.host.records.get('req')).toMatchObject({ transfer: { movedBlocks: 2, matchedBlocks: 1 }, disaggregation: { remote: true } });
    expect(t.metrics.total('remote')).toBe(1);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('a first token that ends the answer needs no decode leg', async () => {
    const t = await build(['prefill', 'decode']);
    t.start();
    const p = at(t.plane.to('fake:prefill/0'), 0);
    p.reply(prefilled(10));
    p.reply(last(2));
    p.reply(end());
    p.finish();
    const d = at(t.plane.to('fake:decode/1'), 0);
    expect(d.received.some((message) => message.type === 'start')).toBe(false);
    expect(d.closedByCaller).toMatchObject({ code: 'SERVING_CANCELLED' }); // D gives back reservation and lease
    expect(t.output.ends).toMatchObject([{ type: 'finished' }]);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('P lost before the first token: another P, from scratch', async () => {
    const t = await build(['prefill', 'prefill', 'decode']);
    t.start();
    const first = at(t.plane.calls, 0);
    first.reply(prefilled(4));
    const d = at(t.plane.to('fake:decode/2'), 0);
    first.finish(lost);
    expect(d.closedByCaller).toMatchObject({ code: 'SERVING_CANCELLED' });
    const second = at(t.plane.calls, 2);
    expect(second.open.message['leg']).toBe('prefill');
    expect(second.address).not.toBe(first.address);
    expect(t.loads().reduce((a, b) => a + b, 0)).toBe(1);
  });

  it('D lost in mid-answer: another D recomputes prompt and output', async () => {
    const t = await build(['prefill', 'decode', 'decode']);
    t.start();
    const p = at(t.plane.to('fake:prefill/0'), 0);
    p.reply(prefilled(10));
    p.reply(tokens(50));
    p.reply(end());
    p.finish();
    const d = at(t.plane.calls, 1);
    d.reply(tokens(51));
    d.finish(lost);
    const other = at(t.plane.calls, 2);
    expect(other.open.message['leg']).toBe('full');
    expect([...(other.open.message['tokenIds'] as Int32Array)].slice(10)).toEqual([50, 51]);
    other.reply(last(52));
    other.reply(end());
    expect(t.output.tokens).toEqual([50, 51, 52]);
    expect(t.output.ends).toHaveLength(1);
  });

  it('the only P lost: local or refused, as the policy says', async () => {
    for (const whenNoPrefillWorker of ['local', 'fail'] as const) {
      const t = await build(['prefill', 'decode'], { policy: await always.create({ whenNoPrefillWorker }, context) });
      t.start();
      at(t.plane.calls, 0).finish(lost);
      if (whenNoPrefillWorker === 'fail') {
        expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_NO_PREFILL_WORKER' } }]);
        continue;
      }
      const d = at(t.plane.to('fake:decode/1'), 0);
      expect(d.open.message['leg']).toBe('full');
      d.reply(last(1));
      d.reply(end());
      expect(t.output.ends).toMatchObject([{ type: 'finished' }]);
      expect(t.loads()).toEqual([0, 0]);
    }
  });

  it('D lost before it has the KV: another D reads what P holds, and P does not know', async () => {
    for (const hasEnded of [false, true]) {
      const t = await build(['prefill', 'decode', 'decode']);
      t.start();
      const p = at(t.plane.to('fake:prefill/0', Method.Generate), 0);
      p.reply(prefilled(4));
      const finishPrefill = (): void => {
        p.reply(prefilled(10));
        p.reply(tokens(50));
        p.reply(end());
        p.finish();
      };
      if (hasEnded) finishPrefill();
      const d = at(t.plane.calls, 1);
      d.finish(lost);
      const asked = at(t.plane.to('fake:prefill/0', Method.RenewLease), 0);
      expect(asked.open.message).toMatchObject({ lease: 7 });
      asked.reply({ type: 'lease', valid: true });
      asked.finish();
      const other = at(t.plane.calls, 3);
      expect(other.open.method).toBe(Method.Decode);
      expect(other.address).not.toBe(d.address);
      if (!hasEnded) finishPrefill();
      expect(other.received.map((message) => message.type)).toEqual(hasEnded ? ['prefilled', 'start'] : ['prefilled', 'prefilled', 'start']);
      expect(other.received.at(-1)?.['firstTokens']).toEqual(Int32Array.of(50));
      other.reply({ type: 'transferred', matchedBlocks: 0, movedBlocks: 3, movedBytes: 64, durationMs: 1, outcome: 'valid' });
      other.reply(last(51));
      other.reply(end());
      expect(t.output.tokens).toEqual([50, 51]);
      expect(t.plane.to('fake:prefill/0', Method.Generate)).toHaveLength(1);
      expect([t.metrics.total('reattached'), t.metrics.total('migrations'), t.metrics.total('remote')]).toEqual([1, 0, 1]);
      expect(t.host.records.get('req')?.moves).toMatchObject([{ kind: 'decode', from: 'decode/1@1', to: 'decode/2@1' }]);
      expect(t.loads()).toEqual([0, 0, 0]);
    }
  });

  it('D lost and P holds nothing any more, or does not answer: from scratch, without that D', async () => {
    for (const valid of [false, undefined]) {
      const t = await build(['prefill', 'decode', 'decode']);
      t.start();
      const p = at(t.plane.calls, 0);
      p.reply(prefilled(4));
      const d = at(t.plane.calls, 1);
      d.finish(lost);
      const asked = at(t.plane.to('fake:prefill/0', Method.RenewLease), 0);
      if (valid !== undefined) asked.reply({ type: 'lease', valid });
      asked.finish(valid === undefined ? { code: 'PLANE_DEADLINE_EXCEEDED', message: 'late' } : undefined);
      expect(p.closedByCaller).toMatchObject({ code: 'SERVING_CANCELLED' });
      const again = at(t.plane.to('fake:prefill/0', Method.Generate), 1);
      again.reply(prefilled(10));
      expect(t.plane.to(d.address)).toHaveLength(1);
      expect(t.output.ends).toHaveLength(0);
    }
  });

  it('P lost, or the request cancelled, while P is asked: nothing is opened for nobody', async () => {
    for (const how of ['P', 'cancel'] as const) {
      const t = await build(['prefill', 'decode', 'decode']);
      const run = t.start();
      const p = at(t.plane.calls, 0);
      p.reply(prefilled(4));
      at(t.plane.calls, 1).finish(lost);
      if (how === 'P') p.finish(lost);
      else run.cancel();
      const before = t.plane.calls.length;
      const asked = at(t.plane.to('fake:prefill/0', Method.RenewLease), 0);
      asked.reply({ type: 'lease', valid: true });
      asked.finish();
      expect(t.plane.calls).toHaveLength(before);
      if (how === 'cancel') expect(t.plane.to('fake:prefill/0', Method.ReleaseLease)).toHaveLength(1); // no D will
      expect(t.output.ends).toHaveLength(1);
      expect(t.loads()).toEqual([0, 0, 0]);
    }
  });

  it('D silent after prefill is left, and told that the lease is not its own any more', async () => {
    const t = await build(['prefill', 'decode', 'decode'], { deadlines: { prefillMs: 0, transferMs: 40, firstTokenMs: 0, interTokenMs: 0 } });
    t.start();
    const p = at(t.plane.calls, 0);
    p.reply(prefilled(10));
    t.clock.advance(1_000); // prefill may take its time
    p.reply(tokens(50));
    p.reply(end());
    p.finish();
    t.clock.advance(40);
    expect(at(t.plane.calls, 1).closedByCaller).toMatchObject({ code: 'SERVING_DECODE_MOVED' });
    expect(t.plane.to('fake:prefill/0', Method.RenewLease)).toHaveLength(1);
  });

  it('time the hops for the policies that predict them', async () => {
    const seen: number[][] = [];
    const watching = { ...always_, usesPredictions: true, isRemote: (input: { localFirstTokenMs: number; remoteFirstTokenMs: number }) => (seen.push([input.localFirstTokenMs, input.remoteFirstTokenMs]), seen.length % 2 === 0) };
    const hopTimes = new HopTimes();
    const t = await build(['prefill', 'decode'], { policy: watching, hopTimes });
    for (let i = 0; i < 24; i++) {
      t.start({ id: `r${i}` });
      if (i % 2 === 0) {
        const d = at(t.plane.to('fake:decode/1', Method.Generate), i / 2);
        t.clock.advance(30);
        d.reply(last(1));
        d.reply(end());
        continue;
      }
      const p = at(t.plane.to('fake:prefill/0', Method.Generate), (i - 1) / 2);
      p.reply(prefilled(10));
      t.clock.advance(20);
      p.reply(tokens(1));
      p.reply(end());
      p.finish();
      t.clock.advance(5);
      const d = at(t.plane.to('fake:decode/1', Method.Decode), (i - 1) / 2);
      d.reply({ type: 'transferred', matchedBlocks: 0, movedBlocks: 3, movedBytes: 64, durationMs: 1, outcome: 'valid' });
      d.reply(last(2));
      d.reply(end());
    }
    expect(seen[0]).toEqual([NaN, NaN]);
    expect(seen[23]).toEqual([30, 25]);
    expect(hopTimes.report()).toEqual({ local: 12, remote: 12, transfers: 12, meanRelativeError: expect.closeTo(0, 9) as number });
  });

  it('engines with their own lease get its parameters verbatim, after P has ended', async () => {
    const t = await build(['prefill', 'decode']);
    t.start();
    const p = at(t.plane.to('fake:prefill/0'), 0);
    const params = { do_remote_prefill: true, remote_block_ids: [[1, 2]] };
    p.reply({ ...prefilled(10), lease: 0, params });
    expect(t.plane.to('fake:decode/1')).toHaveLength(0);
    p.reply(end());
    const d = at(t.plane.to('fake:decode/1'), 0);
    expect(d.open.method).toBe(Method.Generate);
    expect(d.open.message['opaqueSource']).toEqual(params);
  });

  it('no prefill worker: refused or local, as the policy says, counted', async () => {
    const refusing = await build(['decode']);
    refusing.start();
    expect(refusing.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_NO_PREFILL_WORKER' } }]);
    const policy = await always.create({ whenNoPrefillWorker: 'local' }, context);
    const local = await build(['decode'], { policy });
    local.start();
    expect(at(local.plane.calls, 0).open.message['leg']).toBe('full');
    expect(local.metrics.total('fallbacks')).toBe(1);
    expect(local.host.records.get('req')?.disaggregation).toMatchObject({ remote: false, reason: 'no prefill worker is ready' });
  });

  it('conditional: short prompts stay local, long ones go', async () => {
    const policy = await conditional.create(
      { whenNoPrefillWorker: 'local', rule: 'isl-bounding', maxLocalTokens: 16, maxLocalShare: 1.01, prefillBusyTokens: 100, decodeBusyTokens: 1000 },
      context,
    );
    const t = await build(['prefill', 'decode'], { policy });
    t.start();
    expect(at(t.plane.calls, 0).open.message['leg']).toBe('full');
    t.start({ promptTokenIds: new Int32Array(40) });
    expect(at(t.plane.calls, 1).open.message['leg']).toBe('prefill');
  });
});

describe('any failure', () => {
  it('after the last token of every choice is no failure: nothing is generated twice', async () => {
    const t = await build(['both', 'both']);
    t.start();
    const call = at(t.plane.calls, 0);
    call.reply(tokens(1));
    call.reply(last(2));
    call.finish(lost);
    expect(t.plane.calls).toHaveLength(1);
    expect(t.output.tokens).toEqual([1, 2]);
    expect(t.output.ends).toMatchObject([{ type: 'finished', usage: { outputTokens: 2 } }]);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('of a policy ends the request, not its caller', async () => {
    const boom = (): never => {
      throw new Error('boom');
    };
    const t = await build(['prefill', 'decode'], { policy: { name: 'bad', creditsDecodeOverlap: true, whenNoPrefillWorker: 'fail', isRemote: boom } });
    t.start();
    expect(t.output.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_PLACEMENT_FAILED' } }]);
    expect(t.loads()).toEqual([0, 0]);
  });

  it('that moved a request: the new worker is relieved of its prefill charge at its first token', async () => {
    const t = await build(['both', 'both']);
    t.start();
    at(t.plane.calls, 0).reply(tokens(1));
    at(t.plane.calls, 0).finish(lost);
    at(t.plane.calls, 1).reply(tokens(2));
    expect([0, 1].map((slot) => t.router.table.load(slot).prefillTokens)).toEqual([0, 0]);
  });

  it('ends every request exactly once and takes every charge back (500 random histories, seed 11)', async () => {
    const random = testRandom(11);
    let migrated = 0;
    for (let history = 0; history < 500; history++) {
      const t = await build(['prefill', 'prefill', 'decode', 'decode']);
      const run = t.start({ choices: 1 + random.below(2) });
      for (let step = 0; step < 40 && t.output.ends.length === 0; step++) {
        const open = t.plane.calls.filter((call) => !call.isClosed && isLeg(call));
        const call = open[random.below(open.length)];
        if (call === undefined) break;
        const dice = random.below(12);
        if (dice === 0) call.finish(lost);
        else if (dice === 1) call.finish({ code: 'ENGINE_FAILED', message: 'x' });
        else if (dice === 2 && step > 5) run.cancel();
        else if (dice < 5) call.reply(prefilled(random.below(11)));
        else if (dice < 9) call.reply(tokens(random.below(100)));
        else if (dice < 11) call.reply(last(1));
        else {
          call.reply(end());
          call.finish(); // as workers do
        }
      }
      if (t.output.ends.length === 0) run.cancel();
      migrated += t.metrics.total('migrations');
      expect(t.output.ends).toHaveLength(1);
      expect(t.loads()).toEqual([0, 0, 0, 0]);
      expect(t.plane.calls.filter((call) => !call.isClosed && isLeg(call))).toHaveLength(0);
    }
    expect(migrated).toBeGreaterThan(20);
  });
});

export type { KvEvent };
