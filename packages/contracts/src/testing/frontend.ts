import assert from 'node:assert/strict';
import type { Frontend } from '../frontend.ts';
import { FinishCode } from '../inference.ts';
import { FakeDirectory, FakeModel, speak } from './fake-model.ts';
import type { FakeRun, Script } from './fake-model.ts';
import { eventually, within } from './http-server.ts';
import { RawHttpClient } from './raw-http.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface FrontendContractOptions {
  readonly runner: SuiteRunner;
  /** A new frontend that will listen on any free port of 127.0.0.1, without authentication. */
  create(): Frontend | Promise<Frontend>;
  readonly skip?: readonly SkippedRule[];
}

const clock = { defer: (callback: () => void): void => void setImmediate(callback) };
const TEXT = 'Grüße, "wörld" 🦙\nline \\ two\u2028';
const MESSAGES = [{ role: 'user', content: 'hi' }];

interface Bench {
  readonly frontend: Frontend;
  readonly model: FakeModel;
  readonly url: string;
  post(path: string, body: unknown, headers?: Readonly<Record<string, string>>): Promise<Response>;
}

/** Rules of a frontend that speaks OpenAI's API; the suite knows no other. Each ends within `limitMs`. */
export function frontendRules(create: FrontendContractOptions['create'], limitMs = 8000): readonly ContractRule[] {
  const rule = (name: string, body: (bench: Bench) => Promise<void>, script?: Script): ContractRule => ({ name, run: () => withBench(create, script, (bench) => within(limitMs, body(bench))) });
  return [...answerRules(rule), ...streamRules(rule), ...errorRules(rule), ...lifeRules(rule)];
}

/** Registers the frontend suite with a test runner. */
export function frontendContract(options: FrontendContractOptions): void {
  registerRules(options.runner, 'frontend contract', frontendRules(options.create), options.skip);
}

async function withBench(create: FrontendContractOptions['create'], script: Script | undefined, body: (bench: Bench) => Promise<void>): Promise<void> {
  const frontend = await create();
  await frontend.start?.();
  const model = new FakeModel('demo', script ?? speak(clock, TEXT, 3));
  frontend.mount(new FakeDirectory([model]));
  const { url } = await frontend.listen();
  const post: Bench['post'] = (path, content, headers) =>
    fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: typeof content === 'string' ? content : JSON.stringify(content) });
  try {
    await body({ frontend, model, url, post });
  } finally {
    await frontend.close?.();
    await frontend.close?.();
  }
}

/** Data of each event; throws where a stream is not made of `data:` events ended by a blank line. */
export function parseEvents(text: string): string[] {
  const events = text.split('\n\n');
  assert.equal(events.pop(), '', 'the stream ends with a blank line');
  return events
    .filter((event) => !event.startsWith(':'))
    .map((event) => {
      assert.ok(event.startsWith('data: ') && !event.includes('\n'), `not a one-line event: ${JSON.stringify(event.slice(0, 200))}`);
      return event.slice('data: '.length);
    });
}

interface Chunk {
  readonly id: string;
  readonly object: string;
  readonly created: number;
  readonly model: string;
  readonly choices: readonly { readonly index: number; readonly delta: { readonly role?: string; readonly content?: string }; readonly finish_reason: string | null; readonly logprobs: unknown }[];
  readonly usage?: { readonly completion_tokens: number } | null;
}

/** Parses and checks a chat stream; returns its text by choice and its chunks. */
export function readChatStream(text: string): { readonly texts: readonly string[]; readonly chunks: readonly Chunk[] } {
  const events = parseEvents(text);
  assert.equal(events.pop(), '[DONE]');
  const chunks = events.map((event) => JSON.parse(event) as Chunk);
  const texts: string[] = [];
  const finished: boolean[] = [];
  for (const chunk of chunks) {
    assert.equal(chunk.object, 'chat.completion.chunk');
    assert.equal(chunk.id, chunks[0]!.id);
    assert.ok(Number.isInteger(chunk.created));
    for (const { index, delta, finish_reason: reason } of chunk.choices) {
      assert.ok(!finished[index], 'nothing follows the finish of a choice');
      if (texts[index] === undefined) {
        assert.equal(delta.role, 'assistant', 'the first delta of a choice has its role');
        texts[index] = '';
      } else assert.equal(delta.role, undefined);
      texts[index] += delta.content ?? '';
      if (reason !== null) finished[index] = true;
    }
  }
  assert.deepEqual(finished, texts.map(() => true), 'every choice finishes');
  return { texts, chunks };
}

