import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { conversations } from './support/conversations.ts';
import { collect, emptyOutput, greedy, metric, modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App } from './support/in-process.ts';
import { ArmatureProcess, freePort, root } from './support/process.ts';

/** Two worker processes; one is stopped in mid-answer (SIGSTOP: its connections stay open, and say nothing), and goes on later. */
const model = JSON.stringify(`${root}packages/model-demo/model`);
const worker = (name: string, port: number): string => `
apiVersion: armature/v1
requests: { use: tcp, config: { port: ${port}, token: stop-secret } }
models:
  - { name: demo, source: ${model}, workers: [{ name: ${name}, engine: { use: reference } }] }
`;
const frontend = (ports: readonly number[]): string => `
apiVersion: armature/v1
requests: { use: tcp, config: { token: stop-secret, pingIntervalMs: 200, pingDeadlineMs: 1000, connect: [${ports.map((port) => `"127.0.0.1:${port}"`).join(', ')}] } }
models:
  - { name: demo, source: "@armature/model-demo" }
`;

interface WorkerRow {
  readonly instanceId: string;
  readonly address: string;
  readonly isInhibited: boolean;
}

const folder = mkdtempSync(join(tmpdir(), 'armature-stopped-'));
const children = new Map<number, ArmatureProcess>();
let app: App;

const workers = async (): Promise<WorkerRow[]> => JSON.parse((await app.admin.handle('/workers', new URLSearchParams())).body) as WorkerRow[];

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`never so: ${what}: ${JSON.stringify(await workers())}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

beforeAll(async () => {
  for (const name of ['a', 'b']) {
    const port = await freePort();
    const file = join(folder, `${name}.yaml`);
    writeFileSync(file, worker(name, port));
    children.set(port, new ArmatureProcess(['serve', '-f', file]));
  }
  for (const child of children.values()) await child.until('Ctrl-C stops');
  app = await start(frontend([...children.keys()]));
  await until('two workers', async () => (await workers()).length === 2);
}, 90_000);

afterAll(async () => {
  await app?.close(1_000);
  for (const child of children.values()) await child.stop('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

it('a stopped worker: the answer goes on elsewhere token for token, the worker is out, and back when it runs again', async () => {
  const tokens = modelOf(app).preprocessor.encodeChat({ messages: conversations(1, 7)[0] ?? [], addGenerationPrompt: true, continueFinalMessage: false }).tokenIds;
  const long = { choices: 2, sampling: { ...greedy, temperature: 0.7, seedLo: 3 }, stop: stopAfter(300, { ignoreEos: true }) };
  const expected = await run(modelOf(app), request(tokens, long));
  const interrupted = request(tokens, long);
  const output = emptyOutput(2);
  let stopped: ArmatureProcess | undefined;
  const stopWorker = async (): Promise<void> => {
    const record = JSON.parse((await app.admin.handle(`/requests/${interrupted.id}`, new URLSearchParams())).body) as { decisions: { chosen: string }[] };
    const address = (await workers()).find(({ instanceId }) => instanceId === record.decisions[0]?.chosen)?.address ?? '';
    stopped = children.get(Number(/:(\d+)\//.exec(address)?.[1]));
    stopped?.child.kill('SIGSTOP');
  };
  await new Promise<void>((resolve) => {
    const sink = collect(output, resolve);
    let isStopped = false;
    modelOf(app).execute(interrupted, {
      end: sink.end,
      tokens: (batch) => {
        sink.tokens(batch);
        if (isStopped || (output.tokens[0]?.length ?? 0) < 10) return;
        isStopped = true;
        void stopWorker();
      },
    });
  });
  expect(stopped).toBeDefined();
  expect([output.tokens, output.end?.type, output.ends]).toEqual([expected.tokens, 'finished', 1]);
  const { moves } = JSON.parse((await app.admin.handle(`/requests/${interrupted.id}`, new URLSearchParams())).body) as { moves: { code: string; choice: number; addedMs: number }[] };
  expect(moves.map(({ code, choice }) => [code, choice])).toEqual([['PLANE_DISCONNECTED', 0], ['PLANE_DISCONNECTED', 1]]);
  console.log(`added latency of the moved choices: ${moves.map(({ addedMs }) => Math.round(addedMs)).join(', ')} ms, with pings every 200 ms and a deadline of 1000 ms`);
  // Registered over its connection, it has gone with that; `failover.test.ts` has workers that stay registered.
  expect((await workers()).filter(({ isInhibited }) => !isInhibited)).toHaveLength(1);
  const meanwhile = await run(modelOf(app), request(tokens, long));
  expect(meanwhile.tokens).toEqual(expected.tokens); // nobody is sent to it meanwhile
  stopped?.child.kill('SIGCONT');
  await until('both workers serve', async () => (await workers()).filter(({ isInhibited }) => !isInhibited).length === 2);
  expect(await metric(app, 'armature_migrations_total')).toBe(1);
  expect((await run(modelOf(app), request(tokens, long))).tokens).toEqual(expected.tokens);
}, 90_000);
