import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { afterAll, describe, expect, test } from 'vitest';
import { FinishCode } from '@armature/contracts';
import type { EngineRequest } from '@armature/contracts';
import { choice, chunk, done, usageChunk } from './fake-vllm.test.support.ts';
import vllmPlugins, { completionBody, Output } from './index.ts';
import { base, baseUrl, logged, make, Recorder, run, server, started, streaming } from './testing.test.support.ts';

const rejections: unknown[] = [];
const onRejection = (reason: unknown): void => void rejections.push(reason);
process.on('unhandledRejection', onRejection);
afterAll(() => {
  process.off('unhandledRejection', onRejection);
  expect(rejections).toEqual([]);
});

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const finishes = (sink: Recorder): number[] => sink.batches.flatMap(({ finish }) => [...finish]);

describe('the body', () => {
  const body = (changes: Partial<EngineRequest>, sendPriority = true): Record<string, unknown> => completionBody('demo', { ...base, ...changes }, sendPriority);

  test('neutral values', () => {
    expect(body({})).toEqual({
      model: 'demo', prompt: [1, 2, 3, 4, 5], stream: true, stream_options: { include_usage: true }, n: 1, max_tokens: 10, min_tokens: 0, ignore_eos: false,
      return_token_ids: true, return_tokens_as_token_ids: true, temperature: 0, top_p: 1, top_k: 0, min_p: 0, seed: 7, frequency_penalty: 0, presence_penalty: 0, repetition_penalty: 1,
    });
  });

  test('every field of sampling and stop', () => {
    const sampling = { temperature: 0.5, topP: 0.75, topK: 40, minP: 0.25, seedLo: -1, seedHi: -1, frequencyPenalty: -1, presencePenalty: 1.5, repetitionPenalty: 1.25, biasTokenIds: Int32Array.of(8, 9), biasValues: Float32Array.of(-100, 0.5), topLogprobs: 20 };
    const stop = { maxTokens: 9, minTokens: 12, stopTokenIds: Int32Array.of(2, 3), ignoreEos: true };
    expect(body({ sampling, stop, choices: 4, cacheSalt: 's', priority: -2 })).toEqual({
      model: 'demo', prompt: [1, 2, 3, 4, 5], stream: true, stream_options: { include_usage: true }, n: 4, max_tokens: 9, min_tokens: 9, ignore_eos: true, stop_token_ids: [2, 3],
      return_token_ids: true, return_tokens_as_token_ids: true, temperature: 0.5, top_p: 0.75, top_k: 40, min_p: 0.25, seed: Number.MAX_SAFE_INTEGER,
      frequency_penalty: -1, presence_penalty: 1.5, repetition_penalty: 1.25, logit_bias: { 8: -100, 9: 0.5 }, logprobs: 20, cache_salt: 's', priority: 2,
    });
  });

  test('output made elsewhere counts against the limits; a priority goes out only where it is understood', () => {
    expect(body({ tokenIds: Int32Array.of(1, 2, 3, 4, 5, 6, 7), stop: { ...base.stop, minTokens: 5 } })).toMatchObject({ max_tokens: 8, min_tokens: 3, prompt: [1, 2, 3, 4, 5, 6, 7] });
    expect(body({ stop: { ...base.stop, maxTokens: 1 }, tokenIds: Int32Array.of(1, 2, 3, 4, 5, 6) })).toMatchObject({ max_tokens: 1 });
    expect(body({ priority: 5 }, false)).not.toHaveProperty('priority');
    expect([body({ sampling: { ...base.sampling, topLogprobs: 0 } })['logprobs'], body({})['logprobs']]).toEqual([0, undefined]);
  });

  test('seeds differ while their lower 53 bits do', () => {
    const seed = (seedLo: number, seedHi: number): unknown => body({ sampling: { ...base.sampling, seedLo, seedHi } })['seed'];
    expect([seed(-1, 0), seed(0, 1), seed(0, 0x20_0000)]).toEqual([0xffff_ffff, 0x1_0000_0000, 0]);
  });

  test('a prefill leg ends by length, whatever the stop rules are: else vLLM returns no transfer parameters', () => {
    const prefill = body({ leg: 'prefill', choices: 3, stop: { maxTokens: 50, minTokens: 7, stopTokenIds: Int32Array.of(2), ignoreEos: false }, sampling: { ...base.sampling, topLogprobs: 3 } });
    expect(prefill).toMatchObject({ n: 1, max_tokens: 1, min_tokens: 1, ignore_eos: true, stream: false, kv_transfer_params: { do_remote_decode: true, do_remote_prefill: false } });
    for (const field of ['stop_token_ids', 'logprobs', 'stream_options']) expect(prefill).not.toHaveProperty(field);
  });
});

