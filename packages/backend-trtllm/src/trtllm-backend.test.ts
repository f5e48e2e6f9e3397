import { describe, expect, it } from 'vitest';
import type { KvEvent, KvSource } from '@armature/contracts';
import { noSalt, sequenceHashes } from '@armature/tokens';
import { parseJson, stringifyJson } from './lossless-json.ts';
import type { SimulatedFault, SimulatedTrtllm } from './testing/index.ts';
import { base, BLOCK_SIZE, errorOf, logged, make, run, simulated, started, submit } from './testing.test.support.ts';

const poll = (read: () => unknown) => expect.poll(read, { timeout: 10_000 });
const firstTokens = (tokens: readonly number[][]): Int32Array => Int32Array.from(tokens, ([token = -1]) => token);

/** The decode leg's share of a handover. */
function source(params: Readonly<Record<string, unknown>> | undefined): KvSource {
  if (params === undefined) throw new Error('nothing was handed over');
  return { type: 'opaque', params: params as never };
}

describe('prefill and decode apart', () => {
  it('answers as one server does, over 50 prompts, and the state travels once', async () => {
    const [one, context, generation] = [await simulated(), await simulated({ unknownFields: true }), await simulated({ unknownFields: true })];
    const [whole, prefill, decode] = [await started(one), await started(context), await started(generation)];
    for (let i = 0; i < 50; i++) {
      const tokenIds = Int32Array.from({ length: 20 + 3 * i }, (_, at) => 1 + ((at * 7 + i) % 90));
      const request = { tokenIds, promptTokens: tokenIds.length, sampling: { ...base.sampling, seedLo: i } };
      const expected = await run(whole, request);
      const first = await run(prefill, { ...request, leg: 'prefill' });
      const [handover] = first.handovers;
      expect([first.ids, first.ends[0]?.type, handover?.tokens]).toEqual([expected.ids.slice(0, 1), 'finished', tokenIds.length]);
      const rest = await run(decode, { ...request, leg: 'decode', firstTokens: firstTokens(first.tokensOf), kvSource: source(handover?.params) });
      expect([errorOf(rest), ...first.ids, ...rest.ids]).toEqual([undefined, ...expected.ids]);
    }
    expect([context.counters.contextRequests, generation.counters.generationRequests, generation.counters.transfers, context.counters.heldContexts]).toEqual([50, 50, 50, 0]);
  });

  it('carries ids beyond 2^53 and fields that nobody knows, to the letter', async () => {
    const server = await simulated({ unknownFields: true });
    const first = await run(await started(server), { leg: 'prefill' });
    const json = (first.handovers[0]?.params?.['disaggregatedParams'] as string[] | undefined)?.[0] ?? '';
    const params = parseJson(json) as Record<string, unknown>;
    expect(params).toMatchObject({ request_type: 'generation_only', ctx_request_id: (1n << 61n) + 7n, a_field_of_tomorrow: { nested: [1, 2n ** 60n] } });
    expect(typeof params['disagg_request_id']).toBe('bigint');
    expect(stringifyJson(params)).toBe(json);
  });

  it('each of several choices has its own state; one that ended with its first token has none', async () => {
    const [context, generation] = [await simulated(), await simulated()];
    const [prefill, decode] = [await started(context), await started(generation)];
    const probe = await run(prefill, { leg: 'prefill', choices: 3 });
    const stopTokenIds = Int32Array.of(probe.tokensOf[1]?.[0] ?? -1);
    expect(new Set(probe.tokensOf.map(([token]) => token)).size).toBe(3);
    const request = { choices: 3, stop: { ...base.stop, stopTokenIds, maxTokens: 4 } };
    const first = await run(prefill, { ...request, leg: 'prefill' });
    const delivered = firstTokens(first.tokensOf);
    delivered[1] = -1;
    const rest = await run(decode, { ...request, leg: 'decode', firstTokens: delivered, kvSource: source(first.handovers[0]?.params) });
    expect(Array.from(rest.tokensOf, (tokens) => tokens?.length ?? 0)).toEqual([3, 0, 3]);
    expect(generation.counters.generationRequests).toBe(2);
  });

  it('is refused with a code: a server without a transceiver, no state, another engine, a state used twice, another first token', async () => {
    const [context, generation, alone] = [await simulated(), await simulated(), await simulated({ hasTransceiver: false })];
    const [prefill, decode] = [await started(context), await started(generation)];
    expect(errorOf(await run(await started(alone), { leg: 'prefill' }))).toMatchObject({ code: 'ENGINE_REQUEST_UNSUPPORTED', message: expect.stringContaining('cache_transceiver_config') });
    context.fault = 'no-handover';
    expect(errorOf(await run(prefill, { leg: 'prefill' }))?.code).toBe('TRTLLM_HANDOVER_INCOMPLETE');
    context.fault = 'none';
    expect(errorOf(await run(decode, { leg: 'decode', firstTokens: Int32Array.of(1), kvSource: source({ engine: 'vllm' }) }))?.code).toBe('TRTLLM_PARAMS_INVALID');
    const first = await run(prefill, { leg: 'prefill' });
    const leg = { leg: 'decode' as const, firstTokens: firstTokens(first.tokensOf), kvSource: source(first.handovers[0]?.params) };
    expect(errorOf(await run(decode, leg))).toBeUndefined();
    expect(errorOf(await run(decode, leg))).toMatchObject({ code: 'TRTLLM_REFUSED', retryable: true, message: expect.stringContaining('fetched already') });
    const again = await run(prefill, { leg: 'prefill' });
    const wrong = { ...leg, firstTokens: Int32Array.of((again.ids[0] ?? 0) + 1), kvSource: source(again.handovers[0]?.params) };
    expect(errorOf(await run(decode, wrong))?.code).toBe('TRTLLM_HANDOVER_MISMATCH');
  });
});

