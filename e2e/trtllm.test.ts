import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterEach, expect, it } from 'vitest';
import { SimulatedTrtllm } from '@armature/backend-trtllm/testing';
import type { SimulatedTrtllmOptions } from '@armature/backend-trtllm/testing';
import { ArmatureProcess, freePort, root } from './support/process.ts';

// TensorRT-LLM cannot run here: `armature serve` over the strict simulated servers of @armature/backend-trtllm/testing, with HTTP between them.
const folder = mkdtempSync(join(tmpdir(), 'armature-trtllm-e2e-'));
const program = `${root}packages/backend-trtllm/dist/testing/program.js`;
const servers: SimulatedTrtllm[] = [];
const running: ArmatureProcess[] = [];
afterEach(async () => {
  for (const one of running.splice(0)) if (one.child.exitCode === null) await one.stop('SIGTERM');
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));

async function simulated(options: Partial<SimulatedTrtllmOptions> = {}): Promise<SimulatedTrtllm> {
  const server = await SimulatedTrtllm.start({ cacheSalt: true, ...options });
  servers.push(server);
  return server;
}

interface Served {
  readonly client: OpenAI;
  readonly armature: ArmatureProcess;
  get(path: string): Promise<unknown>;
  metrics(): Promise<string>;
}

// The servers live in this process: on a loaded machine they are late, which must not read as wedged.
const attached = ({ url }: SimulatedTrtllm, more: Readonly<Record<string, number>> = {}): string =>
  `{ use: trtllm, config: ${JSON.stringify({ baseUrl: url, canaryIntervalMs: 100, canaryTimeoutMs: 20_000, probeIntervalMs: 100, probeTimeoutMs: 20_000, eventsBeforeEndMs: 5000, startTimeoutMs: 20_000, ...more })} }`;

async function launch(workers: readonly string[], more = ''): Promise<ArmatureProcess & { readonly ports: readonly [number, number] }> {
  const ports = [await freePort(), await freePort()] as const;
  const file = join(folder, `${ports[0]}.yaml`);
  writeFileSync(file, `
apiVersion: armature/v1
admin: { port: ${ports[1]} }
frontend: { use: openai, config: { port: ${ports[0]} } }
models:
  - name: demo
    source: ${JSON.stringify(`${root}packages/model-demo/model`)}
    blockSize: 32
${more}
    workers:
${workers.map((worker) => `      - ${worker}`).join('\n')}
`);
  const armature = new ArmatureProcess(['serve', '-f', file]);
  running.push(armature);
  return Object.assign(armature, { ports });
}

async function serve(workers: readonly string[], more = ''): Promise<Served> {
  const armature = await launch(workers, more);
  await armature.until('Ctrl-C stops', 60_000);
  const [port, adminPort] = armature.ports;
  return {
    armature,
    client: new OpenAI({ apiKey: 'none', baseURL: `http://127.0.0.1:${port}/v1`, maxRetries: 0, timeout: 30_000 }),
    get: async (path) => (await fetch(`http://127.0.0.1:${adminPort}${path}`)).json(),
    metrics: async () => (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text(),
  };
}

const poll = (read: () => unknown) => expect.poll(read, { timeout: 20_000 });
const PROMPTS = Array.from({ length: 20 }, (_, i) => `My cat is called Biscuit, my number is ${10 + i}. ${'I like to eat soup. '.repeat(1 + i)}`);

async function answers({ client }: Served): Promise<string[]> {
  return Promise.all(PROMPTS.map(async (prompt, seed) => (await client.completions.create({ model: 'demo', prompt, max_tokens: 16, temperature: 0.8, seed })).choices[0]?.text ?? ''));
}

it('context and generation servers answer as one server does: every prompt by both, each state fetched once', async () => {
  const [one, context, generation] = [await simulated(), await simulated(), await simulated()];
  const expected = await answers(await serve([`{ name: w, engine: ${attached(one)} }`]));
  expect(new Set(expected).size).toBe(PROMPTS.length);
  const apart = await serve([`{ name: prefill, role: prefill, engine: ${attached(context)} }`, `{ name: decode, role: decode, engine: ${attached(generation)} }`], '    disaggregation: { use: always }');
  const canaries = (): number => context.counters.requests + generation.counters.requests - context.counters.contextRequests - generation.counters.generationRequests;
  expect(await answers(apart)).toEqual(expected);
  expect([context.counters.contextRequests, generation.counters.generationRequests, generation.counters.transfers, context.counters.heldContexts]).toEqual([20, 20, 20, 0]);
  expect([canaries() >= 0, context.counters.refused, generation.counters.refused]).toEqual([true, 0, 0]);
}, 120_000);

it('a second turn goes to the server that has the first, by its events; that they are off is told', async () => {
  for (const eventBufferMaxSize of [65_536, 0]) {
    const pair = [await simulated({ eventBufferMaxSize }), await simulated({ eventBufferMaxSize, hashForm: 'hex' })] as const;
    const served = await serve(pair.map((server, i) => `{ name: w${i}, engine: ${attached(server)} }`));
    const chats = PROMPTS.slice(4, 16).map((content) => [{ role: 'user' as const, content }]);
    for (const messages of chats) {
      const first = await served.client.chat.completions.create({ model: 'demo', messages, max_tokens: 8, temperature: 0, seed: 1 });
      const turns = [...messages, first.choices[0]?.message as never, { role: 'user' as const, content: 'And what else?' }];
      await served.client.chat.completions.create({ model: 'demo', messages: turns, max_tokens: 8, temperature: 0, seed: 1 });
    }
    const { requests } = (await served.get('/requests')) as { requests?: { decisions?: unknown }[] };
    const text = JSON.stringify(requests ?? (await served.get('/requests')));
    const overlaps = [...text.matchAll(/"overlapBlocks":(\d+)/g)].map(([, blocks]) => Number(blocks));
    const both = pair.map(({ counters }) => counters.requests - counters.refused);
    expect(both.every((count) => count > 2), `both serve: ${both.join()}`).toBe(true);
    const stored = [...(await served.metrics()).matchAll(/armature_trtllm_kv_events_total\{[^}]*what="stored_blocks"[^}]*\} (\d+)/g)].reduce((sum, [, blocks]) => sum + Number(blocks), 0);
    if (eventBufferMaxSize > 0) {
      expect(stored).toBeGreaterThanOrEqual(chats.length);
      expect(overlaps.filter((blocks) => blocks > 0).length, text.slice(0, 500)).toBeGreaterThanOrEqual(chats.length);
      expect(pair[0].counters.cachedTokens + pair[1].counters.cachedTokens).toBeGreaterThanOrEqual(32 * chats.length);
    } else {
      expect(stored).toBe(0); // what is routed by then is the router's own guess
      await poll(() => served.armature.output).toContain('TRTLLM_EVENTS_SILENT');
    }
    await served.armature.stop('SIGTERM');
  }
}, 120_000);