describe('finish codes', () => {
  const output = (changes: Partial<EngineRequest> = {}, maxModelTokens = 4096): Output => new Output({ ...base, ...changes }, maxModelTokens);
  const take = (of: Output, ...choices: object[]): number[] => [...(of.take({ choices })?.finish ?? [])];

  test('each reason flags the last token of its choice, nothing else', () => {
    const reasons = ['stop', 'length', 'content_filter', 'repetition', 'something new'];
    expect(reasons.map((reason) => take(output(), choice([1, 2], { finish_reason: reason })))).toEqual([FinishCode.Stop, FinishCode.Length, FinishCode.ContentFilter, FinishCode.Stop, FinishCode.Stop].map((code) => [0, code]));
  });

  test('a token that reaches a limit is flagged even if vLLM tells the reason later', () => {
    const byMaxTokens = output({ stop: { ...base.stop, maxTokens: 3 } });
    expect([take(byMaxTokens, choice([1, 2])), byMaxTokens.isComplete, take(byMaxTokens, choice([3])), byMaxTokens.isComplete]).toEqual([[0, 0], false, [FinishCode.Length], true]);
    expect(take(byMaxTokens, choice([], { finish_reason: 'length' }))).toEqual([]);
    const byContext = output({}, 7);
    expect([take(byContext, choice([1])), take(byContext, choice([2]))]).toEqual([[0], [FinishCode.Length]]);
    const continued = output({ tokenIds: Int32Array.of(1, 2, 3, 4, 5, 6, 7), stop: { ...base.stop, maxTokens: 3 } });
    expect(take(continued, choice([1]))).toEqual([FinishCode.Length]);
  });

  test('a reason that comes alone ends the choice; tokens after an end are not shown', () => {
    const two = output({ choices: 2 });
    expect([take(two, choice([1]), choice([5], { index: 1, finish_reason: 'stop' })), two.isComplete]).toEqual([[0, FinishCode.Stop], false]);
    expect([take(two, choice([], { finish_reason: 'stop' })), two.isComplete, two.tokens]).toEqual([[], true, 2]);
    expect([take(two, choice([9])), two.tokens]).toEqual([[], 2]);
  });

  test('a reason that comes alone ends the request as finished, without an invented token', async () => {
    server.answer = streaming(chunk([choice([10])]), chunk([choice([], { finish_reason: 'stop' })]), usageChunk, done);
    const sink = await run();
    expect([sink.ids, finishes(sink), sink.ends]).toEqual([[10], [0], [{ type: 'finished', usage: { promptTokens: 5, cachedTokens: 4, outputTokens: 3 } }]]);
  });

  test.each([
    ['a reason without any token', [chunk([choice([], { finish_reason: 'stop' })]), usageChunk, done], 'VLLM_FAILED', true],
    ['no reason at all', [chunk([choice([10])]), usageChunk, done], 'VLLM_STREAM_TRUNCATED', true],
    ['nothing but the end', [done], 'VLLM_STREAM_TRUNCATED', true],
    ['text without token ids', [chunk([{ index: 0, text: 'x', finish_reason: 'stop' }]), done], 'VLLM_STREAM_INVALID', undefined],
    ['a choice that was not asked for', [chunk([choice([1], { index: 1 })]), done], 'VLLM_STREAM_INVALID', true],
    ['null', ['data: null\n\n', done], 'VLLM_STREAM_INVALID', true],
    ['a number', ['data: 5\n\n', done], 'VLLM_STREAM_INVALID', true],
    ['choices that are none', ['data: {"choices":"x"}\n\n', done], 'VLLM_STREAM_INVALID', true],
    ['an error about the request', ['data: {"error":{"message":"bad","type":"BadRequestError","param":null,"code":400}}\n\n', done], 'ENGINE_REQUEST_UNSUPPORTED', undefined],
    ['an error in the old form', ['data: {"object":"error","message":"dead","code":500}\n\n', done], 'VLLM_FAILED', true],
  ])('%s is a failure, not an empty success', async (_what, parts, code, retryable) => {
    server.answer = streaming(...parts);
    const { ends } = await run();
    expect(ends).toMatchObject([{ type: 'failed', error: { code } }]);
    expect((ends[0] as { error: { retryable?: boolean } }).error.retryable).toBe(retryable);
  });

  test.each([
    ['breaks off', [chunk([choice([10], { finish_reason: 'stop' })])]],
    ['breaks off inside the usage', [chunk([choice([10], { finish_reason: 'stop' })]), usageChunk.slice(0, 30)]],
    ['turns to rubbish', [chunk([choice([10], { finish_reason: 'stop' })]), 'data: {"cho\n\n']],
  ])('a stream that %s after the last token has finished, with what was delivered as usage', async (_what, parts) => {
    server.answer = async (request, response) => {
      await streaming(...parts.slice(0, -1))(request, { writeHead: response.writeHead.bind(response), write: response.write.bind(response), end: () => undefined } as never);
      response.write(parts.at(-1));
      await sleep(5);
      response.destroy();
    };
    server.answer = parts.length === 1 ? streaming(...parts) : server.answer;
    const sink = await run();
    expect([sink.ids, finishes(sink), sink.ends]).toEqual([[10], [FinishCode.Stop], [{ type: 'finished', usage: { promptTokens: 5, cachedTokens: 0, outputTokens: 1 } }]]);
  });
});