/** Checks the envelope of an error answer and returns its inside. */
export async function readError(response: Response, status: number): Promise<{ readonly message: string; readonly type: string; readonly param: string | null; readonly code: string }> {
  assert.equal(response.status, status);
  assert.equal(response.headers.get('content-type'), 'application/json');
  assert.ok((response.headers.get('x-request-id') ?? '') !== '', 'an error has a request id');
  const { error } = (await response.json()) as { error: { message: string; type: string; param: string | null; code: string } };
  assert.equal(typeof error.message, 'string');
  assert.ok(error.message.length > 0);
  assert.equal(typeof error.type, 'string');
  assert.equal(typeof error.code, 'string');
  assert.ok(error.param === null || typeof error.param === 'string');
  return error;
}

type MakeRule = (name: string, body: (bench: Bench) => Promise<void>, script?: Script) => ContractRule;

function answerRules(rule: MakeRule): readonly ContractRule[] {
  return [
    rule('answers a chat completion', async ({ post, model }) => {
      const response = await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES }, { 'x-request-id': 'mine-1' });
      assert.equal(response.status, 200);
      assert.equal(response.headers.get('content-type'), 'application/json');
      assert.equal(response.headers.get('x-request-id'), 'mine-1');
      const body = (await response.json()) as Record<string, unknown>;
      assert.equal(body['object'], 'chat.completion');
      assert.equal(body['model'], 'demo');
      assert.ok(Number.isInteger(body['created']));
      assert.equal(typeof body['id'], 'string');
      const [choice] = body['choices'] as [{ index: number; message: { role: string; content: string }; finish_reason: string; logprobs: unknown }];
      assert.deepEqual([choice.index, choice.message.role, choice.message.content, choice.finish_reason, choice.logprobs], [0, 'assistant', TEXT, 'stop', null]);
      const prompt = model.runs[0]!.request.promptTokenIds.length;
      const completion = TEXT.length + 1;
      assert.deepEqual(body['usage'], { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion, prompt_tokens_details: { cached_tokens: 3 } });
    }),
    rule('answers a text completion', async ({ post }) => {
      const response = await post('/v1/completions', { model: 'demo', prompt: 'once', max_tokens: 4 });
      assert.equal(response.status, 200);
      const body = (await response.json()) as { object: string; choices: readonly { text: string; index: number; finish_reason: string }[]; usage: { completion_tokens: number } };
      assert.equal(body.object, 'text_completion');
      assert.deepEqual([body.choices[0]!.text, body.choices[0]!.index, body.choices[0]!.finish_reason, body.usage.completion_tokens], [TEXT.slice(0, 4), 0, 'length', 4]);
    }),
    rule('lists models', async ({ url }) => {
      const list = (await (await fetch(`${url}/v1/models`)).json()) as { object: string; data: readonly { id: string; object: string; created: number }[] };
      assert.equal(list.object, 'list');
      assert.deepEqual(list.data.map(({ id, object, created }) => [id, object, created]), [['demo', 'model', 1_700_000_000]]);
      const one = (await (await fetch(`${url}/v1/models/demo`)).json()) as { id: string };
      assert.equal(one.id, 'demo');
      const error = await readError(await fetch(`${url}/v1/models/other`), 404);
      assert.equal(error.code, 'model_not_found');
    }),
    rule('hands the engine what was asked for', async ({ post, model }) => {
      await (await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES, max_tokens: 7, temperature: 0, top_p: 0.5, stop: ['\u2028'], n: 2, seed: 5 })).text();
      const { request } = model.runs[0]!;
      assert.deepEqual([request.stop.maxTokens, request.sampling.temperature, request.sampling.topP, request.choices, request.sampling.seedLo, request.sampling.seedHi], [7, 0, 0.5, 2, 5, 0]);
      assert.ok(request.deadlineMs > 0);
    }),
  ];
}

