import { describe, expect, test } from 'vitest';
import { choice, chunk, done, usageChunk } from './fake-vllm.test.support.ts';
import { base, logged, noEvents, Recorder, run, server, started, streaming } from './testing.test.support.ts';

const answering = (text: string): typeof server.answer => (_request, response) => void response.writeHead(200, { 'content-type': 'application/json' }).end(text);
const oneToken = answering(JSON.stringify({ choices: [choice([7], { finish_reason: 'length' })] }));

describe('canary', () => {
  const config = { canaryIntervalMs: 20, canaryTimeoutMs: 80 };

  test('an engine that takes requests and makes no token has failed, and is well after its first token', async () => {
    server.answer = () => undefined; // accepted, and nothing follows
    const backend = await started(config);
    await expect.poll(() => backend.failure()?.code, { timeout: 10_000 }).toBe('VLLM_WEDGED');
    expect(server.requests[0]?.body).toMatchObject({ prompt: [1], max_tokens: 1 });
    server.answer = oneToken;
    await expect.poll(() => backend.failure(), { timeout: 10_000 }).toBeUndefined();
  });

  test('one that gives tokens to others is busy, not wedged; one that is asked only when it is silent', async () => {
    server.answer = async ({ body }, response) => {
      if (body['stream'] !== true) return; // the canary waits in the queue
      response.writeHead(200);
      for (let i = 0; i < 25; i++) {
        response.write(chunk([choice([10 + i])]));
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      response.end(chunk([choice([99], { finish_reason: 'stop' })]) + usageChunk + done);
    };
    const backend = await started({ canaryIntervalMs: 1, canaryTimeoutMs: 60 });
    const sink = new Recorder();
    backend.submit({ ...base, stop: { ...base.stop, maxTokens: 100 } }, sink);
    let failures = 0;
    sink.onTokens = () => void (failures += backend.failure() === undefined ? 0 : 1);
    expect((await sink.ended).type).toBe('finished');
    expect(failures).toBe(0);
    const canaries = server.requests.filter(({ body }) => body['max_tokens'] === 1).length;
    expect(canaries, 'the canary ran').toBeGreaterThan(0);
  });

  test('a refusal is not silence', async () => {
    server.answer = (_request, response) => void response.writeHead(400).end('{"error":{"message":"no"}}');
    const backend = await started(config);
    await expect.poll(() => server.requests.length, { timeout: 10_000 }).toBeGreaterThan(2);
    expect(backend.failure()).toBeUndefined();
  });
});

describe('adapters', () => {
  test('are listed, and asked for by name', async () => {
    server.adapters = ['lora-a', 'lora-b'];
    server.answer = streaming(chunk([choice([1], { finish_reason: 'stop' })]), usageChunk, done);
    const backend = await started();
    expect(backend.info).toMatchObject({ adapters: ['lora-a', 'lora-b'], modelFingerprint: 'vllm//models/demo' });
    await run({ adapter: 'lora-a' });
    await run();
    expect(server.requests.map(({ body }) => body['model'])).toEqual(['lora-a', 'demo']);
    server.adapters = [];
    expect((await started()).info).not.toHaveProperty('adapters');
  });
});

describe('what is said at the start', () => {
  test.each([['0.32.0', false], ['0.11.2', false], ['0.99.0', true], ['1.2.3', true], ['0.10.1', true]])('version %s: warned %s', async (version, isWarned) => {
    server.version = version;
    await started();
    expect(logged.includes('VLLM_VERSION_UNKNOWN')).toBe(isWarned);
  });

  test('a version that is not told is no reason not to serve', async () => {
    server.version = undefined;
    expect((await started()).failure()).toBeUndefined();
    expect(logged).toContain('vLLM does not tell its version');
    expect(logged).not.toContain('VLLM_VERSION_UNKNOWN');
  });

  test('events off, here or there: how to turn them on', async () => {
    await started();
    expect(logged).toContain('--kv-events-config');
    expect(logged).not.toContain('VLLM_EVENTS_SILENT');
    server.eventSources = {};
    const backend = await started({ kvEvents: { ...noEvents, endpoint: 'tcp://127.0.0.1:*', listen: true } });
    expect(backend.abilities.kvEvents).toBe(true);
    expect(logged).toContain('VLLM_EVENTS_SILENT');
  });
});

describe('faults', () => {
  test('a slow-loris engine is ended by the idle deadline, though its bytes trickle', async () => {
    server.answer = async (_request, response) => {
      response.writeHead(200);
      response.write(chunk([choice([10])]));
      for (let i = 0; i < 100 && !response.destroyed; i++) {
        response.write(i === 0 ? 'data: {"choices"' : ' ');
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    };
    const sink = await run({}, { idleTimeoutMs: 60 });
    expect([sink.ids, sink.ends]).toMatchObject([[10], [{ type: 'failed', error: { code: 'VLLM_STREAM_STALLED', retryable: true } }]]);
  });

  test('a model that is gone is the reason of vLLM, and final', async () => {
    server.answer = (_request, response) => void response.writeHead(404).end('{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","code":404}}');
    expect((await run()).ends).toMatchObject([{ type: 'failed', error: { code: 'VLLM_REFUSED', message: 'vLLM answered 404: The model `x` does not exist.' } }]);
  });
});
