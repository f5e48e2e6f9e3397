import { expect, test } from 'vitest';
import { FinishCode } from '@armature/contracts';
import { FakeModel, speak } from '@armature/contracts/testing/fake-model';
import type { FakeRun } from '@armature/contracts/testing/fake-model';
import { parseEvents, readChatStream } from '@armature/contracts/testing/frontend';
import { realClock } from './fake-context.test.fixture.ts';
import { serving } from './serving.test.fixture.ts';

const MESSAGES = [{ role: 'user', content: 'hi' }];
const CHAT = { model: 'demo', messages: MESSAGES };
/** Prompt tokens of CHAT in the fake: `user:hi`. */
const PROMPT = 7;
const say = (text: string): FakeModel => new FakeModel('demo', speak(realClock, text));

interface Choice {
  readonly index: number;
  readonly text: string;
  readonly message: { readonly content: string };
  readonly finish_reason: string;
  readonly logprobs: {
    readonly content: readonly { readonly token: string; readonly logprob: number; readonly bytes: readonly number[]; readonly top_logprobs: readonly { readonly token: string; readonly logprob: number }[] }[];
    readonly tokens: readonly string[];
    readonly token_logprobs: readonly number[];
    readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
    readonly text_offset: readonly number[];
  };
}
interface Answer {
  readonly choices: readonly Choice[];
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number; readonly prompt_tokens_details: { readonly cached_tokens: number } };
}
const read = async (response: Response): Promise<Answer> => {
  expect(response.status).toBe(200);
  return (await response.json()) as Answer;
};

test('what was asked for reaches the engine, and what was not gets the defaults', async () => {
  const model = new FakeModel('demo', speak(realClock, 'x'), { defaults: { temperature: 0.7, topP: 0.9, topK: 40 } });
  await serving([model], {}, async ({ chat }) => {
    await read(await chat(CHAT));
    expect(model.runs[0]!.request).toMatchObject({
      choices: 1,
      cacheSalt: '',
      priority: 0,
      routing: {},
      deadlineMs: 600_000,
      stop: { maxTokens: 1000 - PROMPT, minTokens: 0, ignoreEos: false },
      sampling: { temperature: 0.7, topP: 0.9, topK: 40, minP: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, topLogprobs: -1 },
    });
    await read(
      await chat({
        ...CHAT,
        temperature: 0.5,
        top_p: 0.25,
        top_k: -1,
        min_p: 0.1,
        seed: -2,
        frequency_penalty: 1,
        presence_penalty: -1,
        repetition_penalty: 1.5,
        logit_bias: { '65': -100, '66': 2 },
        max_completion_tokens: 9,
        max_tokens: 5,
        min_tokens: 2,
        stop: ['END', 66],
        stop_token_ids: [67],
        ignore_eos: true,
        cache_salt: 'tenant',
        priority: 3,
        nvext: { decode_worker_id: 'decode/0@1', prefill_worker_id: 12, router_config_override: { overlap_score_credit: 2, router_temperature: 0.3 } },
      }),
    );
    const { request } = model.runs[1]!;
    expect(request).toMatchObject({
      cacheSalt: 'tenant',
      priority: 3,
      routing: { overlapCredit: 2, temperature: 0.3, worker: 'decode/0@1', prefillWorker: '12' },
      stop: { maxTokens: 9, minTokens: 2, ignoreEos: true },
      sampling: { temperature: 0.5, topP: 0.25, topK: 0, minP: 0.1, seedLo: 0xfffffffe, seedHi: 0xffffffff, frequencyPenalty: 1, presencePenalty: -1, repetitionPenalty: 1.5 },
    });
    expect([...request.stop.stopTokenIds]).toEqual([66, 67]);
    expect([...request.sampling.biasTokenIds]).toEqual([65, 66]);
    expect([...request.sampling.biasValues]).toEqual([-100, 2]);
    expect(request.id).toMatch(/^req_[0-9a-f]{24}$/);
  });
});

test('OpenAI defaults hold where the model has none; completions default to 16 tokens', async () => {
  const model = say('x'.repeat(100));
  await serving([model], {}, async ({ chat, complete }) => {
    await read(await chat(CHAT));
    expect(model.runs[0]!.request.sampling).toMatchObject({ temperature: 1, topP: 1, topK: 0 });
    expect((await read(await complete({ model: 'demo', prompt: 'a' }))).usage.completion_tokens).toBe(16);
    await read(await chat({ ...CHAT, nvext: { greed_sampling: true } }));
    expect(model.runs[2]!.request.sampling.temperature).toBe(0);
  });
});

