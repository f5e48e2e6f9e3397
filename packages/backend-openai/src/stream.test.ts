import { afterEach, describe, expect, it } from 'vitest';
import type { EngineRequest } from '@armature/contracts';
import { FinishCode } from '@armature/contracts';
import { choice, done, END_OF_SEQUENCE, event, likeArmature, likeVllm, plain, usage } from './fake-openai.test.support.ts';
import { base, Bench, Recorder, seeded, streaming, until } from './testing.test.support.ts';

const bench = new Bench();
const { server } = bench;
afterEach(() => bench.reset(likeVllm));

const sampling = (changes: Partial<EngineRequest['sampling']>): Partial<EngineRequest> => ({ sampling: { ...base.sampling, ...changes } });
const stop = (changes: Partial<EngineRequest['stop']>): Partial<EngineRequest> => ({ stop: { ...base.stop, ...changes } });

describe('what is sent', () => {
  it('OpenAI’s own fields and no others, to a server that is not known', async () => {
    server.flavor = plain;
    await bench.run({ tokenIds: Int32Array.of(72, 105), promptTokens: 2 });
    expect(server.requests[0]?.body).toEqual({ model: 'demo', prompt: 'Hi', stream: true, stream_options: { include_usage: true }, max_tokens: 10, temperature: 0, top_p: 1, seed: 7 });
    expect(server.requests[0]?.headers).toMatchObject({ 'content-type': 'application/json', 'x-request-id': 'req-1' });
  });

  it('everything that is asked for, to one that has it', async () => {
    const bias = { biasTokenIds: Int32Array.of(65), biasValues: Float32Array.of(1.5) };
    await bench.run({
      ...sampling({ temperature: 0.5, topP: 0.9, topK: 5, minP: 0.25, seedLo: -1, seedHi: 1, frequencyPenalty: 0.5, presencePenalty: -0.5, repetitionPenalty: 1.25, topLogprobs: 2, ...bias }),
      ...stop({ maxTokens: 6, minTokens: 3, stopTokenIds: Int32Array.of(7), ignoreEos: true }),
      cacheSalt: 'tenant',
      choices: 2,
    });
    expect(server.requests[0]?.body).toEqual({
      model: 'demo',
      prompt: [1, 2, 3, 4, 5],
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 6,
      temperature: 0.5,
      top_p: 0.9,
      seed: 0x1_ffff_ffff,
      n: 2,
      frequency_penalty: 0.5,
      presence_penalty: -0.5,
      logit_bias: { 65: 1.5 },
      logprobs: 2,
      return_token_ids: true,
      return_tokens_as_token_ids: true,
      top_k: 5,
      min_p: 0.25,
      repetition_penalty: 1.25,
      stop_token_ids: [7],
      ignore_eos: true,
      min_tokens: 3,
      cache_salt: 'tenant',
    });
  });

  it('output made elsewhere counts against the limits', async () => {
    await bench.run({ tokenIds: Int32Array.of(1, 2, 3, 4, 5, 6, 7), ...stop({ maxTokens: 10, minTokens: 4 }) });
    expect(server.requests[0]?.body).toMatchObject({ prompt: [1, 2, 3, 4, 5, 6, 7], max_tokens: 8, min_tokens: 2 });
  });

  it('the key, the organisation and other headers; the key is nowhere in the log', async () => {
    server.flavor = { ...likeVllm, apiKey: 'sk-secret' };
    await bench.run({}, { apiKey: 'sk-secret', organization: 'org', project: 'proj', headers: { 'x-team': 'blue' } });
    expect(server.requests[0]?.headers).toMatchObject({ authorization: 'Bearer sk-secret', 'openai-organization': 'org', 'openai-project': 'proj', 'x-team': 'blue' });
    expect(bench.logged).not.toContain('sk-secret');
    server.flavor = likeVllm;
  });

  const neutral: [string, Partial<EngineRequest>][] = [
    ['top_k', sampling({ topK: 5 })],
    ['min_p', sampling({ minP: 0.1 })],
    ['repetition_penalty', sampling({ repetitionPenalty: 1.1 })],
    ['stop_token_ids', stop({ stopTokenIds: Int32Array.of(3) })],
    ['ignore_eos', stop({ ignoreEos: true })],
    ['min_tokens', stop({ minTokens: 2 })],
    ['cache_salt', { cacheSalt: 'tenant' }],
  ];
  it.each(neutral)('%s: refused where the server is not known to have it, sent with extensions: all', async (name, request) => {
    server.flavor = { ...likeVllm, ownedBy: 'somebody' };
    const refused = await bench.run(request);
    expect(refused.failure).toEqual({ code: 'ENGINE_REQUEST_UNSUPPORTED', retryable: false });
    expect(server.requests).toHaveLength(0);
    await bench.run(request, { extensions: 'all' });
    expect(server.requests[0]?.body).toHaveProperty(name);
  });
});

