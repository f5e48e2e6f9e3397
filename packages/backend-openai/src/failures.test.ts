import type { ServerResponse } from 'node:http';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import type { EncodedPrompt } from '@armature/contracts';
import { FakePreprocessor } from '@armature/contracts/testing/fake-model';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { afterEach, describe, expect, it } from 'vitest';
import { choice, done, event, likeArmature, likeVllm, refuse } from './fake-openai.test.support.ts';
import type { Flavor, Script } from './fake-openai.test.support.ts';
import type { OpenAiServerConfig } from './index.ts';
import { base, Bench, Recorder, streaming, until } from './testing.test.support.ts';

const bench = new Bench(likeArmature);
const { server } = bench;
afterEach(() => bench.reset(likeArmature));

const answer =
  (status: number, body: string, type = 'application/json'): Script =>
  (_received, response) =>
    void response.writeHead(status, { 'content-type': type }).end(body);

async function failureOf(script: Script, config = {}): Promise<Recorder['failure']> {
  server.script = script;
  return (await bench.run({}, config)).failure;
}

describe('no request ends as an empty success, and each failure says whether another worker is worth a try', () => {
  const cases: [name: string, script: Script, code: string, retryable: boolean][] = [
    ['400', answer(400, '{"error":{"message":"bad","code":null}}'), 'ENGINE_REQUEST_UNSUPPORTED', false],
    ['400 for the context', answer(400, '{"error":{"message":"too long","code":"context_length_exceeded"}}'), 'ENGINE_PROMPT_TOO_LONG', false],
    ['401', answer(401, '{"error":"Unauthorized"}'), 'OPENAI_UNAUTHORIZED', true],
    ['404', answer(404, '{"detail":"Not Found"}'), 'OPENAI_NOT_FOUND', true],
    ['408', answer(408, ''), 'OPENAI_REFUSED', true],
    ['413', answer(413, ''), 'ENGINE_PROMPT_TOO_LONG', false],
    ['422', answer(422, '{"detail":[{"msg":"field required"}]}'), 'ENGINE_REQUEST_UNSUPPORTED', false],
    ['429', answer(429, '{"error":{"message":"slow down"}}'), 'OPENAI_OVERLOADED', true],
    ['500', answer(500, 'boom', 'text/plain'), 'OPENAI_REFUSED', true],
    ['502 with a page', answer(502, '<html>Bad Gateway</html>', 'text/html'), 'OPENAI_REFUSED', true],
    ['503', answer(503, ''), 'OPENAI_OVERLOADED', true],
    ['200 with a page', answer(200, '<html>Login</html>', 'text/html'), 'OPENAI_STREAM_INVALID', true],
    ['200 and nothing', answer(200, '', 'text/event-stream'), 'OPENAI_STREAM_TRUNCATED', true],
    ['200 and an empty object', answer(200, '{}'), 'OPENAI_STREAM_TRUNCATED', true],
    ['200 with an error', answer(200, '{"error":{"message":"no"}}'), 'OPENAI_FAILED', true],
    ['[DONE] at once', streaming(done), 'OPENAI_STREAM_TRUNCATED', true],
    ['[DONE] without a reason', streaming(event([choice('a')]), done), 'OPENAI_STREAM_TRUNCATED', true],
    ['half an event', streaming(event([choice('a')]), 'data: {"choices":[{"index":0,"te'), 'OPENAI_STREAM_TRUNCATED', true],
    ['an event that is no JSON', streaming(event([choice('a')]), 'data: oops\n\n'), 'OPENAI_STREAM_INVALID', true],
    ['an error in the stream', streaming(event([choice('a')]), 'data: {"error":{"message":"died","type":"server_error"}}\n\n'), 'OPENAI_FAILED', true],
    ['an error about the request in the stream', streaming('data: {"error":{"message":"no","type":"invalid_request_error"}}\n\n'), 'OPENAI_FAILED', false],
    ['a choice given up', streaming(event([choice('a', { finish_reason: 'abort' })])), 'OPENAI_FAILED', true],
    ['a choice that nobody asked for', streaming(event([choice('a', { index: 3 })])), 'OPENAI_STREAM_INVALID', true],
    ['a broken connection', (_received, response) => void response.writeHead(200, { 'content-type': 'text/event-stream' }).write(event([choice('a')]), () => response.destroy()), 'OPENAI_UNREACHABLE', true],
  ];
  it.each(cases)('%s', async (_name, script, code, retryable) => {
    expect(await failureOf(script)).toEqual({ code, retryable });
  });

  it('every reason was there, and the connection broke: finished', async () => {
    server.script = (_received, response) => void response.writeHead(200, { 'content-type': 'text/event-stream' }).write(event([choice('ab', { finish_reason: 'stop' })]), () => response.destroy());
    expect((await bench.run()).ends[0]).toMatchObject({ type: 'finished' });
  });

  it.each([
    ['no headers', ((_received, response) => void response.on('close', () => undefined)) as Script],
    ['bytes that trickle', (async (_received, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      while (!response.destroyed) {
        response.write(' ');
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }) as Script],
  ])('silence: %s', async (_name, script) => {
    expect(await failureOf(script, { idleTimeoutMs: 60 })).toEqual({ code: 'OPENAI_STREAM_STALLED', retryable: true });
    await until('the connection is closed', () => server.running === 0);
  });

  it('events that keep coming are no silence, however long the answer takes', async () => {
    const manual = new ManualClock();
    const engine = bench.make({ idleTimeoutMs: 1000 }, manual);
    await engine.start();
    let isOpen = true;
    server.script = async (_received, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let i = 0; i < 5; i++) {
        response.write(event([choice('a')]));
        await until('it has passed', () => passed > i || !isOpen);
      }
      response.end(event([choice('', { finish_reason: 'stop' })]) + done);
    };
    let passed = 0;
    const sink = new Recorder();
    engine.submit({ ...base, stop: { ...base.stop, maxTokens: 100 } }, sink);
    while (passed < 5) {
      await until('the event has come', () => (sink.ids[0]?.length ?? 0) > passed || sink.ends.length > 0);
      await manual.elapse(600);
      passed++;
    }
    await sink.ended;
    isOpen = false;
    expect(sink.failure).toBeUndefined();
    expect(sink.text()).toBe('aaaaa');
  });

  it('text that the model has no tokens for', async () => {
    class Poor extends FakePreprocessor {
      override encodeText(text: string): EncodedPrompt {
        return super.encodeText(text.replaceAll('ü', '?'));
      }
      override tokenBytes(): Uint8Array {
        return new Uint8Array(0);
      }
    }
    const poor = await bench.started({}, undefined, new Poor({ maxModelTokens: 256 }));
    server.script = streaming(event([choice('für', { finish_reason: 'stop' })]), done);
    const sink = new Recorder();
    poor.submit(base, sink);
    await sink.ended;
    expect(sink.failure).toEqual({ code: 'OPENAI_TEXT_NOT_ENCODABLE', retryable: false });
  });

  it('token ids beyond the vocabulary', async () => {
    server.flavor = likeVllm;
    expect(await failureOf(streaming(event([choice('a', { token_ids: [70_000] })])))).toEqual({ code: 'OPENAI_STREAM_INVALID', retryable: false });
  });

  it('text without the ids that were there at start', async () => {
    server.flavor = likeVllm;
    expect(await failureOf(streaming(event([choice('a')])))).toEqual({ code: 'OPENAI_STREAM_INVALID', retryable: true });
  });

  it('a failure in one request is none of the others, and leaves no place taken', async () => {
    const engine = await bench.started({ maxSequences: 1 });
    server.script = answer(500, '');
    const first = new Recorder();
    engine.submit(base, first);
    const second = new Recorder();
    engine.submit(base, second);
    await first.ended;
    server.script = undefined;
    await second.ended;
    const third = new Recorder();
    engine.submit(base, third);
    expect(await third.ended).toMatchObject({ type: 'finished' });
    await until('it rests', () => engine.load().running + engine.load().waiting === 0);
  });
});

