import { describe, expect, test } from 'vitest';
import { FinishCode } from '@armature/contracts';
import { choice, chunk, done, FakeVllm, seeded, usageChunk } from './fake-vllm.test.support.ts';
import { parseMetrics, SseParser } from './index.ts';
import { base, make, Recorder, run, server, started, streaming } from './testing.test.support.ts';

describe('start', () => {
  test('reads model, length and cache size; load comes from /metrics', async () => {
    const backend = await started();
    expect(backend.info).toMatchObject({ modelFingerprint: 'vllm//models/demo', maxModelTokens: 4096, blockSize: 32, totalBlocks: 200 });
    expect(backend.load()).toEqual({ running: 3, waiting: 2, prefillTokens: 0, usedBlocks: 50, freeBlocks: 150, totalBlocks: 200, preemptions: 1 });
    expect(backend.abilities).toMatchObject({ firstToken: 'decode', kvEvents: false });
    server.metrics = server.metrics.replace('0.25', '0.5');
    await expect.poll(() => backend.load().usedBlocks).toBe(100);
  });

  test('fails with a code: unreachable, unhealthy, unknown model, other block size', async () => {
    const gone = new FakeVllm();
    const nobody = await gone.listen();
    await gone.close();
    await expect(make({ baseUrl: nobody, startTimeoutMs: 300 }).start()).rejects.toMatchObject({ code: 'VLLM_UNREACHABLE', message: expect.stringContaining('ECONNREFUSED') as string });
    server.isHealthy = false;
    await expect(make({ startTimeoutMs: 50 }).start()).rejects.toMatchObject({ code: 'VLLM_UNREACHABLE' });
    server.isHealthy = true;
    await expect(make({ model: 'other' }).start()).rejects.toMatchObject({ code: 'VLLM_MODEL_UNKNOWN', hint: 'it serves: demo' });
    server.metrics = server.metrics.replace('block_size="32"', 'block_size="16"');
    await expect(make().start()).rejects.toMatchObject({ code: 'VLLM_BLOCK_SIZE_MISMATCH' });
  });

  test('waits for a server that is still loading; health is followed afterwards', async () => {
    server.isHealthy = false;
    setTimeout(() => (server.isHealthy = true), 30);
    const backend = await started({ startTimeoutMs: 5000 });
    expect(backend.failure()).toBeUndefined();
    server.isHealthy = false;
    await expect.poll(() => backend.failure()?.code).toBe('VLLM_UNREACHABLE');
    server.isHealthy = true;
    await expect.poll(() => backend.failure()).toBeUndefined();
  });
});