it('a wedged server leaves the pool while /health is well, its requests go to the other, and it comes back', async () => {
  const pair = [await simulated(), await simulated()] as const;
  // w0 leaves after its first requests have stalled: these are to move.
  const served = await serve([`{ name: w0, engine: ${attached(pair[0], { idleTimeoutMs: 1000, canaryTimeoutMs: 4000 })} }`, `{ name: w1, engine: ${attached(pair[1])} }`]);
  const inPool = async (): Promise<string[]> => ((await served.get('/workers')) as { instanceId: string; isInhibited?: boolean }[]).filter(({ isInhibited }) => isInhibited !== true).map(({ instanceId }) => instanceId.split('/')[0] ?? '').sort();
  pair[0].fault = 'wedged';
  const texts = await answers(served);
  expect(texts.every((text) => text !== '')).toBe(true);
  expect(served.armature.output).toMatch(/"code":"TRTLLM_STREAM_STALLED"[^\n]*"from":"w0\/0@[^\n]*request moves to another worker/);
  await poll(inPool).toEqual(['w1']);
  expect(served.armature.output).toMatch(/"worker":"w0\/0[^\n]*"code":"TRTLLM_WEDGED"/);
  expect(served.armature.output).not.toMatch(/"worker":"w1\/0[^\n]*"code":"TRTLLM_WEDGED"/);
  pair[0].fault = 'none';
  await poll(inPool).toEqual(['w0', 'w1']);
}, 120_000);

it('starts servers with options made from the YAML, starts one again that died, and ends with them', async () => {
  const server =
    `{ use: trtllm, config: { startTimeoutMs: 30000, probeIntervalMs: 100, serve: { command: ["${process.execPath}", "${program}"], model: demo, maxSeqLen: 1024, restartDelayMs: 50, args: ["--simulate", "{\\"cacheSalt\\":true}"] }, sendCacheSalt: true } }`;
  const served = await serve([`{ name: prefill, role: prefill, engine: ${server} }`, `{ name: decode, role: decode, engine: ${server} }`], '    disaggregation: { use: always }');
  const ask = (): Promise<string> => served.client.completions.create({ model: 'demo', prompt: PROMPTS[3] as string, max_tokens: 8, seed: 3 }).then(({ choices }) => choices[0]?.text ?? '', (error: Error) => `failed ${error.message}`);
  const first = await ask();
  expect(first).not.toMatch(/^failed|^$/);
  const pids = (): number[] => [...new Set([...served.armature.output.matchAll(/"pid":(\d+)[^\n]*trtllm-serve started/g)].map(([, pid]) => Number(pid)))];
  const before = pids();
  expect(before.length).toBe(2);
  process.kill(before[0] as number, 'SIGKILL');
  await poll(() => pids().length).toBe(3);
  await poll(ask).toBe(first);
  expect((await served.armature.stop('SIGTERM')).code).toBe(0);
  for (const pid of pids()) expect(() => process.kill(pid, 0), `server ${pid}`).toThrow(/ESRCH/);
}, 120_000);

it('a server that refuses to start is told of in its own words, and nothing stays', async () => {
  const engine = `{ use: trtllm, config: { serve: { command: ["${process.execPath}", "${program}"], model: demo, options: { kv_cache_config: { evict_everything: true } } } } }`;
  const { code, stderr, stdout } = await (await launch([`{ name: w, engine: ${engine} }`])).ended;
  expect(code).not.toBe(0);
  expect(stdout + stderr).toMatch(/TRTLLM_START_FAILED/);
  expect(stdout + stderr).toContain('kv_cache_config.evict_everything');
}, 60_000);