describe('the canary', () => {
  it('fails after so many bad answers in a row, refuses at once, and recovers', async () => {
    const engine = await bench.started({ failuresToLeave: 3, probeIntervalMs: 15 });
    let asked = 0;
    const failures: boolean[] = [];
    server.modelsScript = (response) => {
      failures.push(engine.failure() !== undefined);
      asked++;
      refuse(response, 500, 'down');
    };
    await until('it has failed', () => engine.failure() !== undefined);
    expect(failures.slice(0, 3)).toEqual([false, false, false]);
    expect(asked).toBeGreaterThanOrEqual(3);
    const sink = new Recorder();
    engine.submit(base, sink);
    expect(sink.failure).toEqual({ code: 'OPENAI_UNREACHABLE', retryable: true });
    server.modelsScript = undefined;
    await until('it is back', () => engine.failure() === undefined);
    const later = new Recorder();
    engine.submit(base, later);
    expect(await later.ended).toMatchObject({ type: 'finished' });
  });

  it('one bad answer between good ones is no failure', async () => {
    const engine = await bench.started({ failuresToLeave: 2, probeIntervalMs: 10 });
    let asked = 0;
    server.modelsScript = (response) => {
      if (asked++ % 2 === 0) refuse(response, 500, 'down');
      else response.writeHead(200).end('{}');
    };
    await until('it was asked often', () => asked > 8);
    expect(engine.failure()).toBeUndefined();
  });

  it('canary: completion asks for a token; 429 is life', async () => {
    const engine = await bench.started({ canary: 'completion', probeIntervalMs: 10, failuresToLeave: 1 });
    await until('it was asked', () => server.requests.length > 2);
    expect(server.requests.every(({ body }) => body.max_tokens === 1)).toBe(true);
    expect(engine.failure()).toBeUndefined();
  });
});

