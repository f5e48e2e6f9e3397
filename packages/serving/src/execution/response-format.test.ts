import type { InferenceEnd, InferenceRequest, PlaneMessage, ResponseFormat, RouterPolicy } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { parseRequest, parseRequestFor, requestMessage } from '../messages.ts';
import { always } from '../policies/disaggregation.ts';
import { ModelRouter } from '../routing/model-router.ts';
import { RequestRecords } from '../routing/records.ts';
import { CountingMetrics, FakePlane, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import type { ExecutionHost } from './execution-host.ts';
import { RequestRun } from './request-run.ts';

const flat: RouterPolicy = { name: 'flat', supports: { deterministic: true }, score: () => undefined };
const schema: ResponseFormat = { type: 'json_schema', name: 'cat', schema: '{"type":"object","properties":{"name":{"type":"string"}}}' };
const sampling = { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 0, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, topLogprobs: -1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0) };
const base: InferenceRequest = { id: 'req', promptTokenIds: Int32Array.from({ length: 10 }, (_, i) => i), sampling, stop: { maxTokens: 8, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: false }, choices: 1, deadlineMs: 1_000, cacheSalt: '', priority: 0, routing: {}, traceparent: '' };
const lost = { code: 'PLANE_DISCONNECTED', message: 'lost', retryable: true };
const token = (id: number): PlaneMessage => ({ type: 'tokens', count: 1, tokenIds: Int32Array.of(id), finish: Uint8Array.of(0), topCount: 0 }) as unknown as PlaneMessage;

async function build(workers: readonly (readonly [role: 'both' | 'prefill' | 'decode', formats?: readonly ResponseFormat['type'][]])[]) {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const plane = new FakePlane();
  const router = new ModelRouter({ model: 'm', policy: flat, clock, random: testRandom(3), log: silentLog, metrics, snapshot: (_w, done) => done([]) });
  workers.forEach(([role, responseFormats], i) => router.join(workerRecord(`${role}/${i}`, role, responseFormats === undefined ? {} : { responseFormats })));
  const counter = metrics.counter({ name: 'any' }).with();
  const host = {
    model: 'm', blockSize: 4, leaseTtlMs: 1_000, migrationLimit: 3, deadlines: { prefillMs: 0, transferMs: 0, firstTokenMs: 0, interTokenMs: 0 }, failoverWaitMs: 0, router,
    policy: await always.create({ whenNoPrefillWorker: 'local' }, undefined as never), requests: plane, records: new RequestRecords(10), clock, log: silentLog,
    input: { promptTokens: 0, overlapTokens: 0, prefillWorkers: 0, leastPrefillTokens: 0, decodePrefillTokens: 0, localFirstTokenMs: NaN, remoteFirstTokenMs: NaN },
    metrics: { finished: counter, failed: counter, cancelled: counter, remotePrefills: counter, localPrefills: counter, fallbacks: counter, migrations: counter, decodeReattached: counter },
    nextRunId: () => 'run',
  } as unknown as ExecutionHost;
  const ends: InferenceEnd[] = [];
  const start = (responseFormat: ResponseFormat | undefined): void => new RequestRun(host, { ...base, ...(responseFormat === undefined ? {} : { responseFormat }) }, { tokens: () => undefined, end: (end) => void ends.push(end) }).start();
  return { plane, ends, start };
}

describe('guided decoding', () => {
  it('goes to workers whose engine can, and to nobody else; free text goes anywhere', async () => {
    const t = await build([['both'], ['both', ['json_object']], ['both', ['json_object', 'json_schema']]]);
    for (let i = 0; i < 4; i++) t.start(schema);
    expect(new Set(t.plane.calls.map(({ address }) => address)).size).toBe(1);
    expect(t.plane.calls.map(({ open }) => open.message['responseFormat'])).toEqual([schema, schema, schema, schema]);
    for (let i = 0; i < 6; i++) t.start(undefined);
    expect(t.plane.calls.slice(4).every(({ open }) => !('responseFormat' in open.message))).toBe(true);
    expect(new Set(t.plane.calls.map(({ address }) => address)).size).toBe(3);
  });

  it('nobody can: a code that says so, and what to do', async () => {
    const t = await build([['both'], ['both', ['json_object']]]);
    t.start(schema);
    expect(t.ends).toMatchObject([{ type: 'failed', error: { code: 'SERVING_NO_FORMAT_WORKER', retryable: true } }]);
  });

  it('a prefill worker need not know: its leg is not told', async () => {
    const t = await build([['prefill'], ['decode', ['json_schema']]]);
    t.start(schema);
    expect(t.plane.calls.map(({ open }) => [open.message['leg'], 'responseFormat' in open.message])).toContainEqual(['prefill', false]);
  });

  it('moves while nothing is delivered; a half-written answer is not continued by a grammar that begins anew', async () => {
    for (const [delivered, calls] of [[false, 2], [true, 1]] as const) {
      const t = await build([['both', ['json_schema']], ['both', ['json_schema']]]);
      t.start(schema);
      if (delivered) t.plane.calls[0]?.reply(token(5));
      t.plane.calls[0]?.finish(lost);
      expect(t.plane.calls.length).toBe(calls);
      expect(t.ends.length).toBe(delivered ? 1 : 0);
    }
  });

  it('on the wire: absent, whole, or refused; an engine that cannot refuses, so that the request moves on', () => {
    const fields = { ...base, leg: 'full' as const, tokenIds: base.promptTokenIds, promptTokens: 10, sequenceHashes: new Int32Array(4), firstChoice: 0, firstTokens: undefined, leaseTtlMs: 1 };
    expect(parseRequest(requestMessage(fields, {})).responseFormat).toBeUndefined();
    for (const format of [schema, { type: 'json_object' } as const]) {
      const message = requestMessage({ ...fields, responseFormat: format }, {});
      expect(parseRequest(message).responseFormat).toEqual(format);
      const engine = (responseFormats?: readonly string[]) => ({ info: {}, abilities: { responseFormats } }) as never;
      expect(parseRequestFor(engine([format.type]), message).responseFormat).toEqual(format);
      expect(() => parseRequestFor(engine(), message)).toThrow(expect.objectContaining({ code: 'SERVING_FORMAT_UNSUPPORTED', retryable: true }));
    }
    for (const bad of [7, { type: 'x' }, { type: 'json_schema' }, { type: 'json_schema', name: 'a', schema: {} }]) {
      expect(() => parseRequest({ ...requestMessage(fields, {}), responseFormat: bad as never })).toThrow(expect.objectContaining({ code: 'SERVING_MESSAGE_INVALID' }));
    }
  });
});