describe('a request', () => {
  test('goes out as token ids with every sampling field, and comes back as columns', async () => {
    server.answer = streaming(chunk([choice([10])]), chunk([choice([11, 12], { finish_reason: 'length' })]), usageChunk, done);
    const sink = await run({
      tokenIds: Int32Array.of(1, 2, 3, 4, 5, 9),
      cacheSalt: 'tenant',
      priority: 3,
      sampling: { ...base.sampling, temperature: 0.5, biasTokenIds: Int32Array.of(8), biasValues: Float32Array.of(-1) },
      stop: { maxTokens: 10, minTokens: 4, stopTokenIds: Int32Array.of(2), ignoreEos: true },
      kvSource: { type: 'opaque', params: { do_remote_prefill: true, remote_block_ids: [[1, 2]] } },
    }, { apiKey: 'sesame', sendPriority: true });
    expect(sink.ids).toEqual([10, 11, 12]);
    expect(sink.batches.at(-1)).toMatchObject({ count: 2, finish: Uint8Array.of(FinishCode.None, FinishCode.Length), choices: undefined, logprobs: undefined });
    expect(sink.ends).toEqual([{ type: 'finished', usage: { promptTokens: 5, cachedTokens: 4, outputTokens: 3 } }]);
    const [{ body, headers }] = server.requests as [(typeof server.requests)[0]];
    expect(headers).toMatchObject({ authorization: 'Bearer sesame', 'x-request-id': 'req-1' });
    expect(body).toMatchObject({
      model: 'demo', prompt: [1, 2, 3, 4, 5, 9], stream: true, return_token_ids: true, max_tokens: 9, min_tokens: 3, temperature: 0.5, seed: 7, stop_token_ids: [2], ignore_eos: true,
      logit_bias: { 8: -1 }, cache_salt: 'tenant', priority: -3, kv_transfer_params: { do_remote_prefill: true, remote_block_ids: [[1, 2]] },
    });
    expect(body).not.toHaveProperty('logprobs');
  });

  test('choices and logprobs', async () => {
    const logprobs = { tokens: ['token_id:10'], token_logprobs: [-0.5], top_logprobs: [{ 'token_id:10': -0.5, 'token_id:7': -1.5 }], text_offset: [0] };
    server.answer = streaming(chunk([choice([10], { index: 1, logprobs, finish_reason: 'length' })]), chunk([choice([20], { logprobs: { ...logprobs, token_logprobs: [-0.25] }, finish_reason: 'stop' })]), usageChunk, done);
    const sink = await run({ choices: 2, sampling: { ...base.sampling, topLogprobs: 3 } });
    expect(sink.batches[0]).toMatchObject({ choices: Uint8Array.of(1), topCount: 3, logprobs: Float32Array.of(-0.5), topTokenIds: Int32Array.of(10, 7, -1) });
    expect(sink.batches[1]).toMatchObject({ choices: Uint8Array.of(0), finish: Uint8Array.of(FinishCode.Stop), logprobs: Float32Array.of(-0.25) });
    expect(server.requests[0]?.body).toMatchObject({ n: 2, logprobs: 3 });
  });

  test('a stream cut at any byte position, or into single bytes, gives the same tokens', async () => {
    const text = `: ping\r\n\r\nevent: message\r\n${chunk([choice([10], { text: '🦙ü' })])}${chunk([choice([11], { finish_reason: 'stop' })])}${usageChunk}${done}`.replaceAll('\n\n', '\r\n\r\n');
    const stream = Buffer.from(text);
    const backend = await started();
    const expectWhole = async (parts: Buffer[], where: string): Promise<void> => {
      server.answer = streaming(...parts);
      const sink = new Recorder();
      backend.submit(base, sink);
      expect([await sink.ended, sink.ids, sink.batches.flatMap(({ finish }) => Array.from(finish))], where).toEqual([
        { type: 'finished', usage: { promptTokens: 5, cachedTokens: 4, outputTokens: 3 } }, [10, 11], [FinishCode.None, FinishCode.Stop],
      ]);
    };
    for (let cut = 1; cut < stream.length; cut++) await expectWhole([stream.subarray(0, cut), stream.subarray(cut)], `cut ${cut}`);
    await expectWhole(Array.from(stream, (byte) => Buffer.of(byte)), 'single bytes');
    await expectWhole([stream], 'whole');
    // Each answer was read to its end, so few connections (of requests and probes) serve them all.
    expect(server.requests.length).toBeGreaterThan(600);
    expect(server.connections).toBeLessThan(30);
  });

  test('a prefill leg hands the transfer parameters over verbatim and shows no token', async () => {
    const params = { do_remote_prefill: true, remote_block_ids: [[1, 2, 3]], remote_engine_id: 'P0', remote_port: 5600, unknown: { kept: null } };
    server.answer = (_request, response) => void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ choices: [choice([10], { finish_reason: 'length' })], usage: { prompt_tokens: 5, completion_tokens: 1 }, kv_transfer_params: params }));
    const sink = await run({ leg: 'prefill' });
    expect(sink.handovers).toEqual([{ lease: 0, blocks: new Int32Array(0), tokens: 5, cachedTokens: 0, params }]);
    expect([sink.ids, sink.ends]).toEqual([[], [{ type: 'finished', usage: { promptTokens: 5, cachedTokens: 0, outputTokens: 0 } }]]);
    expect(server.requests[0]?.body).toMatchObject({ stream: false, max_tokens: 1, min_tokens: 1, ignore_eos: true, kv_transfer_params: { do_remote_decode: true, do_remote_prefill: false } });
    server.answer = (_request, response) => void response.writeHead(200).end(JSON.stringify({ choices: [choice([10])] }));
    expect((await run({ leg: 'prefill' })).ends).toMatchObject([{ type: 'failed', error: { code: 'VLLM_NO_TRANSFER' } }]);
  });
});