test('headers win over the body', async () => {
  const model = say('x');
  await serving([model], {}, async ({ chat }) => {
    const headers = {
      'x-tenant-id': 'b',
      'x-request-priority': '-4',
      'x-armature-worker': 'w/1',
      'x-dynamo-prefill-instance-id': 'p/2',
      'x-request-timeout-ms': '5000',
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    };
    await read(await chat({ ...CHAT, cache_salt: 'a', priority: 1 }, headers));
    const { request } = model.runs[0]!;
    expect(request).toMatchObject({ cacheSalt: 'b', priority: -4, routing: { worker: 'w/1', prefillWorker: 'p/2' }, deadlineMs: 5000 });
    expect(request.traceparent).toMatch(/^00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01$/);
    expect(request.traceparent).not.toContain('b7ad6b7169203331');
    await read(await chat(CHAT, { 'x-request-timeout-ms': '999999999' }));
    expect(model.runs[1]!.request.deadlineMs).toBe(600_000);
    expect(model.runs[1]!.request.traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
    expect((await chat(CHAT, { 'x-request-timeout-ms': 'soon' })).status).toBe(400);
    expect((await chat(CHAT, { 'x-request-priority': 'high' })).status).toBe(400);
  });
});

test('request ids: a sane one of the client is kept, any other is replaced', async () => {
  await serving([say('x')], {}, async ({ chat }) => {
    expect((await chat(CHAT, { 'x-request-id': 'abc-1.2:3' })).headers.get('x-request-id')).toBe('abc-1.2:3');
    for (const bad of ['', 'a b', '<script>', 'x'.repeat(129)]) {
      expect((await chat(CHAT, bad === '' ? {} : { 'x-request-id': bad })).headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/);
    }
  });
});

test('the engine knows a request by its request id, and two running ones never by the same', async () => {
  const model = new FakeModel('demo', () => undefined);
  await serving([model], {}, async ({ chat, complete }) => {
    const answers = [chat(CHAT, { 'x-request-id': 'same' }), chat(CHAT, { 'x-request-id': 'same' }), complete({ model: 'demo', prompt: ['a', 'b'] }, { 'x-request-id': 'same' })];
    while (model.runs.length < 4) await new Promise(setImmediate);
    const ids = model.runs.map((run) => run.request.id);
    expect(ids[0]).toBe('same');
    expect(new Set(ids).size).toBe(4);
    for (const id of ids) expect(id).toMatch(/^same/);
    for (const run of model.runs) run.finish();
    for (const answer of answers) expect((await answer).headers.get('x-request-id')).toBe('same');
    void chat(CHAT, { 'x-request-id': 'same' });
    while (model.runs.length < 5) await new Promise(setImmediate);
    expect(model.runs[4]!.request.id).toBe('same');
    model.runs[4]!.finish();
  });
});

test('a stop string ends the output early, is not part of it, and cancels the engine', async () => {
  const model = new FakeModel('demo', (run) => {
    // An engine that would never stop by itself.
    const step = (): void => {
      if (run.ended) return;
      run.send('abcSTOPdef');
      setImmediate(step);
    };
    setImmediate(step);
  });
  await serving([model], {}, async ({ chat }) => {
    const body = await read(await chat({ ...CHAT, stop: ['zzz', 'STOP'] }));
    expect([body.choices[0]!.message.content, body.choices[0]!.finish_reason, body.usage.completion_tokens]).toEqual(['abc', 'stop', 7]);
    expect(model.runs[0]!.cancels).toBe(1);
    const response = await chat({ ...CHAT, stop: 'STOP', stream: true, stream_options: { include_usage: true } });
    const { texts, chunks } = readChatStream(await response.text());
    expect(texts).toEqual(['abc']);
    expect(chunks.at(-1)!.usage!.completion_tokens).toBe(7);
    expect(model.runs[1]!.cancels).toBe(1);
  });
});

test('a stop string inside `execute` still cancels, though the handle comes later', async () => {
  const model = new FakeModel('demo', (run) => run.send('aXb'));
  await serving([model], {}, async ({ chat }) => {
    const body = await read(await chat({ ...CHAT, stop: 'X' }));
    expect(body.choices[0]!.message.content).toBe('a');
    expect(model.runs[0]!.cancels).toBe(1);
  });
});

test('with n choices each stops for itself; the engine is cancelled when the last one has', async () => {
  const runs: FakeRun[] = [];
  const model = new FakeModel('demo', (run) => void runs.push(run));
  await serving([model], {}, async ({ chat }) => {
    const pending = chat({ ...CHAT, n: 3, stop: ['#'] });
    while (runs.length === 0) await new Promise(setImmediate);
    const run = runs[0]!;
    run.send('one#', FinishCode.None, 0);
    run.send('two', FinishCode.None, 1);
    run.send('ignored', FinishCode.None, 0);
    expect(run.cancels).toBe(0);
    run.send('!', FinishCode.Length, 1);
    run.send('three', FinishCode.None, 2);
    expect(run.cancels).toBe(0);
    run.send('#', FinishCode.None, 2);
    expect(run.cancels).toBe(1);
    const body = await read(await pending);
    expect(body.choices.map(({ index, message, finish_reason: reason }) => [index, message.content, reason])).toEqual([
      [0, 'one', 'stop'],
      [1, 'two!', 'length'],
      [2, 'three', 'stop'],
    ]);
    expect(body.usage.completion_tokens).toBe(4 + 4 + 6);
  });
});

test('text held back for a stop string comes out at the end', async () => {
  await serving([say('ab ST')], {}, async ({ chat }) => {
    const body = await read(await chat({ ...CHAT, stop: ['STOP'], max_tokens: 5 }));
    expect([body.choices[0]!.message.content, body.choices[0]!.finish_reason]).toEqual(['ab ST', 'length']);
    const { texts } = readChatStream(await (await chat({ ...CHAT, stop: ['STOP'], stream: true })).text());
    expect(texts).toEqual(['ab ST']);
  });
});

test('chat logprobs, whole and streamed', async () => {
  await serving([say('é"')], {}, async ({ chat }) => {
    const body = await read(await chat({ ...CHAT, logprobs: true, top_logprobs: 3 }));
    const { content } = body.choices[0]!.logprobs;
    expect(content.map((entry) => entry.token)).toEqual(['é', '"']);
    expect(content[0]).toEqual({
      token: 'é',
      logprob: -0.5,
      bytes: [0xc3, 0xa9],
      top_logprobs: [
        { token: 'é', logprob: -0.5, bytes: [0xc3, 0xa9] },
        { token: 'b', logprob: -1.5, bytes: [98] },
        { token: 'c', logprob: -9999, bytes: [99] },
      ],
    });
    const response = await chat({ ...CHAT, logprobs: true, stream: true });
    const { texts, chunks } = readChatStream(await response.text());
    expect(texts).toEqual(['é"']);
    const tokens = chunks.flatMap((chunk) => (chunk.choices[0]!.logprobs as Choice['logprobs'] | null)?.content ?? []).map((entry) => entry.token);
    expect(tokens).toEqual(['é', '"']);
    expect((await read(await chat({ ...CHAT, logprobs: true }))).choices[0]!.logprobs.content[0]!.top_logprobs).toEqual([]);
  });
});

test('logprobs of tokens whose text is still held back are kept for the text', async () => {
  await serving([say('a🦙S')], {}, async ({ chat }) => {
    const { texts, chunks } = readChatStream(await (await chat({ ...CHAT, logprobs: true, stream: true, stop: ['ST'] })).text());
    expect(texts).toEqual(['a🦙S']);
    const count = chunks.flatMap((chunk) => (chunk.choices[0]!.logprobs as Choice['logprobs'] | null)?.content ?? []).length;
    expect(count).toBe(4);
  });
});

test('completion logprobs have their four columns', async () => {
  await serving([say('ab')], {}, async ({ complete }) => {
    const body = await read(await complete({ model: 'demo', prompt: 'x', logprobs: 2 }));
    expect(body.choices[0]!.logprobs).toEqual({ tokens: ['a', 'b'], token_logprobs: [-0.5, -0.5], top_logprobs: [{ a: -0.5, b: -1.5 }, { b: -1.5 }], text_offset: [0, 1] });
    const none = await read(await complete({ model: 'demo', prompt: 'x', logprobs: 0 }));
    expect(none.choices[0]!.logprobs.top_logprobs).toEqual([null, null]);
    const events = parseEvents(await (await complete({ model: 'demo', prompt: 'x', logprobs: 1, stream: true })).text());
    expect(events.at(-1)).toBe('[DONE]');
    const offsets = events.slice(0, -1).flatMap((event) => ((JSON.parse(event) as Answer).choices[0]!.logprobs as Choice['logprobs'] | null)?.text_offset ?? []);
    expect(offsets).toEqual([0, 1]);
  });
});

test('completions take text, texts, ids and lists of ids; choices number through', async () => {
  const model = new FakeModel('demo', (run) => speak(realClock, `<${String.fromCharCode(...run.request.promptTokenIds)}>`)(run));
  await serving([model], {}, async ({ complete }) => {
    const texts = async (prompt: unknown, more = {}): Promise<string[]> => {
      const body = await read(await complete({ model: 'demo', prompt, ...more }));
      body.choices.forEach((choice, i) => expect(choice.index).toBe(i));
      return body.choices.map((choice) => choice.text);
    };
    expect(await texts('ab')).toEqual(['<ab>']);
    expect(await texts(['a', 'b'])).toEqual(['<a>', '<b>']);
    expect(await texts([97, 98])).toEqual(['<ab>']);
    expect(await texts([[97], [98]], { n: 2 })).toEqual(['<a>', '<a>', '<b>', '<b>']);
    expect(await texts('q', { echo: true })).toEqual(['q<q>']);
    expect(await texts([113], { echo: true, n: 2 })).toEqual(['q<q>', 'q<q>']);
    const usage = (await read(await complete({ model: 'demo', prompt: ['abc', 'd'] }))).usage;
    expect(usage.prompt_tokens).toBe(4);
    expect(new Set(model.runs.map((run) => run.request.id)).size).toBe(model.runs.length);
    const events = parseEvents(await (await complete({ model: 'demo', prompt: ['a', 'b'], echo: true, stream: true })).text());
    const streamed = ['', ''];
    for (const event of events.slice(0, -1)) for (const choice of (JSON.parse(event) as Answer).choices) streamed[choice.index] += choice.text;
    expect(streamed).toEqual(['a<a>', 'b<b>']);
    expect((await complete({ model: 'demo', prompt: '' })).status).toBe(400);
    expect((await complete({ model: 'demo', prompt: [70_000] })).status).toBe(400);
  });
});

test('one failing prompt of several fails the request and cancels the others', async () => {
  const model = new FakeModel('demo', (run) => {
    if (run.request.promptTokenIds[0] === 98) setImmediate(() => run.end({ type: 'failed', error: { code: 'ENGINE_PROMPT_TOO_LONG', message: 'too long by 4' } }));
  });
  await serving([model], {}, async ({ complete }) => {
    const response = await complete({ model: 'demo', prompt: ['a', 'b', 'c'] });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { code: 'context_length_exceeded' } });
    expect(model.runs.map((run) => run.cancels)).toEqual([1, 0, 1]);
  });
});