test('choices interleave, each row says its own; logprobs keep their places', async () => {
  const logprobs = (...pairs: [number, number][]): object => ({ logprobs: { tokens: pairs.map(([id]) => `token_id:${id}`), token_logprobs: pairs.map(([, value]) => value), top_logprobs: pairs.map(([id, value]) => ({ [`token_id:${id}`]: value, 'token_id:1': -0.125, 'token_id:3': -9999 })) } });
  server.answer = streaming(
    chunk([choice([10, 11], { index: 2, ...logprobs([10, -1], [11, -2]) }), choice([20], { index: 0, ...logprobs([20, -3]), finish_reason: 'length' })]),
    chunk([choice([30], { index: 1, ...logprobs([30, -4]), finish_reason: 'stop' })]),
    chunk([choice([12], { index: 2, ...logprobs([12, -0.0625]), finish_reason: 'stop' })]), usageChunk, done,
  );
  const sink = await run({ choices: 3, sampling: { ...base.sampling, topLogprobs: 2 } });
  expect(sink.batches).toMatchObject([
    { count: 3, tokenIds: Int32Array.of(10, 11, 20), choices: Uint8Array.of(2, 2, 0), finish: Uint8Array.of(0, 0, FinishCode.Length), logprobs: Float32Array.of(-1, -2, -3), topTokenIds: Int32Array.of(1, 10, 1, 11, 1, 20) },
    { count: 1, choices: Uint8Array.of(1), topTokenIds: Int32Array.of(1, 30) },
    { count: 1, choices: Uint8Array.of(2), topTokenIds: Int32Array.of(12, 1), topLogprobs: Float32Array.of(-0.0625, -0.125) },
  ]);
  expect(sink.ends[0]?.type).toBe('finished');
});

