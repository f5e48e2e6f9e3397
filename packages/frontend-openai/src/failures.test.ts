import { expect, test } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import type { ErrorData, HttpServer } from '@armature/contracts';
import { FakeModel, speak } from '@armature/contracts/testing/fake-model';
import { parseEvents, readError } from '@armature/contracts/testing/frontend';
import { eventually } from '@armature/contracts/testing/http-server';
import { RawHttpClient } from '@armature/contracts/testing/raw-http';
import { realClock } from './fake-context.test.fixture.ts';
import { NodeHttpServer, NODE_SERVER_DEFAULTS } from './node-server.ts';
import { serving } from './serving.test.fixture.ts';

const CHAT = { model: 'demo', messages: [{ role: 'user', content: 'hi' }] };
const silent = (): FakeModel => new FakeModel('demo', () => undefined);
const say = (text: string): FakeModel => new FakeModel('demo', speak(realClock, text));

test('codes of other packages become statuses, and internals stay inside', async () => {
  const cases: readonly (readonly [ErrorData, number, string, boolean | undefined])[] = [
    [{ code: 'SERVING_NO_WORKER', message: 'secret 10.0.0.1', retryable: true }, 503, 'SERVING_NO_WORKER', true],
    [{ code: 'SERVING_OVERLOADED', message: 'secret' }, 529, 'SERVING_OVERLOADED', true],
    [{ code: 'ENGINE_OVERLOADED', message: 'secret' }, 529, 'ENGINE_OVERLOADED', true],
    [{ code: 'ENGINE_QUEUE_FULL', message: 'secret' }, 529, 'ENGINE_QUEUE_FULL', true],
    [{ code: 'ENGINE_PROMPT_TOO_LONG', message: '9 of 8 tokens' }, 400, 'context_length_exceeded', undefined],
    [{ code: 'PREPROCESSOR_TEMPLATE_FAILED', message: 'roles must alternate' }, 400, 'PREPROCESSOR_TEMPLATE_FAILED', undefined],
    [{ code: 'SERVING_DEADLINE_EXCEEDED', message: 'secret' }, 504, 'SERVING_DEADLINE_EXCEEDED', false],
    [{ code: 'ACME_DEADLINE_EXCEEDED', message: 'secret' }, 504, 'ACME_DEADLINE_EXCEEDED', false],
    [{ code: 'ENGINE_STEP_TIMEOUT', message: 'secret', retryable: true }, 503, 'ENGINE_STEP_TIMEOUT', true],
    [{ code: 'PREPROCESSOR_FILE_MISSING', message: 'secret' }, 500, 'internal_error', false],
    [{ code: 'SERVING_KV_UNSUPPORTED', message: 'secret' }, 500, 'internal_error', false],
    [{ code: 'SERVING_WORKER_UNKNOWN', message: 'worker "w" is not live' }, 400, 'SERVING_WORKER_UNKNOWN', undefined],
    [{ code: 'SOMETHING_NEW', message: 'secret', retryable: true }, 503, 'SOMETHING_NEW', true],
    [{ code: 'ENGINE_STEP_FAILED', message: 'secret at /home/me/engine.ts:5', hint: 'secret' }, 500, 'internal_error', false],
  ];
  const model = silent();
  await serving([model], { overloadStatus: 529 }, async ({ chat, context }) => {
    for (const [error, status, code, retry] of cases) {
      model.script = (run) => setImmediate(() => run.end({ type: 'failed', error }));
      const response = await chat(CHAT);
      const told = await readError(response, status);
      expect(told.code).toBe(code);
      expect(told.message).not.toContain('secret');
      expect(response.headers.get('x-should-retry')).toBe(retry === undefined ? null : String(retry));
      expect(response.headers.get('retry-after') !== null).toBe(retry === true);
      if (retry === true) expect(Number(response.headers.get('retry-after-ms'))).toBeGreaterThan(0);
    }
    expect(context.log.lines.some((line) => line.level === 'warn' && String(line.fields['reason']).includes('engine.ts'))).toBe(true);
  });
});

