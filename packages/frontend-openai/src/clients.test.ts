import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI, { APIError, AuthenticationError, BadRequestError, InternalServerError, NotFoundError, RateLimitError } from 'openai';
import { expect, test } from 'vitest';
import { FakeModel, speak } from '@armature/contracts/testing/fake-model';
import type { Script } from '@armature/contracts/testing/fake-model';
import { eventually } from '@armature/contracts/testing/http-server';
import { realClock } from './fake-context.test.fixture.ts';
import { serving } from './serving.test.fixture.ts';

const TEXT = 'Grüße, "wörld" 🦙\nand more';
const MESSAGES = [{ role: 'user' as const, content: 'hi' }];
const model = (script: Script = speak(realClock, TEXT, 2)): FakeModel => new FakeModel('demo', script);
const sdk = (url: string, apiKey = 'none'): OpenAI => new OpenAI({ baseURL: `${url}/v1`, apiKey });

test('openai: chat completion', async () => {
  await serving([model()], {}, async ({ url }) => {
    const answer = await sdk(url).chat.completions.create({ model: 'demo', messages: MESSAGES, logprobs: true, top_logprobs: 2 });
    expect(answer.choices[0]!.message).toEqual({ role: 'assistant', content: TEXT, refusal: null });
    expect(answer.choices[0]!.finish_reason).toBe('stop');
    expect(answer.choices[0]!.logprobs!.content!.map((entry) => entry.token).length).toBe(TEXT.length);
    expect(answer.usage!.prompt_tokens_details!.cached_tokens).toBe(2);
    expect(answer._request_id).toMatch(/^req_/);
  });
});

