import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ModelDirectory } from '@armature/contracts';
import { modelOf, request, run, start } from './support/in-process.ts';
import { armature, ArmatureProcess, freePort, root } from './support/process.ts';

// Four processes: a front end, a prefill worker and two decode workers, of which one lacks an adapter. KV crosses from process to process. The mock engine gives each
// adapter tokens and KV of its own and checks every token of KV it reads: blocks of one adapter under another would fail with ENGINE_KV_CORRUPT.
const folder = mkdtempSync(join(tmpdir(), 'armature-adapters-'));
const file = join(folder, 'cluster.yaml');
const parts = new Map<string, ArmatureProcess>();
let api = '';
let admin = '';

const engine = (adapters: readonly string[]): string => `{ use: mock, config: { speedup: 0, kvCheck: tokens, vocabSize: 1024, adapters: [${adapters.join(', ')}] } }`;
const cluster = (port: number, adminPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
events: { use: zmq }
requests: { use: tcp, config: { token: adapter-secret, pingIntervalMs: 200, pingDeadlineMs: 2000 } }
transports: [{ use: tcp, config: { token: adapter-secret } }]
hardware:
  compute: { costPerHour: 4, gpus: 2, prefillSpeed: 3 }
models:
  - name: demo
    source: ${JSON.stringify(`${root}packages/model-demo/model`)}
    failoverWaitMs: 100
    adapters: [later]
    workers:
      - { name: prefill, role: prefill, hardware: compute, engine: ${engine(['legal', 'medical'])} }
      - { name: decode, role: decode, engine: ${engine(['legal', 'medical'])} }
      - { name: narrow, role: decode, engine: ${engine(['legal'])} }
`;

const prompt = 'The party of the first part takes two tablets before the hearing, with water, unless the court or the physician orders otherwise in writing.';

interface Answer {
  readonly status: number;
  readonly retryAfter: string | null;
  readonly id: string;
  readonly text: string;
  readonly cached: number;
  readonly code: string | undefined;
}
interface RequestRecord {
  readonly adapter?: string;
  readonly decisions: readonly { readonly hop: string; readonly chosen: string; readonly candidates: readonly { readonly worker: string }[] }[];
  readonly transfer?: { readonly outcome: string; readonly movedBlocks: number; readonly matchedBlocks: number };
}

const serve = async (only: string): Promise<void> => {
  const part = new ArmatureProcess(['serve', '-f', file, '--only', only, ...(only === 'frontend' ? [] : ['--admin-port', '0'])]);
  parts.set(only, part);
  await part.until('Ctrl-C stops', 60_000);
};
const json = async <T>(url: string): Promise<T> => (await fetch(url)).json() as Promise<T>;
const recordOf = (id: string): Promise<RequestRecord> => json(`${admin}/requests/${id}`);

async function until(what: string, check: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 45_000;
  while (!(await check().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}\n${[...parts.values()].map((part) => part.output.slice(-2000)).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function ask(model: string, text = prompt): Promise<Answer> {
  const response = await fetch(`${api}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model, prompt: text, max_tokens: 12, temperature: 0 }) });
  const body = (await response.json()) as { choices?: { text: string }[]; usage?: { prompt_tokens_details: { cached_tokens: number } }; error?: { code: string } };
  return {
    status: response.status,
    retryAfter: response.headers.get('retry-after'),
    id: response.headers.get('x-request-id') ?? '',
    text: body.choices?.[0]?.text ?? '',
    cached: body.usage?.prompt_tokens_details.cached_tokens ?? NaN,
    code: body.error?.code,
  };
}