describe('text into tokens', () => {
  const text = (finish: string | null, ...pieces: string[]): string[] => pieces.map((piece, i) => event([choice(piece, i === pieces.length - 1 ? { finish_reason: finish } : {})]));

  async function hear(parts: (string | Buffer)[], request: Partial<EngineRequest> = {}): Promise<Recorder> {
    server.flavor = likeArmature;
    server.script = streaming(...parts);
    return bench.run(request);
  }

  it('stop: the text is shown whole, and the end-of-sequence token follows, flagged', async () => {
    const heard = await hear([...text(null, 'He', 'llo'), event([choice('', { finish_reason: 'stop' })]), usage(6, 4), done]);
    expect(heard.text()).toBe('Hello');
    expect(heard.ids[0]?.at(-1)).toBe(END_OF_SEQUENCE);
    expect(heard.finishes[0]).toEqual([0, 0, 0, 0, 0, FinishCode.Stop]);
    expect(heard.ends[0]).toEqual({ type: 'finished', usage: { promptTokens: 5, cachedTokens: 4, outputTokens: 6 } });
  });

  it('stop by a stop token: that one', async () => {
    const heard = await hear([event([choice('Hi', { finish_reason: 'stop', stop_reason: 42 })]), done], stop({ stopTokenIds: Int32Array.of(41, 42) }));
    expect(heard.ids[0]).toEqual([72, 105, 42]);
  });

  it.each([['with the text', [...text('length', 'abc', 'de')]], ['alone', [...text(null, 'abc', 'de'), event([choice('', { finish_reason: 'length' })])]]])('length %s: flags the last token, and adds none', async (_how, parts) => {
    const heard = await hear([...parts, usage(5), done], stop({ maxTokens: 5 }));
    expect(heard.text()).toBe('abcde');
    expect(heard.finishes[0]).toEqual([0, 0, 0, 0, FinishCode.Length]);
  });

  it('length that no token here can carry: the client still hears it', async () => {
    const heard = await hear([...text(null, 'ab'), event([choice('', { finish_reason: 'length' })]), done], stop({ maxTokens: 50 }));
    expect(heard.text()).toBe('ab');
    expect(heard.finishes[0]).toEqual([0, 0, FinishCode.Length]);
  });

  it('a token is held back only from where it may be the last', async () => {
    server.flavor = likeArmature;
    let counts: number[] = [];
    const engine = await bench.started();
    server.script = async (_received, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (const letter of 'abcd') {
        response.write(event([choice(letter)]));
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      counts = [...counts, sink.ids[0]?.length ?? 0];
      response.end(event([choice('e', { finish_reason: 'length' })]) + done);
    };
    const sink = new Recorder();
    engine.submit({ ...base, ...stop({ maxTokens: 4 }) }, sink);
    await sink.ended;
    const other = new Recorder();
    engine.submit({ ...base, ...stop({ maxTokens: 40 }) }, other);
    await other.ended;
    expect(counts).toHaveLength(2);
    expect(counts[0]).toBeLessThan(4);
    expect(sink.text()).toBe('abcde');
  });

  it('halves of surrogate pairs in two events are one character', async () => {
    const heard = await hear([...text(null, 'a\ud83d', '\ude00b'), event([choice('', { finish_reason: 'stop' })]), done]);
    expect(heard.text()).toBe('a😀b');
  });

  it('logprobs are the server’s: one per token, best first', async () => {
    const logprobs = { tokens: ['a', 'b'], token_logprobs: [-0.5, -0.75], top_logprobs: [{ a: -0.5, x: -1 }, { y: -0.25, b: -0.75 }] };
    const heard = await hear([event([choice('ab', { logprobs, finish_reason: 'length' })]), done], { ...sampling({ topLogprobs: 2 }), ...stop({ maxTokens: 2 }) });
    expect(heard.logprobs).toEqual([-0.5, -0.75]);
    expect(heard.topTokenIds).toEqual([97, 120, 121, 98]);
  });

  it('logprobs of tokens that are parts of a character: their sum is on the first', async () => {
    const logprobs = { tokens: ['\ufffd', '\ufffd', 'x'], token_logprobs: [-0.5, -0.25, -1] };
    const heard = await hear([event([choice('é!x', { logprobs, finish_reason: 'length' })]), done], { ...sampling({ topLogprobs: 0 }), ...stop({ maxTokens: 3 }) });
    expect(heard.text()).toBe('é!x');
    expect(heard.logprobs).toEqual([-1.75, 0, 0]);
  });

  it('an answer that is not streamed is one too', async () => {
    server.flavor = likeArmature;
    server.script = (_received, response) => void response.writeHead(200, { 'content-type': 'application/json; charset=utf-8' }).end(JSON.stringify({ choices: [choice('Hello', { finish_reason: 'stop' })], usage: { completion_tokens: 6 } }));
    expect((await bench.run()).text()).toBe('Hello');
  });

  const SEED = Number(process.env['ARMATURE_SEED'] ?? 7);
  it(`bytes cut anywhere give the text of every choice (seed ${SEED})`, async () => {
    server.flavor = likeArmature;
    const engine = await bench.started();
    const next = seeded(SEED);
    const letters = [...'abc é漢😀👍🏽\n"\\'];
    for (let round = 0; round < 40; round++) {
      const said = [0, 1].map(() => Array.from({ length: 1 + next(8) }, () => Array.from({ length: next(4) }, () => letters[next(letters.length)]).join('')));
      const events = said.flatMap((pieces, index) => pieces.map((piece) => event([choice(piece, { index })])).concat(event([choice('', { index, finish_reason: 'stop' })])));
      const bytes = Buffer.from(events.join('').replaceAll('\n\n', next(2) === 0 ? '\n\n' : '\r\n\r\n') + done);
      const parts: Buffer[] = [];
      for (let at = 0; at < bytes.length; ) parts.push(bytes.subarray(at, (at += 1 + next(60))));
      server.script = (_received, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        for (const part of parts) response.write(part);
        response.end();
      };
      const sink = new Recorder();
      engine.submit({ ...base, choices: 2, ...stop({ maxTokens: 1 + next(60) }) }, sink);
      await sink.ended;
      expect([sink.text(0), sink.text(1)], `seed ${SEED}, round ${round}`).toEqual(said.map((pieces) => pieces.join('')));
    }
  });
});

describe('who runs', () => {
  it('no more choices than maxSequences; then a line, higher priority first; then a refusal', async () => {
    const engine = await bench.started({ maxSequences: 2, maxWaiting: 2 });
    server.tokenMs = 5;
    const sinks = [0, 1, 2, 3, 4].map(() => new Recorder());
    const order: number[] = [];
    sinks.forEach((sink, i) => {
      sink.onTokens = () => void (order.includes(i) || order.push(i));
      engine.submit({ ...base, id: `r${i}`, priority: i === 2 ? 5 : 0, choices: i < 2 ? 2 : 1 }, sink);
    });
    expect(sinks[3]?.failure).toEqual({ code: 'ENGINE_OVERLOADED', retryable: true });
    expect(engine.load()).toMatchObject({ running: 1, waiting: 2, prefillTokens: 15 });
    await Promise.all(sinks.map((sink) => sink.ended));
    expect(order).toEqual([0, 2, 1]);
    await until('all places are free', () => engine.load().running === 0);
  });

  it('one that waits can be cancelled; one that runs is cancelled in the server', async () => {
    const engine = await bench.started({ maxSequences: 1 });
    server.tokenMs = 20;
    const [first, second] = [new Recorder(), new Recorder()];
    const handle = engine.submit({ ...base, ...stop({ maxTokens: 200 }) }, first);
    engine.cancel(engine.submit(base, second));
    expect(second.ends).toEqual([{ type: 'cancelled' }]);
    await until('it streams', () => first.ids.length > 0);
    engine.cancel(handle);
    expect(first.ends).toEqual([{ type: 'cancelled' }]);
    await until('the server has noticed', () => server.aborted === 1 && server.running === 0);
    await until('its place is free', () => engine.load().running === 0);
  });

  it('connections are used again', async () => {
    const engine = await bench.started();
    const before = server.connections;
    for (let i = 0; i < 10; i++) {
      const sink = new Recorder();
      engine.submit(base, sink);
      await sink.ended;
      await until('its connection is free', () => engine.load().running === 0);
    }
    expect(server.connections - before).toBeLessThanOrEqual(1);
  });
});