describe('silence', () => {
  /** One token, then a byte of a comment now and then, for ever. */
  const trickle: typeof server.answer = async (_request, response) => {
    response.writeHead(200);
    response.write(chunk([choice([10])]));
    while (!response.destroyed) {
      response.write(':');
      await sleep(2);
    }
  };

  test('a stream that stalls, even if bytes trickle, is given up after idleTimeoutMs of the injected clock', async () => {
    const time = new ManualClock();
    const backend = await started({ idleTimeoutMs: 60_000 }, time);
    server.answer = trickle;
    const sink = new Recorder();
    backend.submit(base, sink);
    await expect.poll(() => sink.ids).toEqual([10]);
    await time.elapse(59_000);
    expect(sink.ends).toEqual([]);
    await time.elapse(1_000);
    expect(sink.ends).toMatchObject([{ type: 'failed', error: { code: 'VLLM_STREAM_STALLED', retryable: true } }]);
    await expect.poll(() => server.aborted).toBe(1);
    await backend.close();
    await expect.poll(() => time.pendingTimers).toBe(0);
  });

  test('events keep a stream alive; no answer at all, and a prefill, are watched too', async () => {
    const time = new ManualClock();
    const backend = await started({ idleTimeoutMs: 1000 }, time);
    let more = (): void => undefined;
    server.answer = (_request, response) => {
      response.writeHead(200);
      response.write(chunk([choice([1])]));
      more = () => void response.write(chunk([choice([2])]));
    };
    const sink = new Recorder();
    backend.submit(base, sink);
    for (let i = 1; i <= 4; i++) {
      await expect.poll(() => sink.ids.length).toBe(i);
      await time.elapse(900);
      more();
    }
    expect(sink.ends).toEqual([]);
    server.answer = () => undefined;
    const silent = [new Recorder(), new Recorder()];
    backend.submit(base, silent[0] as Recorder);
    backend.submit({ ...base, leg: 'prefill' }, silent[1] as Recorder);
    await expect.poll(() => server.requests.length).toBe(3);
    await time.elapse(1000);
    for (const { ends } of silent) expect(ends).toMatchObject([{ error: { code: 'VLLM_STREAM_STALLED' } }]);
  });

  test('probes and the start do not wait for ever either', async () => {
    server.trickling.add('/health');
    await expect(make({ startTimeoutMs: 80, probeTimeoutMs: 20 }).start()).rejects.toMatchObject({ code: 'VLLM_UNREACHABLE', message: expect.stringContaining('no answer within 20 ms') as string });
    server.trickling.clear();
    server.trickling.add('/metrics');
    await expect(make({ probeTimeoutMs: 20 }).start()).rejects.toMatchObject({ code: 'VLLM_UNREACHABLE', message: expect.stringContaining('/metrics') as string });
    server.trickling.clear();
    const backend = await started({ probeTimeoutMs: 20, probeIntervalMs: 10 });
    server.trickling.add('/health');
    await expect.poll(() => backend.failure()?.code).toBe('VLLM_UNREACHABLE');
    server.trickling.clear();
    await expect.poll(() => backend.failure()).toBeUndefined();
  });
});

