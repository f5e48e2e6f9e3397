import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ArmatureProcess, freePort, root } from './support/process.ts';

// Two models and three pools: "large" is prefilled in one process and decoded in another, "small" has a pool without workers until somebody starts one.
const folder = mkdtempSync(join(tmpdir(), 'armature-several-'));
const file = join(folder, 'cluster.yaml');
const children: ArmatureProcess[] = [];
let api = '';
let admin = '';

const source = JSON.stringify(`${root}packages/model-demo/model`);
const cluster = (port: number, adminPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
events: { use: zmq }
requests: { use: tcp, config: { token: several-secret, pingIntervalMs: 200, pingDeadlineMs: 2000 } }
transports: [{ use: tcp, config: { token: several-secret } }]
models:
  - name: large
    source: ${source}
    workers:
      - { name: large-prefill, role: prefill, engine: { use: mock, config: { speedup: 0 } } }
      - { name: large-decode, role: decode, engine: { use: mock, config: { speedup: 0 } } }
  - name: small
    source: ${source}
    failoverWaitMs: 100
    workers:
      - { name: small, replicas: 0, engine: { use: mock, config: { speedup: 0, answerTokenIds: [5, 6, 7] } } }
`;

const start = async (args: readonly string[], ready: string): Promise<ArmatureProcess> => {
  const child = new ArmatureProcess(args);
  children.push(child);
  await child.until(ready, 90_000);
  return child;
};
const json = async <T>(url: string): Promise<T> => (await fetch(url)).json() as Promise<T>;
const workers = async (): Promise<string[]> => (await json<{ model: string; instanceId: string }[]>(`${admin}/workers`)).map(({ model, instanceId }) => `${model} ${instanceId}`).sort();

async function until(what: string, check: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 45_000;
  while (!(await check().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}\n${children.map((child) => child.output.slice(-2000)).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

interface Answer {
  readonly status: number;
  readonly retryAfter: string | null;
  readonly code: string | undefined;
  readonly tokens: number | undefined;
  readonly id: string;
}
async function ask(model: string): Promise<Answer> {
  const response = await fetch(`${api}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model, prompt: 'My cat is called Biscuit and sleeps on the warm roof of the shed.', max_tokens: 6 }) });
  const body = (await response.json()) as { usage?: { completion_tokens: number }; error?: { code: string } };
  return { status: response.status, retryAfter: response.headers.get('retry-after'), code: body.error?.code, tokens: body.usage?.completion_tokens, id: response.headers.get('x-request-id') ?? '' };
}

beforeAll(async () => {
  const [port, adminPort] = [await freePort(), await freePort()];
  [api, admin] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${adminPort}`];
  writeFileSync(file, cluster(port, adminPort));
  await start(['up', '-f', file], 'every part is ready');
  await until('two workers', async () => (await workers()).length === 2);
}, 120_000);

afterAll(async () => {
  for (const child of children.reverse()) if (child.child.exitCode === null && child.child.signalCode === null) await child.stop('SIGTERM', 30_000);
  rmSync(folder, { recursive: true, force: true });
});

describe('several models and pools', () => {
  it('each model is served by its own pools, and listed whether it has workers or not', async () => {
    const { data } = await json<{ data: { id: string }[] }>(`${api}/v1/models`);
    expect(data.map(({ id }) => id)).toEqual(['large', 'small']);
    expect(await json(`${api}/health`)).toMatchObject({ models: [{ id: 'large', ready: true }, { id: 'small', ready: false }] });
    const answer = await ask('large');
    expect(answer).toMatchObject({ status: 200, tokens: 6 });
    const record = await json<{ decisions: { hop: string; chosen: string }[]; transfer: { outcome: string } }>(`${admin}/requests/${answer.id}`);
    expect(record.decisions.map(({ hop, chosen }) => [hop, chosen.split('/')[0]])).toEqual([['decode', 'large-decode'], ['prefill', 'large-prefill']]);
    expect(record.transfer.outcome).toBe('valid');
  });

  it('the empty pool: 503 with code and Retry-After, 200 once a worker joins, 503 again when it leaves; nothing else is restarted or disturbed', async () => {
    const before = await workers();
    expect(await ask('small')).toMatchObject({ status: 503, code: 'SERVING_NO_WORKER', retryAfter: '1' });
    expect(await ask('other')).toMatchObject({ status: 404, code: 'model_not_found' });

    const worker = await start(['serve', '-f', file, '--only', 'workers.small/0', '--admin-port', '0'], 'Ctrl-C stops');
    await until('200', async () => (await ask('small')).status === 200);
    const answer = await ask('small');
    expect(answer).toMatchObject({ status: 200, tokens: 6 });
    const record = await json<{ model: string; decisions: { chosen: string }[] }>(`${admin}/requests/${answer.id}`);
    expect([record.model, record.decisions.map(({ chosen }) => chosen.split('@')[0])]).toEqual(['small', ['small/0']]);
    expect(await workers()).toEqual([...before, expect.stringContaining('small small/0@') as string]);
    expect((await ask('large')).status).toBe(200);

    await worker.stop('SIGTERM');
    await until('503', async () => (await ask('small')).status === 503);
    expect(await ask('small')).toMatchObject({ status: 503, code: 'SERVING_NO_WORKER', retryAfter: '1' });
    expect((await ask('large')).status).toBe(200);
    expect(await workers()).toEqual(before); // the same lives
    expect(children[0]?.output).not.toContain('starts again');
  }, 120_000);
});