describe('failure', () => {
  test.each([
    ['an error event', [chunk([choice([10])]), 'data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}\n\n', done], 'VLLM_FAILED'],
    ['a choice that was given up', [chunk([choice([10])]), chunk([choice([], { finish_reason: 'abort' })]), done], 'VLLM_FAILED'],
    ['a stream without [DONE]', [chunk([choice([10])]), usageChunk], 'VLLM_STREAM_TRUNCATED'],
    ['a torn event', [chunk([choice([10])]), 'data: {"cho\n\n', done], 'VLLM_STREAM_INVALID'],
  ])('%s is a retryable failure after the tokens so far', async (_what, parts, code) => {
    server.answer = streaming(...parts);
    const sink = await run();
    expect(sink.ids).toEqual([10]);
    expect(sink.ends).toMatchObject([{ type: 'failed', error: { code, retryable: true } }]);
  });

  test('a server that dies in the stream is a retryable failure', async () => {
    server.answer = async (_request, response) => {
      response.writeHead(200);
      response.write(chunk([choice([10])]));
      await new Promise((resolve) => setTimeout(resolve, 10));
      response.destroy();
    };
    expect((await run()).ends).toMatchObject([{ type: 'failed', error: { code: 'VLLM_UNREACHABLE', retryable: true } }]);
  });

  test.each([
    ['its KV does not come: the prompt is computed, once', { kvSource: { type: 'opaque', params: { do_remote_prefill: true } } }, [], 1, [true, false], 'finished'],
    ['nor does that help', { kvSource: { type: 'opaque', params: { do_remote_prefill: true } } }, [], 2, [true, false], 'VLLM_FAILED'],
    ['a token is out', { kvSource: { type: 'opaque', params: { do_remote_prefill: true } } }, [chunk([choice([10])])], 1, [true], 'VLLM_FAILED'],
    ['it was to get none', {}, [], 1, [false], 'VLLM_FAILED'],
  ] as const)('a decode leg that vLLM gives up: %s', async (_what, request, before, failures, withKv, outcome) => {
    const whole = streaming(chunk([choice([10, 11], { finish_reason: 'stop' })]), usageChunk, done);
    const failing = streaming(...before, 'data: {"error":{"message":"Internal server error","type":"InternalServerError","code":500}}\n\n', done);
    server.answer = (received, response) => (server.requests.length <= failures ? failing : whole)(received, response);
    const { ends, ids } = await run({ leg: 'full', ...request });
    expect(server.requests.map(({ body }) => 'kv_transfer_params' in body)).toEqual(withKv);
    expect(ends.map((end) => (end.type === 'failed' ? end.error.code : end.type))).toEqual([outcome]);
    expect(ids).toEqual(outcome === 'finished' ? [10, 11] : before.length > 0 ? [10] : []);
  });

  test('refusals carry the reason; only 5xx and 429 are retryable', async () => {
    for (const [status, retryable] of [[400, undefined], [429, true], [503, true]] as const) {
      server.answer = (_request, response) => void response.writeHead(status).end(JSON.stringify({ error: { message: 'prompt too long' } }));
      const { ends } = await run();
      expect(ends).toMatchObject([{ type: 'failed', error: { code: 'VLLM_REFUSED', message: expect.stringContaining('prompt too long') as string } }]);
      expect((ends[0] as { error: { retryable?: boolean } }).error.retryable).toBe(retryable);
    }
  });

  test('cancel closes the connection, once; nothing comes afterwards', async () => {
    server.answer = async (_request, response) => {
      response.writeHead(200);
      for (let i = 0; i < 1000 && !response.destroyed; i++) {
        response.write(chunk([choice([i])]));
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    };
    const backend = await started();
    const sink = new Recorder();
    const handle = backend.submit(base, sink);
    await expect.poll(() => sink.batches.length).toBeGreaterThan(2);
    backend.cancel(handle);
    backend.cancel(handle);
    const seen = sink.batches.length;
    await expect.poll(() => server.aborted).toBe(1);
    expect([sink.ends, sink.batches.length]).toEqual([[{ type: 'cancelled' }], seen]);
    const early = new Recorder();
    backend.cancel(backend.submit(base, early));
    expect(early.ends).toEqual([{ type: 'cancelled' }]);
  });

  test('cancel inside the sink, and close, end each request once', async () => {
    server.answer = streaming(chunk([choice([1])]), chunk([choice([2])]), ...Array.from({ length: 200 }, () => ': ping\n\n'), done);
    const backend = await started();
    const inside = new Recorder();
    const handle = backend.submit(base, inside);
    inside.onTokens = () => backend.cancel(handle);
    expect(await inside.ended).toEqual({ type: 'cancelled' });
    const other = new Recorder();
    backend.submit(base, other);
    await expect.poll(() => other.batches.length).toBe(2);
    await backend.close();
    await backend.close();
    const late = new Recorder();
    backend.submit(base, late);
    expect([inside.ids, other.ends, late.ends]).toMatchObject([[1], [{ type: 'failed', error: { code: 'ENGINE_CLOSED' } }], [{ type: 'failed', error: { code: 'ENGINE_CLOSED' } }]]);
  });
});

describe('parsers', () => {
  test('server-sent events, cut at every place', () => {
    const text = Buffer.from('data: a\ndata:b\n\n: no\rid: 1\rdata: ü🦙\r\r\ndata: c\r\n\r\nevent: x\n\ndata: open');
    for (let cut = 0; cut <= text.length; cut++) {
      const got: string[] = [];
      const parser = new SseParser((data) => got.push(data));
      parser.push(text.subarray(0, cut));
      parser.push(text.subarray(cut));
      expect(got, `cut ${cut}`).toEqual(['a\nb', 'ü🦙', 'c']);
    }
  });

  test('server-sent events with mixed line ends, cut into many random pieces', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const below = seeded(seed);
      const end = (): string => ['\n', '\r\n', '\r'][below(3)] as string;
      const wanted: string[] = [];
      let text = '';
      for (let event = 0; event < 5; event++) {
        const data = Array.from({ length: 1 + below(2) }, () => ['{"a":1}', '', 'ü🦙', 'x'.repeat(below(9))][below(4)] as string);
        wanted.push(data.join('\n'));
        const kind = end();
        const blank = end();
        // A bare CR and then LF would be one line end.
        text += (below(3) === 0 ? `: ping${kind}` : '') + data.map((line) => `data: ${line}${kind}`).join('') + (kind === '\r' ? '\r\n' : blank);
      }
      const bytes = Buffer.from(text);
      const got: string[] = [];
      const parser = new SseParser((data) => got.push(data));
      for (let at = 0; at < bytes.length; ) {
        const size = 1 + below(4);
        parser.push(bytes.subarray(at, at + size));
        at += size;
      }
      expect(got, `seed ${seed}: ${JSON.stringify(text)}`).toEqual(wanted);
    }
  });

  test('an event without end is refused', () => {
    const parser = new SseParser(() => undefined);
    const line = Buffer.from(`data: ${'x'.repeat(1 << 20)}\n`);
    expect(() => {
      for (let i = 0; i < 20; i++) parser.push(line);
    }).toThrow(expect.objectContaining({ code: 'VLLM_STREAM_INVALID' }) as Error);
  });

  test('Prometheus text: rubbish is skipped, label sets are added up, "None" is no number', () => {
    const one = parseMetrics('# HELP a b\na{x="1"} 1\na{x="2"} 2.5\nnonsense\nb NaN\n\nvllm:cache_config_info{block_size="32",num_gpu_blocks="7",s="a b"} 1.0\n');
    expect([one.sum('a'), one.mean('a'), one.sum('b'), one.sum('c'), one.blockSize, one.totalBlocks]).toEqual([3.5, 1.75, undefined, undefined, 32, 7]);
    const none = parseMetrics('vllm:cache_config_info{block_size="None",num_gpu_blocks="None"} 1.0\nvllm:cache_config_info{engine="1",block_size="16",num_gpu_blocks="5"} 1.0');
    expect([none.blockSize, none.totalBlocks]).toEqual([16, 5]);
  });
});