beforeAll(async () => {
  const [port, adminPort] = [await freePort(), await freePort()];
  [api, admin] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${adminPort}`];
  writeFileSync(file, cluster(port, adminPort));
  await Promise.all(['workers.prefill', 'workers.decode', 'workers.narrow', 'frontend'].map(serve));
  await until('three workers', async () => (await json<unknown[]>(`${admin}/workers`)).length === 3);
}, 120_000);

afterAll(async () => {
  await Promise.all([...parts.values()].map((part) => (part.child.exitCode === null && part.child.signalCode === null ? part.stop('SIGTERM') : undefined)));
  rmSync(folder, { recursive: true, force: true });
});

describe('LoRA adapters over processes', () => {
  it('are listed as models with their parent, and told by workers with their hardware', async () => {
    const { data } = await json<{ data: { id: string; parent: string | null }[] }>(`${api}/v1/models`);
    expect(data.map(({ id, parent }) => `${parent}/${id}`).sort()).toEqual(['demo/later', 'demo/legal', 'demo/medical', 'null/demo']);
    const { stdout } = await armature(['workers', '-f', file, '--json']);
    const rows = JSON.parse(stdout) as { instanceId: string }[];
    const row = (pool: string): unknown => rows.find(({ instanceId }) => instanceId.startsWith(`${pool}/`));
    expect(row('prefill')).toMatchObject({ hardware: 'compute', costPerHour: 4, gpus: 2, prefillSpeed: 3, decodeSpeed: 1, adapters: ['legal', 'medical'] });
    expect(row('narrow')).toMatchObject({ hardware: 'default', gpus: 1, adapters: ['legal'] });
    expect((await armature(['workers', '-f', file])).stdout).toMatch(/prefill\/0@\S+ +prefill +mock +2x compute +4\.00 +legal,medical/);
  });

  it('one prompt under the base model and two adapters: three answers, three caches; prefilled here, decoded there', async () => {
    const names = ['demo', 'legal', 'medical'];
    const first: Answer[] = [];
    for (const name of names) first.push(await ask(name));
    expect(first.map(({ status, cached }) => [status, cached])).toEqual([[200, 0], [200, 0], [200, 0]]);
    expect(new Set(first.map(({ text }) => text))).toHaveLength(3);
    for (const [i, { id }] of first.entries()) {
      const { adapter, decisions, transfer } = await recordOf(id);
      expect([adapter, decisions.map(({ hop }) => hop), transfer?.outcome, transfer?.matchedBlocks]).toEqual([i === 0 ? undefined : names[i], ['decode', 'prefill'], 'valid', 0]);
      expect(transfer?.movedBlocks).toBeGreaterThan(1);
    }
    // The counter counts: the same name again does hit.
    const again: Answer[] = [];
    for (const name of names) again.push(await ask(name));
    expect(again.map(({ text }) => text)).toEqual(first.map(({ text }) => text));
    for (const { cached } of again) expect(cached).toBeGreaterThanOrEqual(16);
    expect([...parts.values()].filter(({ output }) => output.includes('ENGINE_KV_CORRUPT'))).toHaveLength(0);
  });

  it('only workers that have the adapter are candidates, for prefill and for decode', async () => {
    const of = async (model: string): Promise<string[]> => {
      const { decisions } = await recordOf((await ask(model)).id);
      return [...new Set(decisions.flatMap(({ candidates }) => candidates.map(({ worker }) => worker.split('@')[0]!)))].sort();
    };
    expect([await of('medical'), await of('legal'), await of('demo')]).toEqual([['decode/0', 'prefill/0'], ['decode/0', 'narrow/0', 'prefill/0'], ['decode/0', 'narrow/0', 'prefill/0']]);
  });

  it('an unknown name is 404; one that was announced and that nobody has is 503 with a code', async () => {
    expect(await ask('financial')).toMatchObject({ status: 404, code: 'model_not_found' });
    expect(await ask('later')).toMatchObject({ status: 503, code: 'SERVING_NO_ADAPTER_WORKER', retryAfter: '1' });
  });

  it('the last decode worker that has it goes: 503 for the adapter, the others are served; it comes back: 200', async () => {
    await parts.get('workers.decode')?.stop('SIGTERM');
    await until('two workers', async () => (await json<unknown[]>(`${admin}/workers`)).length === 2);
    await until('503', async () => (await ask('medical')).status === 503);
    expect(await ask('medical')).toMatchObject({ status: 503, code: 'SERVING_NO_ADAPTER_WORKER', retryAfter: '1' });
    expect([(await ask('legal')).status, (await ask('demo')).status]).toEqual([200, 200]);
    await serve('workers.decode');
    await until('200 again', async () => (await ask('medical')).status === 200);
  }, 90_000);
});

describe('names that clash', () => {
  const models = (adapters: string, announced = ''): string => `
apiVersion: armature/v1
models:
  - { name: one, source: ${JSON.stringify(`${root}packages/model-demo/model`)}, workers: [{ name: w, engine: { use: mock, config: { adapters: [${adapters}] } } }] }
  - { name: two, source: ${JSON.stringify(`${root}packages/model-demo/model`)}${announced}, workers: [{ name: w, engine: { use: mock, config: { adapters: [both, one] } } }] }
`;

  it('told by workers: a model goes before an adapter, then the order of the file decides; each name is listed once', async () => {
    const app = await start(models('both, two'));
    try {
      const directory = app.deployment as unknown as ModelDirectory;
      expect(directory.list().map(({ name, parent }) => [name, parent])).toEqual([['one', undefined], ['both', 'one'], ['two', undefined]]);
      expect(['one', 'two', 'both'].map((name) => directory.get(name)?.parent)).toEqual([undefined, undefined, 'one']);
      const { end } = await run(modelOf(app, 'both'), request(Int32Array.of(1, 2, 3)));
      expect(end).toMatchObject({ type: 'finished' });
    } finally {
      await app.close(1_000);
    }
  });

  it('within the file: refused', async () => {
    await expect(start(models('', ', adapters: [one, x, x]'))).rejects.toThrow(/CONFIG_DUPLICATE_NAME.*adapter "one"[\s\S]*CONFIG_DUPLICATE_NAME.*adapter "x"/);
  });
});
