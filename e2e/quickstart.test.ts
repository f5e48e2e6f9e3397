import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ArmatureProcess, armature, freePort } from './support/process.ts';

// The main job, as a newcomer meets it: one real process, the official client, two turns.
describe('npm start', () => {
  let server: ArmatureProcess;
  let url: string;
  let admin: string;

  beforeAll(async () => {
    const [port, adminPort] = [await freePort(), await freePort()];
    url = `http://127.0.0.1:${port}`;
    admin = `http://127.0.0.1:${adminPort}`;
    server = new ArmatureProcess(['serve', '-f', 'deploy/quickstart.yaml'], { ARMATURE_PORT: String(port), ARMATURE_ADMIN_PORT: String(adminPort) });
    await server.until('Ctrl-C stops');
  }, 60_000);

  afterAll(async () => {
    if (server.child.exitCode === null) await server.stop('SIGKILL');
  });

  it('prints the address, the model, the workers and a curl', () => {
    expect(server.output).toContain(`${url}/v1`);
    expect(server.output).toContain('demo');
    for (const worker of ['prefill/0', 'prefill/1', 'decode/0', 'decode/1']) expect(server.output).toContain(worker);
    expect(server.output).toContain(`curl -s ${url}/v1/chat/completions`);
  });

  it('answers a two-turn chat; the second turn reuses KV, moved from prefill to decode', async () => {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
    const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'My cat is called Biscuit. My sister lives in Oslo. My number is 47.' }];
    const first = await client.chat.completions.create({ model: 'demo', messages, temperature: 0 });
    messages.push({ role: 'assistant', content: first.choices[0]?.message.content ?? '' }, { role: 'user', content: 'What is my cat called?' });
    const { data: second, response } = await client.chat.completions.create({ model: 'demo', messages, temperature: 0 }).withResponse();
    expect(second.choices[0]?.message.content).toContain('Biscuit');
    expect(second.choices[0]?.finish_reason).toBe('stop');
    expect(second.usage?.prompt_tokens_details?.cached_tokens ?? 0).toBeGreaterThan(0);

    const record = (await (await fetch(`${admin}/requests/${response.headers.get('x-request-id')}`)).json()) as {
      decisions: { hop: string; candidates: { terms: object }[] }[];
      transfer: { movedBlocks: number; outcome: string };
    };
    expect(record.decisions.map((decision) => decision.hop).sort()).toEqual(['decode', 'prefill']);
    expect(record.decisions.every((decision) => decision.candidates.length === 2)).toBe(true);
    expect(record.transfer.outcome).toBe('valid');
    const metrics = await (await fetch(`${admin}/metrics`)).text();
    expect(metrics).toMatch(/armature_remote_prefills_total\{model="demo"\} 2/);
    const moved = [...metrics.matchAll(/armature_kv_transfer_blocks_total\{[^}]*\} (\d+)/g)].reduce((sum, match) => sum + Number(match[1]), 0);
    expect(moved).toBeGreaterThan(0);
  });

  it('a stop string ends the answer as finished, with its cached tokens', async () => {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
    const ask = { model: 'demo', messages: [{ role: 'user' as const, content: 'My cat is called Biscuit. My sister lives in Oslo. What is my cat called?' }], temperature: 0 };
    await client.chat.completions.create(ask);
    const { data, response } = await client.chat.completions.create({ ...ask, stop: ['Biscuit'] }).withResponse();
    expect(data.choices[0]).toMatchObject({ finish_reason: 'stop', message: { content: 'Your cat is called ' } });
    expect(data.usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThan(0);
    const record = (await (await fetch(`${admin}/requests/${response.headers.get('x-request-id')}`)).json()) as { outcome: string };
    expect(record.outcome).toBe('finished');
  });

  it('streams through the official client', async () => {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
    const stream = await client.chat.completions.create({
      model: 'demo',
      messages: [{ role: 'user', content: 'Hello!' }],
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = '';
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe('Hello! How can I help you?');
    expect(usage?.completion_tokens).toBeGreaterThan(3);
  });

  it('answers the AI SDK, streaming and not', async () => {
    const model = createOpenAICompatible({ name: 'armature', baseURL: `${url}/v1` })('demo');
    const prompt = 'My cat is called Biscuit. What is my cat called?';
    const { text, usage, finishReason } = await generateText({ model, prompt, temperature: 0 });
    expect(text).toContain('Biscuit');
    expect(finishReason).toBe('stop');
    expect(usage.outputTokens).toBeGreaterThan(3);
    let streamed = '';
    for await (const part of streamText({ model, prompt, temperature: 0 }).textStream) streamed += part;
    expect(streamed).toBe(text);
  });

  it('a client that leaves cancels its request on both legs, and nothing stays behind', async () => {
    const body = JSON.stringify({ model: 'demo', stream: true, max_tokens: 800, ignore_eos: true, messages: [{ role: 'user', content: 'Hello!' }] });
    for (let i = 0; i < 8; i++) {
      const abort = new AbortController();
      const response = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal: abort.signal });
      const reader = response.body?.getReader();
      for (let k = 0; k <= i; k++) await reader?.read();
      abort.abort();
    }
    type Engine = { load: { running: number; waiting: number; usedBlocks: number }; kv: { leases: number; reservations: number } };
    const busy = async (): Promise<Engine[]> => {
      const engines = (await (await fetch(`${admin}/engines`)).json()) as Engine[];
      expect(engines).toHaveLength(4);
      return engines.filter(({ load, kv }) => load.running + load.waiting + load.usedBlocks + kv.leases + kv.reservations > 0);
    };
    for (let wait = 0; wait < 100 && (await busy()).length > 0; wait++) await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await busy()).toEqual([]);
    const metrics = await (await fetch(`${admin}/metrics`)).text();
    expect(metrics).toMatch(/armature_requests_total\{model="demo",outcome="cancelled"\} 8/);
  });

  it('`armature chat --explain` streams and shows why', async () => {
    const ended = await armature(['chat', '--url', url, '--admin', admin, '--explain', '--temperature', '0', 'My dog is called Rufus.', 'What is my dog called?']);
    expect(ended.code).toBe(0);
    expect(ended.stdout).toContain('Rufus');
    expect(ended.stdout).toMatch(/prefill {4}→ prefill\/\d/);
    expect(ended.stdout).toMatch(/moved +\d+ blocks/);
    expect(ended.stdout).toMatch(/TTFT .* ITL/);
  });

  it('a second server on the same port says so and leaves with its own exit code', async () => {
    const ended = await armature(['serve', '-f', 'deploy/quickstart.yaml'], { ARMATURE_PORT: new URL(url).port, ARMATURE_ADMIN_PORT: '0' });
    expect(ended.code).toBe(6);
    expect(ended.stderr).toContain('HTTP_PORT_IN_USE');
  });

  it('Ctrl-C ends it cleanly', async () => {
    const ended = await server.stop('SIGINT');
    expect(ended.signal).toBeNull();
    expect(ended.code).toBe(0);
    expect(ended.stderr).toContain('stopped.');
  });
});