describe('start', () => {
  const modelsAnswer = (script: (response: ServerResponse) => void) => (): void => {
    server.modelsScript = script;
  };
  const speaks = (flavor: Partial<Flavor>) => (): void => {
    server.flavor = { ...likeArmature, ...flavor };
  };
  const bad: [code: string, config: Partial<OpenAiServerConfig>, prepare: () => void][] = [
    ['OPENAI_UNAUTHORIZED', { apiKey: 'wrong' }, speaks({ apiKey: 'right' })],
    ['OPENAI_MODEL_UNKNOWN', { model: 'other' }, speaks({})],
    ['OPENAI_NOT_FOUND', {}, modelsAnswer((response) => refuse(response, 404, 'Not Found'))],
    ['OPENAI_ANSWER_INVALID', {}, modelsAnswer((response) => void response.writeHead(200).end('<html>'))],
    ['OPENAI_OVERLOADED', { startTimeoutMs: 50 }, modelsAnswer((response) => refuse(response, 503, 'loading'))],
    ['OPENAI_PROMPT_REFUSED', { prompt: 'tokens' }, speaks({ takesTokens: false })],
  ];
  it.each(bad)('%s', async (code, config, prepare) => {
    prepare();
    await expect(bench.make(config).start()).rejects.toMatchObject({ code });
  });

  it('OPENAI_UNREACHABLE', async () => {
    const port = await new Promise<number>((resolve) => {
      const other = createServer().listen(0, '127.0.0.1', () => {
        const { port: free } = other.address() as AddressInfo;
        other.close(() => resolve(free));
      });
    });
    await expect(bench.make({ baseUrl: `http://127.0.0.1:${port}/v1`, startTimeoutMs: 50 }).start()).rejects.toMatchObject({ code: 'OPENAI_UNREACHABLE' });
  });

  it('waits for a server that still loads its model', async () => {
    let asked = 0;
    server.modelsScript = (response) => {
      if (++asked > 2) server.modelsScript = undefined;
      refuse(response, 503, 'loading');
    };
    await expect(bench.make({ startTimeoutMs: 20_000 }).start()).resolves.toBeUndefined();
    expect(asked).toBe(3);
  });

  it('close in the middle of it ends it', async () => {
    server.modelsScript = () => undefined; // never answers
    const engine = bench.make();
    const starting = engine.start();
    const outcome = expect(starting).rejects.toMatchObject({ code: 'ENGINE_CLOSED' });
    await new Promise((resolve) => setTimeout(resolve, 10));
    await engine.close();
    await outcome;
  });

  it('a server without a list of models: named by the configuration', async () => {
    server.modelsScript = (response): void => refuse(response, 404, 'Not Found');
    const engine = bench.make({ model: 'demo', canary: 'completion' });
    await engine.start();
    expect(engine.info).toMatchObject({ maxModelTokens: 256, vocabSize: 0x10000, modelFingerprint: 'f00dfacef00dface', totalBlocks: 64 });
  });

  it('asks in the best form first, and remembers what was understood', async () => {
    server.flavor = { ...likeArmature, ownedBy: 'system', takesTokens: false, accepts: [] };
    await bench.make().start();
    expect(bench.logged).toMatch(/"promptAs":"text","idsFrom":"text"/);
    await bench.reset(likeVllm);
    await bench.make().start();
    expect(bench.logged).toMatch(/"promptAs":"tokens","idsFrom":"ids"/);
    expect(server.requests).toHaveLength(1);
  });

  it('a server that makes text of a list of ids is sent text', async () => {
    server.oneToken = ({ body }) => ({ choices: [choice('a', { finish_reason: 'length' })], usage: { prompt_tokens: Array.isArray(body.prompt) ? 9 : 2, completion_tokens: 1 } });
    await bench.make().start();
    server.oneToken = undefined;
    expect(bench.logged).toMatch(/"promptAs":"text"/);
  });
});