function streamRules(rule: MakeRule): readonly ContractRule[] {
  return [
    rule('streams a chat completion', async ({ post }) => {
      const response = await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES, stream: true });
      assert.equal(response.status, 200);
      assert.equal(response.headers.get('content-type'), 'text/event-stream');
      assert.ok((response.headers.get('x-request-id') ?? '') !== '');
      const { texts, chunks } = readChatStream(await response.text());
      assert.deepEqual(texts, [TEXT]);
      assert.equal(chunks.at(-1)!.choices[0]!.finish_reason, 'stop');
      assert.ok(chunks.every((chunk) => chunk.usage === undefined));
    }),
    rule('ends a stream with its usage when asked to', async ({ post }) => {
      const response = await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES, stream: true, stream_options: { include_usage: true } });
      const { texts, chunks } = readChatStream(await response.text());
      assert.deepEqual(texts, [TEXT]);
      const last = chunks.at(-1)!;
      assert.deepEqual(last.choices, []);
      assert.equal(last.usage?.completion_tokens, TEXT.length + 1);
      assert.ok(chunks.slice(0, -1).every((chunk) => (chunk.usage ?? null) === null && chunk.choices.length > 0));
    }),
    rule('keeps the choices of one stream apart', async ({ post }) => {
      const response = await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES, stream: true, n: 3 });
      assert.deepEqual(readChatStream(await response.text()).texts, [TEXT, TEXT, TEXT]);
    }),
    rule('keeps 64 concurrent streams apart', async ({ post, model }) => {
      model.script = (run) => speak(clock, `answer to ${String.fromCharCode(...run.request.promptTokenIds)}`.repeat(4))(run);
      const texts = await Promise.all(
        Array.from({ length: 64 }, async (_, i) => {
          const response = await post('/v1/chat/completions', { model: 'demo', messages: [{ role: 'user', content: `number ${i}` }], stream: i % 4 !== 0 });
          const text = await response.text();
          return i % 4 !== 0 ? readChatStream(text).texts[0]! : (JSON.parse(text) as { choices: [{ message: { content: string } }] }).choices[0].message.content;
        }),
      );
      texts.forEach((text, i) => assert.equal(text, `answer to user:number ${i}`.repeat(4)));
    }),
    rule('delivers tokens as they come', async ({ url, model }) => {
      model.script = () => undefined;
      const client = await rawStream(url);
      await eventually(() => model.runs.length === 1, 'request reached the engine');
      const run = model.runs[0]!;
      run.send('ab');
      assert.equal((await client.head()).status, 200);
      let text = (await client.chunk())!.toString();
      assert.match(text, /"content":"ab"/);
      run.send('cd', FinishCode.Length);
      run.finish();
      for (let chunk = await client.chunk(); chunk !== undefined; chunk = await client.chunk()) text += chunk.toString();
      assert.deepEqual(readChatStream(text).texts, ['abcd']);
      client.destroy();
    }),
  ];
}

async function rawStream(url: string): Promise<RawHttpClient> {
  const client = await RawHttpClient.open(Number(new URL(url).port));
  client.request('POST', '/v1/chat/completions', JSON.stringify({ model: 'demo', messages: MESSAGES, stream: true }), { 'content-type': 'application/json' });
  return client;
}

const fails =
  (after: string): Script =>
  (run: FakeRun) => {
    if (after !== '') run.send(after);
    setImmediate(() => setImmediate(() => run.end({ type: 'failed', error: { code: 'SERVING_NO_WORKER', message: 'worker 10.0.0.7:4711 left', retryable: true } })));
  };

