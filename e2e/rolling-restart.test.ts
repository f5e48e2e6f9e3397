import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ArmatureProcess, freePort, root } from './support/process.ts';

/**
 * Every worker a process of its own, under steady load, with `migrationLimit: 0`: a request that its worker lets down fails. What is left is the
 * drain: what runs is answered, and what comes is turned away before it begins.
 */
const cluster = (port: number, adminPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
events: { use: zmq }
requests: { use: tcp, config: { token: rolling-secret } }
transports: [{ use: tcp, config: { token: rolling-secret } }]
models:
  - name: demo
    source: ${JSON.stringify(`${root}packages/model-demo/model`)}
    migrationLimit: 0
    workers:
      - { name: prefill, role: prefill, replicas: 2, engine: { use: mock, config: { vocabSize: 1024 } } }
      - { name: decode, role: decode, replicas: 2, engine: { use: mock, config: { vocabSize: 1024 } } }
`;
const WORKERS = ['prefill/0', 'prefill/1', 'decode/0', 'decode/1'];
const PROMPTS = Array.from({ length: 16 }, (_, i) => `My cat is called Biscuit, my number is ${10 + i}. ${'I like to eat soup. '.repeat(i)}`);
const EVERY_MS = 50;

interface WorkerRow {
  readonly instanceId: string;
  readonly load: { readonly requests: number };
  readonly isInhibited: boolean;
}

interface Answer {
  readonly prompt: number;
  /** The whole answer, or what came instead. */
  readonly text: string;
}

const folder = mkdtempSync(join(tmpdir(), 'armature-rolling-'));
const file = join(folder, 'cluster.yaml');
const running = new Map<string, ArmatureProcess>();
let url = '';
let adminUrl = '';

const start = (part: string): void => {
  const admin = part === 'frontend' ? [] : ['--admin-port', '0'];
  running.set(part, new ArmatureProcess(['serve', '-f', file, '--only', part === 'frontend' ? part : `workers.${part}`, ...admin]));
};
const processOf = (part: string): ArmatureProcess => running.get(part) as ArmatureProcess;
const workers = async (): Promise<WorkerRow[]> => (await (await fetch(`${adminUrl}/workers`)).json()) as WorkerRow[];
const lifeOf = async (name: string): Promise<WorkerRow | undefined> => (await workers()).find(({ instanceId }) => instanceId.startsWith(`${name}@`));

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!(await isSo().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}\n${[...running].map(([part, { output }]) => `--- ${part}\n${output.slice(-2000)}`).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function ask(prompt: number): Promise<Answer> {
  const body = JSON.stringify({ model: 'demo', prompt: PROMPTS[prompt], max_tokens: 48, temperature: 0.8, seed: 11 });
  try {
    const response = await fetch(`${url}/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal: AbortSignal.timeout(30_000) });
    const json = (await response.json()) as { choices?: { text: string }[]; error?: { code: string } };
    return { prompt, text: json.choices?.[0]?.text ?? `${response.status} ${json.error?.code}` };
  } catch (error) {
    return { prompt, text: String(error) };
  }
}

/** An open loop: requests come however long answers take. */
class Load {
  readonly #answers: Promise<Answer>[] = [];
  readonly #timer = setInterval(() => this.#answers.push(ask(this.#answers.length % PROMPTS.length)), EVERY_MS);

  get sent(): number {
    return this.#answers.length;
  }

  stop(): Promise<Answer[]> {
    clearInterval(this.#timer);
    return Promise.all(this.#answers);
  }
}

/** Ends a worker while it has something to do. */
async function endUnderLoad(name: string, signal: NodeJS.Signals): Promise<number | null> {
  await until(`${name} has requests`, async () => ((await lifeOf(name))?.load.requests ?? 0) > 0);
  return (await processOf(name).stop(signal, 20_000)).code;
}

async function startAgain(name: string): Promise<void> {
  const before = (await workers()).map(({ instanceId }) => instanceId);
  start(name);
  await until(`another life of ${name}`, async () => {
    const now = await lifeOf(name);
    return now !== undefined && !before.includes(now.instanceId) && !now.isInhibited;
  });
}

let expected: string[];
const wrong = (answers: readonly Answer[]): string[] => answers.filter(({ prompt, text }) => text !== expected[prompt]).map(({ prompt, text }) => `prompt ${prompt}: ${text}`);

beforeAll(async () => {
  const [port, adminPort] = [await freePort(), await freePort()];
  url = `http://127.0.0.1:${port}/v1`;
  adminUrl = `http://127.0.0.1:${adminPort}`;
  writeFileSync(file, cluster(port, adminPort));
  for (const part of [...WORKERS, 'frontend']) start(part);
  await until('every worker is there', async () => (await workers()).length === WORKERS.length);
  expected = (await Promise.all(PROMPTS.map((_, i) => ask(i)))).map(({ text }) => text);
  expect(new Set(expected).size, 'answers differ, or comparing them shows nothing').toBe(PROMPTS.length);
}, 90_000);

afterAll(async () => {
  for (const part of running.values()) if (part.child.exitCode === null) await part.stop('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

it('every worker is stopped and started again, one after the other: zero failed requests', async () => {
  const load = new Load();
  for (const name of WORKERS) {
    expect(await endUnderLoad(name, 'SIGTERM'), name).toBe(0);
    await startAgain(name);
  }
  const answers = await load.stop();
  expect(answers.length).toBeGreaterThan(4 * PROMPTS.length);
  expect(wrong(answers)).toEqual([]);
}, 120_000);

it('scale-down: pools lose a worker by SIGTERM, which loses no request', async () => {
  const load = new Load();
  for (const name of ['prefill/1', 'decode/1']) {
    expect(await endUnderLoad(name, 'SIGTERM'), name).toBe(0);
    await until(`${name} has left`, async () => (await lifeOf(name)) === undefined);
    const sent = load.sent;
    await until('more requests', async () => load.sent > sent + 10);
  }
  expect(wrong(await load.stop())).toEqual([]);
  expect((await workers()).map(({ instanceId }) => instanceId.split('@')[0]).sort()).toEqual(['decode/0', 'prefill/0']);
}, 120_000);

it('sabotage: killed instead of drained, the same worker does lose requests', async () => {
  await startAgain('decode/1');
  const load = new Load();
  await endUnderLoad('decode/1', 'SIGKILL');
  const lost = wrong(await load.stop());
  expect(lost.length).toBeGreaterThan(0);
  for (const one of new Set(lost)) expect(one).toMatch(/^prompt \d+: 50\d [A-Z_a-z]+$/);
}, 120_000);