describe('life', () => {
  const endless: typeof server.answer = async (_request, response) => {
    response.writeHead(200);
    for (let i = 0; !response.destroyed; i++) {
      response.write(chunk([choice([i])]));
      await sleep(2);
    }
  };

  test('close while it starts, while it probes, and with requests in flight, leaves nothing behind', async () => {
    server.isHealthy = false;
    const starting = make({ startTimeoutMs: 60_000 });
    const start = starting.start();
    await sleep(20);
    await starting.close();
    await expect(start).rejects.toMatchObject({ code: 'ENGINE_CLOSED' });
    server.isHealthy = true;
    const time = new ManualClock();
    const backend = await started({}, time);
    server.answer = endless;
    const sinks = Array.from({ length: 8 }, () => new Recorder());
    for (const sink of sinks) backend.submit({ ...base, stop: { ...base.stop, maxTokens: 1_000_000 } }, sink);
    await expect.poll(() => sinks.every(({ batches }) => batches.length > 0)).toBe(true);
    await backend.close();
    for (const { ends } of sinks) expect(ends).toEqual([{ type: 'failed', error: { code: 'ENGINE_CLOSED', message: 'the engine was closed', retryable: true } }]);
    await expect.poll(() => server.aborted).toBe(8);
    await expect.poll(() => time.pendingTimers).toBe(0);
    await sleep(20);
    expect(rejections).toEqual([]);
  });

  test('drain lets requests finish, refuses new ones, and ends at its deadline', async () => {
    const backend = await started();
    server.answer = streaming(chunk([choice([1])]), ...Array.from({ length: 20 }, () => ': ping\n\n'), chunk([choice([2], { finish_reason: 'stop' })]), done);
    const [running, late] = [new Recorder(), new Recorder()];
    backend.submit(base, running);
    const drained = backend.drain(60_000);
    backend.submit(base, late);
    expect(late.ends).toMatchObject([{ type: 'failed', error: { code: 'ENGINE_DRAINING', retryable: true } }]);
    await drained;
    expect(running.ends).toMatchObject([{ type: 'finished' }]);
    const other = await started();
    server.answer = endless;
    const stuck = new Recorder();
    other.submit({ ...base, stop: { ...base.stop, maxTokens: 1_000_000 } }, stuck);
    await other.drain(30);
    expect(stuck.ends).toEqual([]);
  });

  test('a sink that throws loses its own request only', async () => {
    const backend = await started();
    server.answer = endless;
    let ends = 0;
    backend.submit(base, {
      tokens() {
        throw new Error('tokens');
      },
      end() {
        ends++;
        throw new Error('end');
      },
    });
    await expect.poll(() => server.aborted).toBe(1);
    expect(ends).toBe(1);
    server.answer = streaming(chunk([choice([1], { finish_reason: 'stop' })]), done);
    const healthy = new Recorder();
    backend.submit(base, healthy);
    expect(await healthy.ended).toMatchObject({ type: 'finished', usage: { outputTokens: 1 } });
    expect(logged).toContain('the sink of a request threw');
  });

  test('what vLLM cannot serve is refused before it is asked', async () => {
    const backend = make();
    const codes: string[] = [];
    const submit = (changes: Partial<EngineRequest>): void => void backend.submit({ ...base, ...changes }, { tokens: () => undefined, end: (end) => void codes.push(end.type === 'failed' ? end.error.code : end.type) });
    submit({});
    await backend.start();
    submit({ tokenIds: new Int32Array(0), promptTokens: 0 });
    submit({ leg: 'decode', kvSource: { type: 'reservation', reservation: 1, readyTokens: 5 } });
    expect([codes, server.requests]).toEqual([['ENGINE_NOT_STARTED', 'ENGINE_PROMPT_EMPTY', 'ENGINE_KV_SOURCE_UNSUPPORTED'], []]);
  });

  test('the key is sent, asked for by name when missing, and never told', async () => {
    server.apiKey = 'sesame';
    await expect(make().start()).rejects.toMatchObject({ code: 'VLLM_REFUSED', hint: expect.stringContaining('apiKey') as string });
    const backend = await started({ apiKey: 'sesame' });
    server.answer = (_request, response) => void response.writeHead(500).end('<html>proxy says no</html>');
    const sink = new Recorder();
    backend.submit(base, sink);
    expect(await sink.ended).toMatchObject({ type: 'failed', error: { code: 'VLLM_REFUSED', message: 'vLLM answered 500: <html>proxy says no</html>', retryable: true } });
    server.isHealthy = false;
    await expect.poll(() => backend.failure()?.code).toBe('VLLM_UNREACHABLE');
    expect(JSON.stringify([logged, sink.ends, backend.failure(), backend])).not.toContain('sesame');
    const schema = vllmPlugins[0]?.configSchema as { properties: Record<string, Record<string, unknown>> };
    expect(schema.properties['apiKey']?.['x-secret']).toBe(true);
    for (const [name, field] of Object.entries(schema.properties)) expect([name, typeof field['description'], name === 'baseUrl' || 'default' in field]).toEqual([name, 'string', true]);
  });

  test.each([
    ['not JSON', '<html>'],
    ['no list', '{"data":5}'],
    ['no names', '{"data":[{}]}'],
  ])('a start at something else than vLLM has a code: %s', async (_what, answer) => {
    server.modelsBody = answer;
    await expect(make().start()).rejects.toMatchObject({ code: 'VLLM_ANSWER_INVALID', message: `${baseUrl}/v1/models is not a list of models` });
  });

  test('several engines behind one server: blocks add up, usage is the mean', async () => {
    server.metrics += '\nvllm:kv_cache_usage_perc{engine="1",model_name="demo"} 0.75\nvllm:cache_config_info{engine="1",block_size="32",num_gpu_blocks="200"} 1.0';
    expect((await started()).load()).toMatchObject({ totalBlocks: 400, usedBlocks: 200, freeBlocks: 200 });
  });

  test('a prefill answer that is no JSON, or was given up, fails; usage counts the prompt of the request', async () => {
    const answer = (text: string): void => void (server.answer = (_request, response) => void response.writeHead(200).end(text));
    answer('<html>');
    expect((await run({ leg: 'prefill' })).ends).toMatchObject([{ error: { code: 'VLLM_STREAM_INVALID' } }]);
    answer(JSON.stringify({ choices: [choice([1], { finish_reason: 'abort' })], kv_transfer_params: {} }));
    expect((await run({ leg: 'prefill' })).ends).toMatchObject([{ error: { code: 'VLLM_FAILED' } }]);
    server.answer = streaming(chunk([choice([1], { finish_reason: 'stop' })]), chunk([], { usage: { prompt_tokens: 7, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 7 } } }), done);
    const continued = await run({ tokenIds: Int32Array.of(1, 2, 3, 4, 5, 6, 7) });
    expect(continued.ends).toEqual([{ type: 'finished', usage: { promptTokens: 5, cachedTokens: 5, outputTokens: 1 } }]);
  });
});
