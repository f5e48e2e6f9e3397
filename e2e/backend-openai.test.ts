import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ArmatureProcess, freePort, root } from './support/process.ts';

// Two Armature servers as upstreams of a third one, which knows them only as OpenAI-compatible servers.
const source = JSON.stringify(`${root}packages/model-demo/model`);
const upstream = (port: number, adminPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
models:
  - name: demo
    source: ${source}
    workers: [{ name: worker, engine: { use: reference } }]
`;
const gateway = (port: number, adminPort: number, ports: readonly number[]): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
models:
  - name: demo
    source: ${source}
    router: { use: kv }
    workers:
${ports.map((of, i) => `      - { name: up${i}, engine: { use: openai-server, config: { baseUrl: "http://127.0.0.1:${of}/v1", probeIntervalMs: 100, failuresToLeave: 2 } } }`).join('\n')}
`;

interface Server {
  readonly process: ArmatureProcess;
  readonly client: OpenAI;
  readonly admin: string;
}
interface Engine {
  readonly instanceId: string;
  readonly load: { readonly running: number; readonly waiting: number; readonly usedBlocks: number };
}
interface Record {
  readonly outcome: string;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  readonly migrations: number;
  readonly decisions: readonly { readonly chosen?: string }[];
}
type Message = OpenAI.ChatCompletionMessageParam;

const folder = mkdtempSync(join(tmpdir(), 'armature-openai-'));
const servers: Server[] = [];

async function serve(name: string, yaml: (port: number, adminPort: number) => string): Promise<Server & { readonly port: number }> {
  const [port, adminPort] = [await freePort(), await freePort()];
  const file = join(folder, `${name}.yaml`);
  writeFileSync(file, yaml(port, adminPort));
  const process = new ArmatureProcess(['serve', '-f', file]);
  const server = { process, port, client: new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none', maxRetries: 0 }), admin: `http://127.0.0.1:${adminPort}` };
  servers.push(server);
  await process.until('Ctrl-C stops', 60_000);
  return server;
}

async function read<T>(server: Server, path: string): Promise<T> {
  return (await (await fetch(`${server.admin}${path}`)).json()) as T;
}

async function running(server: Server): Promise<number> {
  return (await read<Engine[]>(server, '/engines')).reduce((sum, { load }) => sum + load.running + load.waiting, 0);
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`never: ${what}\n${servers.map(({ process }) => process.output.slice(-2000)).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

interface Heard {
  readonly text: string;
  readonly finish: string | null;
  readonly usage: OpenAI.CompletionUsage | undefined;
  readonly requestId: string;
}

async function chat(server: Server, messages: Message[], more: object = {}, onText: (text: string) => void = () => undefined): Promise<Heard> {
  const { data: stream, response } = await server.client.chat.completions
    .create({ model: 'demo', messages, temperature: 0, stream: true, stream_options: { include_usage: true }, ...more })
    .withResponse();
  let text = '';
  let finish: string | null = null;
  let usage: OpenAI.CompletionUsage | undefined;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
    onText(text);
  }
  return { text, finish, usage, requestId: response.headers.get('x-request-id') ?? '' };
}

const questions: Message[][] = [
  'My cat is called Biscuit. My sister lives in Oslo. My number is 47. What is my cat called?',
  'Hello!',
  'My dog is called Rufus. What is my dog called?',
  'Größe? 東京タワー 🙂 café',
].map((content) => [{ role: 'user', content }]);

describe('two OpenAI-compatible servers as the workers of a third', () => {
  let first: Server & { readonly port: number };
  let second: Server & { readonly port: number };
  let front: Server;

  beforeAll(async () => {
    first = await serve('first', upstream);
    second = await serve('second', upstream);
    front = await serve('front', (port, adminPort) => gateway(port, adminPort, [first.port, second.port]));
  }, 180_000);

  afterAll(async () => {
    for (const { process } of servers.reverse()) if (process.child.exitCode === null) await process.stop('SIGTERM');
    rmSync(folder, { recursive: true, force: true });
  }, 60_000);

  it('streams the upstream’s text, with its finish reason and its counts', async () => {
    for (const messages of questions) {
      for (const more of [{}, { max_tokens: 3 }, { temperature: 0.9, seed: 5, max_tokens: 40, ignore_eos: true }]) {
        const expected = await chat(first, messages, more);
        const heard = await chat(front, messages, more);
        expect([heard.text, heard.finish]).toEqual([expected.text, expected.finish]);
        expect(heard.usage?.prompt_tokens).toBe(expected.usage?.prompt_tokens);
        // With ignore_eos the upstream also counts end-of-sequence tokens that it went past: they have no text.
        if (!('ignore_eos' in more)) expect(heard.usage?.completion_tokens).toBe(expected.usage?.completion_tokens);
      }
    }
  });

  it('answers in one piece, with several choices, logprobs and a stop string', async () => {
    const ask = { model: 'demo', prompt: 'My cat is called Biscuit. What is my cat called?', temperature: 0.8, seed: 9, n: 3, max_tokens: 12, logprobs: 2 };
    const [expected, got] = await Promise.all([first.client.completions.create(ask), front.client.completions.create(ask)]);
    expect(got.choices.map(({ text, finish_reason: finish }) => [text, finish])).toEqual(expected.choices.map(({ text, finish_reason: finish }) => [text, finish]));
    expect(got.choices.map(({ logprobs }) => logprobs?.tokens)).toEqual(expected.choices.map(({ logprobs }) => logprobs?.tokens));
    got.choices.forEach((choice, i) => choice.logprobs?.token_logprobs?.forEach((value, k) => expect(value).toBeCloseTo(expected.choices[i]?.logprobs?.token_logprobs?.[k] ?? NaN, 4)));
    const stopped = await chat(front, questions[0] ?? [], { stop: ['Biscuit'] });
    expect([stopped.text, stopped.finish]).toEqual(['Your cat is called ', 'stop']);
    await until('the upstreams rest', async () => (await running(first)) + (await running(second)) === 0);
  });

  it('a second turn goes where the first went, and its cached tokens are the upstream’s', async () => {
    const messages: Message[] = [{ role: 'user', content: 'My parrot is called Captain. My brother lives in Lima. My number is 12. What is my parrot called?' }];
    const { text } = await chat(front, messages);
    const { usage, requestId } = await chat(front, [...messages, { role: 'assistant', content: text }, { role: 'user', content: 'Where does my brother live?' }]);
    expect(usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(16);
    const record = await read<Record>(front, `/requests/${requestId}`);
    expect(record.cachedTokens).toBe(usage?.prompt_tokens_details?.cached_tokens);
  });

  it('a client that leaves ends the request upstream', async () => {
    const abort = new AbortController();
    const stream = await front.client.chat.completions.create({ model: 'demo', stream: true, max_tokens: 1500, messages: questions[1] ?? [], ...{ ignore_eos: true } }, { signal: abort.signal });
    let atFirstText = -1;
    const left = (async () => {
      for await (const chunk of stream) {
        if (atFirstText >= 0 || chunk.choices[0]?.delta.content === undefined) continue;
        atFirstText = (await running(first)) + (await running(second));
        abort.abort();
      }
    })();
    await left.catch(() => undefined); // some versions of the client end, some throw
    expect(atFirstText).toBe(1);
    await until('no request runs upstream', async () => (await running(first)) + (await running(second)) === 0);
    await until('no request runs here', async () => (await running(front)) === 0);
  });

  it('an upstream that dies in mid-answer: the other one goes on from the text there was', async () => {
    const more = { max_tokens: 1000, ignore_eos: true };
    const messages = questions[0] ?? [];
    const expected = await chat(second, messages, more);
    let dead: Server | undefined;
    let hasKilled = false;
    const victim = async (): Promise<void> => {
      dead = (await running(first)) > 0 ? first : second;
      dead.process.child.kill('SIGKILL');
    };
    let before = '';
    const heard = await chat(front, messages, more, (text) => {
      if (hasKilled || text.length < 20) return;
      hasKilled = true;
      before = text;
      void victim();
    });
    // Text is all that an OpenAI server tells and takes: ends of turns that `ignore_eos` made it go beyond are not in it, so that the other one may go on differently
    // after one. What was said stays, nothing of it twice, and all that was asked for comes.
    expect(expected.text.startsWith(before)).toBe(true);
    expect(heard.text.startsWith(before)).toBe(true);
    expect(heard.text.length).toBeGreaterThan(2 * before.length);
    expect(heard.text.split('Biscuit')).toHaveLength(expected.text.split('Biscuit').length);
    expect(heard.finish).toBe(expected.finish);
    const record = await read<Record>(front, `/requests/${heard.requestId}`);
    expect([record.outcome, record.migrations]).toEqual(['finished', 1]);
    expect(dead).toBeDefined();

    // What comes next is answered by the one that is left; the dead one leaves the pool when it has failed often enough.
    const answers = await Promise.all(Array.from({ length: 8 }, () => chat(front, questions[1] ?? [])));
    expect(answers.map(({ text }) => text)).toEqual(Array(8).fill('Hello! How can I help you?'));
    await until('the engine of the dead server fails', async () => (await read<{ failure?: { code: string } }[]>(front, '/engines')).some(({ failure }) => failure?.code === 'OPENAI_UNREACHABLE'));
  });
});