describe('KV events', () => {
  const hashesOf = (tokens: Int32Array): Int32Array => sequenceHashes(tokens, tokens.length, BLOCK_SIZE, noSalt);
  const held = (events: readonly KvEvent[]): number => {
    const blocks = new Set<string>();
    for (const event of events) {
      if (event.type === 'cleared') blocks.clear();
      else for (let i = 0; i < event.sequenceHashes.length; i += 2) {
        const key = `${event.sequenceHashes[i]},${event.sequenceHashes[i + 1]}`;
        if (event.type === 'stored') blocks.add(key);
        else blocks.delete(key);
      }
    }
    return blocks.size;
  };

  it.each(['integer', 'hex'] as const)('come under our hashes, from %s ones, before the request that caused them ends', async (hashForm) => {
    const events: KvEvent[] = [];
    const server = await simulated({ hashForm, unknownFields: true });
    const backend = await started(server, { events: (event) => void events.push(event), config: { eventsBeforeEndMs: 5_000 } });
    await run(backend);
    const stored = events.flatMap((event) => (event.type === 'stored' ? [...event.sequenceHashes] : []));
    expect(stored.slice(0, 4)).toEqual([...hashesOf(base.tokenIds)].slice(0, 4));
    expect(held(events)).toBe(2);
    expect(held(backend.snapshot())).toBe(2);
    expect((await run(backend)).ends).toMatchObject([{ type: 'finished', usage: { cachedTokens: 64 } }]);
  });

  it('evictions are told, in any order of prompts (sabotage: an event that is dropped shows)', async () => {
    const events: KvEvent[] = [];
    const server = await simulated({ totalBlocks: 8 });
    const backend = await started(server, { events: (event) => void events.push(event), config: { eventsBeforeEndMs: 5_000 } });
    for (let i = 0; i < 12; i++) await run(backend, { tokenIds: base.tokenIds.map((id) => ((id + i * 3) % 90) + 1) });
    const whole = (): number => held(backend.snapshot());
    expect([held(events), events.some(({ type }) => type === 'removed')]).toEqual([whole(), true]);
    expect(whole()).toBeLessThanOrEqual(8);
    expect(held(events.filter(({ type }) => type !== 'removed'))).toBeGreaterThan(whole());
  });

  it('a buffer that ran over drops what was known, and says so; so does an engine that began anew', async () => {
    const events: KvEvent[] = [];
    const server = await simulated({ eventBufferMaxSize: 2, totalBlocks: 8 });
    const backend = await started(server, { events: (event) => void events.push(event), config: { eventIntervalMs: 60_000, eventsBeforeEndMs: 0 } });
    for (let i = 0; i < 6; i++) await run(backend, { tokenIds: base.tokenIds.map((id) => ((id + i * 3) % 90) + 1) });
    expect(server.cache.droppedEvents).toBeGreaterThan(0);
    await backend.close();
    expect(logged).not.toContain('TRTLLM_EVENTS_LOST');

    const quick = await started(server, { events: (event) => void events.push(event), config: { eventsBeforeEndMs: 5_000 } });
    await run(quick);
    for (let i = 0; i < 4; i++) server.cache.store([...base.tokenIds].map((id) => id + i + 1), '', true); // by somebody else, more than the buffer holds
    await poll(() => logged).toContain('TRTLLM_EVENTS_LOST');
    events.length = 0;
    server.restart();
    await run(quick, { tokenIds: base.tokenIds.map((id) => id + 30) });
    await poll(() => logged.match(/begin anew/g)?.length).toBe(1);
    expect(held(quick.snapshot())).toBe(2);
  });

  it('that are off are told of, with what to do', async () => {
    const backend = await started(await simulated({ eventBufferMaxSize: 0 }), { events: () => undefined });
    for (let i = 0; i < 6; i++) await run(backend, { tokenIds: base.tokenIds.map((id) => ((id + i * 3) % 90) + 1) });
    await poll(() => logged).toMatch(/TRTLLM_EVENTS_SILENT.*event_buffer_max_size/);
  });
});