test('openai: streamed chat completion, by iterator and by the stream helper', async () => {
  await serving([model()], {}, async ({ url }) => {
    const client = sdk(url);
    let text = '';
    let usage: number | undefined;
    for await (const chunk of await client.chat.completions.create({ model: 'demo', messages: MESSAGES, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage?.completion_tokens ?? usage;
    }
    expect([text, usage]).toEqual([TEXT, TEXT.length + 1]);
    const helper = client.chat.completions.stream({ model: 'demo', messages: MESSAGES, n: 2, logprobs: true });
    const final = await helper.finalChatCompletion();
    expect(final.choices.map((choice) => choice.message.content)).toEqual([TEXT, TEXT]);
    expect(final.choices[1]!.logprobs!.content!.length).toBe(TEXT.length);
  });
});

test('openai: text completions, streamed and not, and models', async () => {
  await serving([model()], {}, async ({ url }) => {
    const client = sdk(url);
    const answer = await client.completions.create({ model: 'demo', prompt: ['a', 'b'], max_tokens: 3, logprobs: 1 });
    expect(answer.choices.map((choice) => choice.text)).toEqual([TEXT.slice(0, 3), TEXT.slice(0, 3)]);
    let text = '';
    for await (const chunk of await client.completions.create({ model: 'demo', prompt: 'a', max_tokens: 100, stream: true })) text += chunk.choices[0]!.text;
    expect(text).toBe(TEXT);
    const names: string[] = [];
    for await (const one of client.models.list()) names.push(one.id);
    expect(names).toEqual(['demo']);
    expect((await client.models.retrieve('demo')).object).toBe('model');
  });
});

test('openai: errors arrive as the right class, with code and field', async () => {
  const busy = model((run) => run.end({ type: 'failed', error: { code: 'SERVING_OVERLOADED', message: 'full' } }));
  await serving([model(), Object.assign(busy, { name: 'busy' })], { apiKeys: ['key'], overloadStatus: 429 }, async ({ url }) => {
    const client = sdk(url, 'key');
    const failure = async (work: Promise<unknown>): Promise<APIError> => {
      const error: unknown = await work.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(APIError);
      return error as APIError;
    };
    const create = (body: object): Promise<unknown> => client.chat.completions.create({ model: 'demo', messages: MESSAGES, ...body });
    expect(await failure(create({ model: 'none' }))).toBeInstanceOf(NotFoundError);
    const bad = await failure(create({ temperature: 9 }));
    expect(bad).toBeInstanceOf(BadRequestError);
    expect([bad.param, bad.code, bad.type, bad.requestID?.slice(0, 4)]).toEqual(['temperature', 'invalid_value', 'invalid_request_error', 'req_']);
    expect(await failure(sdk(url, 'wrong').models.list())).toBeInstanceOf(AuthenticationError);
    expect(await failure(create({ model: 'busy' }))).toBeInstanceOf(RateLimitError);
    // The SDK honours retry-after-ms and asks three times in all.
    expect(busy.runs.length).toBe(3);
  });
});

test('openai: x-should-retry keeps the SDK from repeating what cannot succeed', async () => {
  const broken = model((run) => run.end({ type: 'failed', error: { code: 'ENGINE_STEP_FAILED', message: 'x' } }));
  await serving([broken], {}, async ({ url }) => {
    await expect(sdk(url).chat.completions.create({ model: 'demo', messages: MESSAGES })).rejects.toBeInstanceOf(InternalServerError);
    expect(broken.runs.length).toBe(1);
  });
});

test('openai: an error inside a stream is thrown, and breaking off a stream cancels the engine', async () => {
  const fake = model((run) => {
    run.send('abc');
    setTimeout(() => run.end({ type: 'failed', error: { code: 'SERVING_WORKER_LOST', message: 'gone', retryable: true } }), 20);
  });
  await serving([fake], {}, async ({ url }) => {
    let text = '';
    const read = async (): Promise<void> => {
      for await (const chunk of await sdk(url).chat.completions.create({ model: 'demo', messages: MESSAGES, stream: true })) text += chunk.choices[0]?.delta.content ?? '';
    };
    await expect(read()).rejects.toMatchObject({ code: 'SERVING_WORKER_LOST' });
    expect(text).toBe('abc');
    fake.script = (run) => run.send('abc');
    for await (const chunk of await sdk(url).chat.completions.create({ model: 'demo', messages: MESSAGES, stream: true })) {
      if (chunk.choices[0]?.delta.content === 'abc') break;
    }
    await eventually(() => fake.runs.at(-1)!.cancels === 1, 'the engine request was cancelled');
  });
});

test('ai sdk: generateText and streamText', async () => {
  await serving([model()], {}, async ({ url }) => {
    const provider = createOpenAICompatible({ name: 'armature', baseURL: `${url}/v1`, includeUsage: true });
    const whole = await generateText({ model: provider('demo'), prompt: 'hi', maxRetries: 0, temperature: 0 });
    expect([whole.text, whole.finishReason, whole.usage.outputTokens]).toEqual([TEXT, 'stop', TEXT.length + 1]);
    const parts: string[] = [];
    const stream = streamText({ model: provider('demo'), messages: [{ role: 'user', content: [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }] }], maxRetries: 0 });
    for await (const part of stream.textStream) parts.push(part);
    expect(parts.join('')).toBe(TEXT);
    expect(await stream.finishReason).toBe('stop');
    expect((await stream.usage).outputTokens).toBe(TEXT.length + 1);
    expect((await stream.usage).inputTokenDetails.cacheReadTokens).toBe(2);
    const completion = await generateText({ model: provider.completionModel('demo'), prompt: 'hi', maxOutputTokens: 5, maxRetries: 0 });
    expect([completion.text, completion.finishReason]).toEqual([TEXT.slice(0, 5), 'length']);
  });
});

test('ai sdk: errors carry our message', async () => {
  await serving([model()], {}, async ({ url }) => {
    const provider = createOpenAICompatible({ name: 'armature', baseURL: `${url}/v1` });
    await expect(generateText({ model: provider('none'), prompt: 'hi', maxRetries: 0 })).rejects.toThrow("The model 'none' does not exist");
    const failing = new FakeModel('late', (run) => {
      run.send('abc');
      setTimeout(() => run.end({ type: 'failed', error: { code: 'SERVING_WORKER_LOST', message: 'gone', retryable: true } }), 20);
    });
    await serving([failing], {}, async (other) => {
      const late = createOpenAICompatible({ name: 'armature', baseURL: `${other.url}/v1` });
      const errors: unknown[] = [];
      const stream = streamText({ model: late('late'), prompt: 'hi', maxRetries: 0, onError: ({ error }) => void errors.push(error) });
      let text = '';
      for await (const part of stream.textStream) text += part;
      expect(text).toBe('abc');
      expect(errors.length).toBe(1);
    });
  });
});