test('a refusal inside `execute`, an engine that throws, and a preprocessor that throws are all answered', async () => {
  const model = new FakeModel('demo', (run) => run.end({ type: 'failed', error: { code: 'SERVING_NO_WORKER', message: 'none' } }));
  await serving([model], {}, async ({ chat, context, frontend }) => {
    await readError(await chat(CHAT), 503);
    model.script = () => {
      throw new Error('broken plug-in');
    };
    await readError(await chat(CHAT), 500);
    model.preprocessor.encodeChat = () => {
      throw new ArmatureError('PREPROCESSOR_TEMPLATE_FAILED', 'roles must alternate');
    };
    expect((await readError(await chat(CHAT), 400)).message).toContain('alternate');
    model.preprocessor.encodeChat = () => {
      throw new TypeError('x is undefined');
    };
    const error = await readError(await chat(CHAT), 500);
    expect(error.message).not.toContain('undefined');
    expect(context.log.lines.some((line) => line.level === 'error')).toBe(true);
    expect(context.metrics.values.get('armature_frontend_requests_in_flight') ?? 0).toBe(0);
    await frontend.drain(1000);
  });
});

test('a token the tokenizer does not know ends its own request only', async () => {
  const model = new FakeModel('demo', (run) => setImmediate(() => run.send('x')));
  model.preprocessor.openText = () => ({
    matchedStop: -1,
    push: () => {
      throw new RangeError('token 70000');
    },
    finish: () => '',
  });
  await serving([model], {}, async ({ chat }) => {
    await readError(await chat(CHAT), 500);
    expect(model.runs[0]!.cancels).toBe(1);
  });
});

test('a cancel inside the server is an error, not an empty success', async () => {
  const model = new FakeModel('demo', (run) => setImmediate(() => run.end({ type: 'cancelled' })));
  await serving([model], {}, async ({ chat }) => {
    await readError(await chat(CHAT), 503);
    model.script = (run) => {
      run.send('a');
      setTimeout(() => run.end({ type: 'cancelled' }), 20);
    };
    const events = parseEvents(await (await chat({ ...CHAT, stream: true })).text());
    expect(JSON.parse(events.at(-1)!)).toMatchObject({ error: { code: 'SERVING_REQUEST_CANCELLED' } });
  });
});

test('the time limit answers 504, or ends the stream with an error, and cancels', async () => {
  const model = silent();
  await serving([model], { requestTimeoutMs: 60 }, async ({ chat }) => {
    const error = await readError(await chat(CHAT), 504);
    expect(error.code).toBe('deadline_exceeded');
    expect(model.runs[0]!.cancels).toBe(1);
    model.script = (run) => run.send('a');
    const events = parseEvents(await (await chat({ ...CHAT, stream: true }, { 'x-request-timeout-ms': '40' })).text());
    expect(events.at(-1)).toContain('deadline_exceeded');
    expect(model.runs[1]!.cancels).toBe(1);
  });
});

test('above maxConcurrentRequests requests are refused with advice, and admitted again afterwards', async () => {
  for (const overloadStatus of [429, 503, 529] as const) {
    const model = silent();
    await serving([model], { maxConcurrentRequests: 2, overloadStatus }, async ({ chat, context }) => {
      const running = [chat(CHAT), chat(CHAT)];
      await eventually(() => model.runs.length === 2, 'both requests run');
      const response = await chat(CHAT);
      const error = await readError(response, overloadStatus);
      expect(error.code).toBe('too_many_concurrent_requests');
      expect(response.headers.get('x-should-retry')).toBe('true');
      expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
      expect(Number(response.headers.get('retry-after-ms'))).toBeGreaterThanOrEqual(500);
      expect(context.metrics.values.get('armature_frontend_shed_total')).toBe(1);
      for (const run of model.runs) run.finish();
      for (const one of await Promise.all(running)) expect(one.status).toBe(200);
      model.script = (run) => run.finish();
      expect((await chat(CHAT)).status).toBe(200);
    });
  }
});