describe('faults', () => {
  const cases: [SimulatedFault, string][] = [
    ['http-500', 'TRTLLM_REFUSED'],
    ['error-in-stream', 'TRTLLM_FAILED'],
    ['truncated-stream', 'TRTLLM_UNREACHABLE'],
    ['slow-loris', 'TRTLLM_STREAM_STALLED'],
    ['wedged', 'TRTLLM_STREAM_STALLED'],
  ];
  it.each(cases)('%s: the request ends once, retryable, as %s, and nothing stays behind', async (fault, code) => {
    const server = await simulated();
    const backend = await started(server, { config: { idleTimeoutMs: 1500 } });
    server.fault = fault;
    const recorder = await run(backend);
    expect([errorOf(recorder)?.code, errorOf(recorder)?.retryable, recorder.ends.length]).toEqual([code, true, 1]);
    await poll(() => [server.counters.running, server.counters.usedBlocks]).toEqual([0, 0]);
    server.fault = 'none';
    expect(errorOf(await run(backend))).toBeUndefined();
  });

  it('cancel closes the connection: the server stops and its blocks come back', async () => {
    const server = await simulated({ stepMs: 20 });
    const backend = await started(server);
    const running = submit(backend, { stop: { ...base.stop, maxTokens: 500 } });
    await poll(() => running.ids.length).toBeGreaterThan(1);
    await poll(() => backend.load().usedBlocks).toBe(3);
    running.cancel();
    expect(await running.ended).toEqual({ type: 'cancelled' });
    await poll(() => [server.counters.running, server.counters.aborted, backend.load().usedBlocks]).toEqual([0, 1, 0]);
  });

  it('a wedged engine leaves although /health is well, and comes back with its first token', async () => {
    const server = await simulated();
    const backend = await started(server, { config: { canaryIntervalMs: 30, canaryTimeoutMs: 100 } });
    server.fault = 'wedged';
    await poll(() => backend.failure()?.code).toBe('TRTLLM_WEDGED');
    server.fault = 'none';
    await poll(() => backend.failure()).toBeUndefined();
  });

  it('one that is not healthy leaves after several looks, and what it held is learned anew', async () => {
    const server = await simulated();
    const backend = await started(server, { events: () => undefined, config: { eventsBeforeEndMs: 5_000 } });
    await run(backend);
    expect(backend.snapshot().length).toBeGreaterThan(0);
    server.fault = 'unhealthy';
    await poll(() => backend.failure()?.code).toBe('TRTLLM_UNREACHABLE');
    server.fault = 'none';
    await poll(() => backend.failure()).toBeUndefined();
    expect(backend.snapshot().filter(({ type }) => type === 'stored')).toEqual([]);
  });

  it('starts are refused with a reason: wrong model, unknown version, other blocks, nobody there', async () => {
    const server = await simulated();
    const codeOf = (promise: Promise<unknown>): Promise<unknown> => promise.then(() => 'started', (error: { code: string }) => error.code);
    const startOf = (on: SimulatedTrtllm, config = {}): Promise<unknown> => codeOf(make(on, { config }).start());
    expect(await startOf(server, { model: 'other' })).toBe('TRTLLM_MODEL_UNKNOWN');
    expect(await startOf(await simulated({ version: 'trunk' }))).toBe('TRTLLM_VERSION_UNKNOWN');
    expect(await startOf(await simulated({ version: 'trunk' }), { version: '1.1' })).toBe('started');
    expect(await startOf(await simulated({ blockSize: 64 }))).toBe('TRTLLM_BLOCK_SIZE_MISMATCH');
    expect(await startOf(server, { baseUrl: 'http://127.0.0.1:9', startTimeoutMs: 300 })).toBe('TRTLLM_UNREACHABLE');
  });

  it('what a server refuses is the client’s, not to be tried elsewhere; what it cannot say is refused here', async () => {
    const server = await simulated({ cacheSalt: false });
    const backend = await started(server, { config: { sendCacheSalt: true } });
    expect(errorOf(await run(backend, { cacheSalt: 'tenant' }))).toMatchObject({ code: 'ENGINE_REQUEST_UNSUPPORTED', message: expect.stringContaining('cache_salt') });
    const careful = await started(server, { config: { sendCacheSalt: false } });
    const before = server.counters.requests;
    expect(errorOf(await run(careful, { cacheSalt: 'tenant' }))?.code).toBe('ENGINE_CACHE_SALT_UNSUPPORTED');
    expect(server.counters.requests).toBe(before);
  });

  it('an end-of-sequence token that the server keeps to itself is delivered', async () => {
    const plain = await run(await started(await simulated()));
    const eos = plain.ids[4] ?? -1;
    expect(plain.ids.indexOf(eos)).toBe(4);
    const backend = await started(await simulated({ eosTokenId: eos }), { ends: { eosTokenIds: new Set([eos]) } });
    const ended = await run(backend);
    expect(ended.ids).toEqual(plain.ids.slice(0, 5));
    expect(ended.ends).toMatchObject([{ type: 'finished', usage: { outputTokens: 5 } }]);
  });

  it('one more request than may be in flight is refused at once, as overload', async () => {
    const server = await simulated({ stepMs: 20 });
    const backend = await started(server, { config: { maxInFlight: 1 } });
    const running = submit(backend);
    expect(errorOf(await run(backend))).toMatchObject({ code: 'ENGINE_OVERLOADED', retryable: true });
    expect((await running.ended).type).toBe('finished');
  });
});