function errorRules(rule: MakeRule): readonly ContractRule[] {
  return [
    rule('wraps every error, with a string code', async ({ url, post }) => {
      const chat = '/v1/chat/completions';
      await readError(await post(chat, '{"model":'), 400);
      await readError(await post(chat, ''), 400);
      await readError(await post(chat, '[]'), 400);
      await readError(await post('/v1/nothing', {}), 404);
      await readError(await fetch(url + chat), 405);
      await readError(await post(chat, { model: 'other', messages: MESSAGES }), 404);
      await readError(await post(chat, '{}', { 'content-type': 'text/plain' }), 415);
    }),
    rule('names the field at fault', async ({ post }) => {
      const cases: readonly (readonly [unknown, string])[] = [
        [{ messages: MESSAGES }, 'model'],
        [{ model: 'demo' }, 'messages'],
        [{ model: 'demo', messages: [] }, 'messages'],
        [{ model: 'demo', messages: MESSAGES, temperature: 'hot' }, 'temperature'],
        [{ model: 'demo', messages: MESSAGES, max_tokens: 0 }, 'max_tokens'],
        [{ model: 'demo', messages: MESSAGES, stream: 1 }, 'stream'],
      ];
      for (const [body, param] of cases) {
        const error = await readError(await post('/v1/chat/completions', body), 400);
        assert.equal(error.param, param);
      }
    }),
    rule('says how much too long a prompt is', async ({ post }) => {
      const error = await readError(await post('/v1/chat/completions', { model: 'demo', messages: [{ role: 'user', content: 'x'.repeat(2000) }] }), 400);
      assert.equal(error.code, 'context_length_exceeded');
      assert.match(error.message, /1000/);
      assert.match(error.message, /2005/);
    }),
    rule(
      'answers a failure before the first token with its status, and names no host',
      async ({ post }) => {
        for (const stream of [false, true]) {
          const response = await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES, stream });
          assert.ok(response.headers.get('retry-after') !== null);
          const error = await readError(response, 503);
          assert.doesNotMatch(JSON.stringify(error), /10\.0\.0\.7/);
        }
      },
      fails(''),
    ),
    rule(
      'ends a stream that fails with an error event',
      async ({ post }) => {
        const response = await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES, stream: true });
        assert.equal(response.status, 200);
        const events = parseEvents(await response.text());
        const last = JSON.parse(events.at(-1)!) as { error?: { message: unknown; code: unknown } };
        assert.equal(typeof last.error?.message, 'string');
        assert.equal(typeof last.error?.code, 'string');
        assert.doesNotMatch(events.join(''), /10\.0\.0\.7/);
      },
      fails('some text'),
    ),
  ];
}

function lifeRules(rule: MakeRule): readonly ContractRule[] {
  return [
    rule('cancels the engine when the client leaves', async ({ url, model }) => {
      model.script = () => undefined;
      for (const started of [false, true]) {
        const client = await rawStream(url);
        const before = model.runs.length;
        await eventually(() => model.runs.length > before || model.runs.at(-1)?.cancels === 0, 'request reached the engine');
        const run = model.runs.at(-1)!;
        if (started) {
          run.send('hello');
          await client.head();
        }
        client.destroy();
        await eventually(() => run.cancels > 0, 'the engine request was cancelled');
        run.send('late');
      }
    }),
    rule('drain lets running streams end and takes nothing new', async ({ url, model, post, frontend }) => {
      model.script = () => undefined;
      const client = await rawStream(url);
      await eventually(() => model.runs.length === 1, 'request reached the engine');
      const run = model.runs[0]!;
      run.send('a');
      await client.head();
      let drained = false;
      const draining = Promise.resolve(frontend.drain?.(5000)).then(() => (drained = true));
      await readError(await post('/v1/chat/completions', { model: 'demo', messages: MESSAGES }), 503);
      assert.equal(drained, false);
      run.send('b', FinishCode.Stop);
      run.finish();
      await draining;
      let text = '';
      for (let chunk = await client.chunk(); chunk !== undefined; chunk = await client.chunk()) text += chunk.toString();
      assert.match(text, /\[DONE\]/);
      client.destroy();
    }),
    rule('close ends what still runs, and cancels it', async ({ url, model, frontend }) => {
      model.script = () => undefined;
      const client = await rawStream(url);
      await eventually(() => model.runs.length === 1, 'request reached the engine');
      const run = model.runs[0]!;
      run.send('a');
      await client.head();
      await frontend.close?.();
      await client.closed();
      assert.ok(run.cancels > 0);
      await assert.rejects(fetch(`${url}/live`));
    }),
  ];
}