test('bearer keys', async () => {
  await serving([say('x')], { apiKeys: ['k1', 'k2'] }, async ({ chat, url }) => {
    for (const headers of [undefined, { authorization: 'Bearer k3' }, { authorization: 'Basic k1' }, { authorization: 'k1' }, { authorization: 'Bearer ' }]) {
      const response = await chat(CHAT, headers);
      expect(response.headers.get('www-authenticate')).toBe('Bearer');
      expect((await readError(response, 401)).code).toBe('invalid_api_key');
    }
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    expect((await fetch(`${url}/v1/models/demo`)).status).toBe(401);
    for (const key of ['k1', 'k2']) expect((await chat(CHAT, { authorization: `Bearer ${key}` })).status).toBe(200);
    for (const path of ['/health', '/live', '/ready', '/openapi.json']) expect((await fetch(url + path)).status).toBe(200);
  });
});

test('wrong methods, media types, sizes and addresses', async () => {
  await serving([say('x')], { maxBodyBytes: 2000 }, async ({ url, post, chat }) => {
    const path = '/v1/chat/completions';
    const wrong = await fetch(url + path, { method: 'DELETE' });
    expect(wrong.headers.get('allow')).toBe('POST');
    expect((await readError(wrong, 405)).code).toBe('method_not_allowed');
    expect((await readError(await post('/v1/models', '{}'), 405)).code).toBe('method_not_allowed');
    expect((await readError(await fetch(`${url}/v1/unknown?x=1`), 404)).code).toBe('unknown_url');
    expect((await readError(await post(path, 'x', { 'content-type': 'application/x-www-form-urlencoded' }), 415)).code).toBe('unsupported_media_type');
    await readError(await post(path, '{}', { 'content-type': 'application/json; charset=latin1' }), 415);
    expect((await readError(await post(path, '{}', { 'content-encoding': 'gzip' }), 415)).code).toBe('unsupported_content_encoding');
    expect((await post(path, JSON.stringify(CHAT), { 'content-type': 'application/json; charset=utf-8' })).status).toBe(200);
    expect((await readError(await chat({ ...CHAT, user: 'x'.repeat(3000) }), 413)).code).toBe('request_too_large');
    expect((await readError(await post(path, Uint8Array.from([123, 255])), 400)).code).toBe('invalid_utf8');
    const head = await fetch(`${url}/v1/models`, { method: 'HEAD' });
    expect([head.status, await head.text()]).toEqual([200, '']);
    const client = await RawHttpClient.open(Number(new URL(url).port));
    client.send('GARBAGE\r\n\r\n');
    const raw = await client.answer();
    expect(raw.status).toBe(400);
    expect(JSON.parse(raw.body.toString())).toMatchObject({ error: { code: 'malformed_http', param: null } });
    await client.closed();
  });
});

test('model names with slashes and escapes are found', async () => {
  await serving([new FakeModel('org/My Model', speak(realClock, 'x'))], {}, async ({ url }) => {
    for (const name of ['org/My%20Model', 'org%2FMy%20Model']) expect(((await (await fetch(`${url}/v1/models/${name}`)).json()) as { id: string }).id).toBe('org/My Model');
    for (const name of ['%', '', '%00', '__proto__']) expect((await readError(await fetch(`${url}/v1/models/${name}`), 404)).code).toBe('model_not_found');
  });
});

test('health and readiness', async () => {
  const model = say('x');
  await serving([model], {}, async ({ url, context, frontend }) => {
    const at = async (path: string): Promise<[number, Record<string, unknown>]> => {
      const response = await fetch(url + path);
      return [response.status, (await response.json()) as Record<string, unknown>];
    };
    expect(await at('/live')).toEqual([200, { status: 'live' }]);
    expect((await at('/ready'))[0]).toBe(200);
    expect(await at('/health')).toEqual([200, { status: 'ready', models: [{ id: 'demo', ready: true }] }]);
    model.ready = false;
    const [status, body] = await at('/ready');
    expect([status, (body['error'] as { code: string }).code]).toEqual([503, 'no_model_ready']);
    model.ready = true;
    context.health.set('worker', 'failed');
    expect((await at('/health'))[0]).toBe(503);
    await frontend.drain(0);
    expect((await at('/ready'))[0]).toBe(503);
    expect((await at('/live'))[0]).toBe(200);
  });
});

