import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { conversations } from './support/conversations.ts';
import { collect, emptyOutput, greedy, metric, modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App, Output } from './support/in-process.ts';
import { ArmatureProcess, freePort, root } from './support/process.ts';

const CONVERSATIONS = 24;

// Prefill and decode as two child processes: streams, registrations and KV events over the tcp request plane, KV over nixel's tcp transport.
const workers = (role: string, port: number): string => `
apiVersion: armature/v1
requests:
  use: tcp
  config: { port: ${port}, token: smoke-secret }
transports:
  - { use: tcp, config: { token: smoke-secret } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
      - { name: ${role}, role: ${role}, engine: { use: reference } }
`;
const frontend = (ports: readonly number[]): string => `
apiVersion: armature/v1
requests:
  use: tcp
  config: { token: smoke-secret, connect: [${ports.map((port) => `"127.0.0.1:${port}"`).join(', ')}] }
models:
  - name: demo
    source: "@armature/model-demo"
`;
const aggregated = `
apiVersion: armature/v1
models:
  - name: demo
    source: "@armature/model-demo"
    workers: [{ name: worker, engine: { use: reference } }]
`;

async function answers(app: App): Promise<Output[]> {
  const model = modelOf(app);
  const prompts = conversations(CONVERSATIONS, 5).map((messages) => model.preprocessor.encodeChat({ messages, addGenerationPrompt: true, continueFinalMessage: false }).tokenIds);
  return Promise.all(prompts.map((tokens) => run(model, request(tokens, { sampling: { ...greedy, topLogprobs: 0 }, stop: stopAfter(16) }))));
}

async function untilReady(app: App): Promise<void> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const components = (await app.admin.handle('/workers', new URLSearchParams())).body;
    if ((JSON.parse(components) as unknown[]).length === 3) return;
    if (Date.now() > deadline) throw new Error(`workers never joined: ${components}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

describe('prefill and decode in processes of their own', () => {
  const folder = mkdtempSync(join(tmpdir(), 'armature-two-'));
  const children = new Map<string, ArmatureProcess>();
  const portOf = new Map<string, number>();
  let app: App;

  beforeAll(async () => {
    const ports: number[] = [];
    for (const name of ['prefill', 'decode', 'decode-b']) {
      const role = name === 'prefill' ? 'prefill' : 'decode';
      const port = await freePort();
      ports.push(port);
      const file = join(folder, `${name}.yaml`);
      writeFileSync(file, workers(role, port).replace('"@armature/model-demo"', JSON.stringify(`${root}packages/model-demo/model`)));
      const child = new ArmatureProcess(['serve', '-f', file]);
      children.set(name, child);
      portOf.set(name, port);
      await child.until('Ctrl-C stops');
    }
    app = await start(frontend(ports));
    await untilReady(app);
  }, 60_000);

  afterAll(async () => {
    await app?.close(1_000);
    for (const child of children.values()) if (child.child.exitCode === null) await child.stop('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  it(`answers ${CONVERSATIONS} conversations as one process does, with KV moved between the processes`, async () => {
    const alone = await start(aggregated);
    const expected = await answers(alone);
    await alone.close(1_000);
    const got = await answers(app);
    expect(got.map((output) => [output.tokens, output.logprobs, output.end?.type])).toEqual(expected.map((output) => [output.tokens, output.logprobs, 'finished']));
    expect(await metric(app, 'armature_remote_prefills_total')).toBe(CONVERSATIONS);
    const records = JSON.parse((await app.admin.handle('/requests', new URLSearchParams('limit=100'))).body) as { transfer?: { movedBlocks: number; outcome: string } }[];
    expect(records).toHaveLength(CONVERSATIONS);
    expect(records.every((record) => record.transfer?.outcome === 'valid')).toBe(true);
    expect(records.reduce((sum, record) => sum + (record.transfer?.movedBlocks ?? 0), 0)).toBeGreaterThan(CONVERSATIONS);
  });

  it('routes the second turn to the prefill worker that holds the first: KV events crossed the process border', async () => {
    const model = modelOf(app);
    const tokens = model.preprocessor.encodeChat({ messages: conversations(1, 99)[0] ?? [], addGenerationPrompt: true, continueFinalMessage: false }).tokenIds;
    await run(model, request(tokens));
    const again = await run(model, request(tokens));
    expect(again.end).toMatchObject({ type: 'finished' });
    if (again.end?.type === 'finished') expect(again.end.usage.cachedTokens).toBeGreaterThanOrEqual(16);
    const records = JSON.parse((await app.admin.handle('/requests', new URLSearchParams('limit=1'))).body) as { decisions: { hop: string; candidates: { overlapBlocks: number }[] }[] }[];
    expect(records[0]?.decisions.find((decision) => decision.hop === 'prefill')?.candidates[0]?.overlapBlocks).toBeGreaterThan(0);
  });

  it('a decode worker killed in mid-answer: another one goes on, token for token', async () => {
    const model = modelOf(app);
    const tokens = model.preprocessor.encodeChat({ messages: conversations(1, 7)[0] ?? [], addGenerationPrompt: true, continueFinalMessage: false }).tokenIds;
    const long = { sampling: { ...greedy, temperature: 0.7, seedLo: 3 }, stop: stopAfter(300, { ignoreEos: true }) };
    const expected = await run(model, request(tokens, long));
    const interrupted = request(tokens, long);
    const output = emptyOutput(1);
    await new Promise<void>((resolve) => {
      const sink = collect(output, resolve);
      let isKilled = false;
      model.execute(interrupted, {
        end: sink.end,
        tokens: (batch) => {
          sink.tokens(batch);
          if (isKilled || (output.tokens[0]?.length ?? 0) < 10) return;
          isKilled = true;
          void killDecodeWorkerOf(interrupted.id);
        },
      });
    });
    expect(output.end).toMatchObject({ type: 'finished', usage: { outputTokens: 300 } });
    expect(output.tokens).toEqual(expected.tokens);
    expect(await metric(app, 'armature_migrations_total')).toBe(1);
  });

  async function killDecodeWorkerOf(requestId: string): Promise<void> {
    const record = JSON.parse((await app.admin.handle(`/requests/${requestId}`, new URLSearchParams())).body) as { transfer: { to: string } };
    const live = JSON.parse((await app.admin.handle('/workers', new URLSearchParams())).body) as { instanceId: string; address: string }[];
    const address = live.find((worker) => worker.instanceId === record.transfer.to)?.address ?? '';
    const name = [...portOf].find(([, port]) => address.includes(`:${port}/`))?.[0] ?? '';
    children.get(name)?.child.kill('SIGKILL');
  }

  it('a killed worker is gone at once, and requests fail with a code instead of hanging', async () => {
    await children.get('prefill')?.stop('SIGKILL');
    const model = modelOf(app);
    const output = await run(model, request(Int32Array.of(0, 1, 2, 3), { deadlineMs: 10_000 }));
    expect(output.end).toMatchObject({ type: 'failed' });
    if (output.end?.type === 'failed') expect(['SERVING_NO_PREFILL_WORKER', 'SERVING_NO_WORKER', 'PLANE_DISCONNECTED', 'PLANE_UNREACHABLE']).toContain(output.end.error.code);
  });
});