test('many tokens of one tick leave as one event and one write', async () => {
  const model = new FakeModel('demo', (run) => {
    setImmediate(() => {
      for (const letter of 'abcdef') run.send(letter);
      run.send('g', FinishCode.Length);
      run.finish();
    });
  });
  await serving([model], {}, async ({ chat }) => {
    const { texts, chunks } = readChatStream(await (await chat({ ...CHAT, stream: true })).text());
    expect(texts).toEqual(['abcdefg']);
    // Role, text, finish.
    expect(chunks.length).toBe(3);
  });
});

test('ids of another vocabulary are refused', async () => {
  const model = new FakeModel('demo', speak(realClock, 'x'), { vocabSize: 100 });
  await serving([model], {}, async ({ chat, complete }) => {
    expect((await chat({ ...CHAT, stop_token_ids: [100] })).status).toBe(400);
    expect((await chat({ ...CHAT, logit_bias: { '100': 1 } })).status).toBe(400);
    expect(await (await complete({ model: 'demo', prompt: [[1], [100]] })).json()).toMatchObject({ error: { param: 'prompt[1]' } });
    expect(model.runs.length).toBe(0);
  });
});

test('metrics and the per-request log tell of what happened', async () => {
  await serving([say('hello')], {}, async ({ chat, context }) => {
    await read(await chat(CHAT, { 'x-request-id': 'r1' }));
    await (await chat({ ...CHAT, stream: true })).text();
    await chat({ ...CHAT, model: 'none' });
    const value = (key: string): number | undefined => context.metrics.values.get(`armature_frontend_${key}`);
    expect(value('requests_total{chat,200}')).toBe(2);
    expect(value('requests_total{chat,404}')).toBe(1);
    expect(value('requests_in_flight')).toBe(0);
    expect(value('input_tokens_total{demo}')).toBe(2 * PROMPT);
    expect(value('output_tokens_total{demo}')).toBe(12);
    expect(value('time_to_first_token_seconds{demo}_count')).toBe(2);
    expect(value('inter_token_latency_seconds{demo}_count')).toBe(10);
    expect(value('request_duration_seconds{demo}_count')).toBe(2);
    expect([...context.metrics.values.keys()].some((key) => key.includes('none'))).toBe(false);
    const line = context.log.lines.find((one) => one.fields['requestId'] === 'r1')!;
    expect(line).toMatchObject({ level: 'debug', fields: { status: 200, outputTokens: 6 } });
    expect(line.fields['trace']).toMatch(/^00-/);
  });
});