test('a client that does not read is cut and its request cancelled, with bounded memory', async () => {
  const model = new FakeModel('demo', (run) => {
    const text = 'x'.repeat(16_384);
    const step = (): void => {
      if (run.ended) return;
      run.send(text);
      setImmediate(step);
    };
    step();
  });
  await serving([model], { maxPendingBytes: 262_144 }, async ({ url, context }) => {
    const client = await RawHttpClient.open(Number(new URL(url).port));
    client.request('POST', '/v1/chat/completions', JSON.stringify({ ...CHAT, stream: true }), { 'content-type': 'application/json' });
    await client.head();
    client.socket.pause();
    await eventually(() => (model.runs[0]?.cancels ?? 0) > 0, 'the slow client was cut');
    expect(context.metrics.values.get('armature_frontend_slow_clients_total')).toBe(1);
    expect(context.metrics.values.get('armature_frontend_requests_in_flight')).toBe(0);
    client.destroy();
  });
});

test('a client that leaves is counted', async () => {
  const model = silent();
  await serving([model], {}, async ({ chat, context, url }) => {
    void chat;
    const client = await RawHttpClient.open(Number(new URL(url).port));
    client.request('POST', '/v1/chat/completions', JSON.stringify(CHAT), { 'content-type': 'application/json' });
    await eventually(() => model.runs.length === 1, 'request reached the engine');
    client.destroy();
    await eventually(() => model.runs[0]!.cancels === 1, 'cancelled');
    expect(context.metrics.values.get('armature_frontend_disconnects_total')).toBe(1);
    expect(context.metrics.values.get('armature_frontend_requests_total{chat,499}')).toBe(1);
  });
});

test('slow senders are cut: of heads and of bodies', async () => {
  const server = new NodeHttpServer({ ...NODE_SERVER_DEFAULTS, headersTimeoutMs: 150, bodyTimeoutMs: 300 });
  await serving(
    [say('x')],
    {},
    async ({ url, chat }) => {
      const port = Number(new URL(url).port);
      const heads = await RawHttpClient.open(port);
      heads.send('POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n');
      const bodies = await RawHttpClient.open(port);
      bodies.send('POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{');
      await heads.closed();
      const answer = await bodies.answer();
      expect(answer.status).toBe(408);
      expect(JSON.parse(answer.body.toString())).toMatchObject({ error: { code: 'request_timeout' } });
      await bodies.closed();
      expect((await chat(CHAT)).status).toBe(200);
    },
    server,
  );
});

test('where uWebSockets.js cannot be loaded, node:http serves and the log says what to install', async () => {
  const absent: HttpServer = {
    name: 'uws',
    listen: () => Promise.reject(new ArmatureError('HTTP_UWS_UNAVAILABLE', 'uWebSockets.js cannot be used: not installed', { hint: 'run npm install …' })),
  };
  await serving(
    [say('x')],
    {},
    async ({ chat, context }) => {
      expect((await chat(CHAT)).status).toBe(200);
      expect(context.log.lines.find((line) => line.level === 'warn')).toMatchObject({ fields: { code: 'HTTP_UWS_UNAVAILABLE', hint: 'run npm install …' } });
    },
    absent,
  );
  const taken: HttpServer = { name: 'other', listen: () => Promise.reject(new ArmatureError('HTTP_PORT_IN_USE', 'taken')) };
  await expect(serving([], {}, async () => undefined, taken)).rejects.toMatchObject({ code: 'HTTP_PORT_IN_USE' });
});
