import { rescoreText } from '@armature/cli';
import { afterEach, expect, test } from 'vitest';
import { start } from './support/in-process.ts';
import type { App } from './support/in-process.ts';

/** `armature route`: placement for gateways that carry requests themselves, and what is said of it afterwards. */
const yaml = (frontend: string, workers = '      - { name: w, replicas: 3, engine: { use: mock } }'): string => `
apiVersion: armature/v1
admin: { port: 0 }
frontend: { use: ${frontend}, config: { port: 0 } }
models:
  - name: demo
    source: "@armature/model-demo"
    router: { use: kv }
    workers:
${workers}
`;

let app: App | undefined;
afterEach(async () => {
  await app?.close(0);
  app = undefined;
});

async function open(frontend = 'selection', workers?: string): Promise<{ url: string; admin: string }> {
  app = await start(yaml(frontend, workers));
  const { url, adminUrl } = app.deployment.summary();
  return { url: url ?? '', admin: adminUrl ?? '' };
}

interface Answer {
  readonly worker: { readonly id: string; readonly cost: number };
  readonly prompt_tokens: number;
  readonly decisions: readonly unknown[];
  readonly workers: readonly unknown[];
  readonly actualCachedTokens: number;
}

async function call<T = Answer>(url: string, method: string, body?: unknown): Promise<{ status: number; json: T }> {
  const response = await fetch(url, { method, headers: { 'content-type': 'application/json' }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  return { status: response.status, json: (await response.json()) as T };
}

const tokens = Array.from({ length: 100 }, (_, i) => i + 1);

test('selects, accounts for load until told the end, and explains the decision', async () => {
  const { url, admin } = await open();
  const chosen = new Map<string, string>();
  for (let i = 0; i < 6; i++) {
    const { status, json } = await call(`${url}/v1/selections`, 'POST', { id: `r${i}`, tokens: tokens.map((id) => id + 200 * i) });
    expect(status).toBe(200);
    expect(json).toMatchObject({ id: `r${i}`, prefill: null, prompt_tokens: 100, blocks: 6, block_size: 16, worker: { overlap_blocks: 0, overlap_tokens: 0 } });
    expect(json.worker.cost).toBeGreaterThan(0);
    chosen.set(`r${i}`, json.worker.id);
  }
  // Six cold prompts, nobody done: two for each of the three.
  const counts = [...chosen.values()].reduce((all, id) => all.set(id, (all.get(id) ?? 0) + 1), new Map<string, number>());
  expect([...counts.values()]).toEqual([2, 2, 2]);
  const loads = async (): Promise<number[]> => (await call<{ load: { requests: number } }[]>(`${admin}/workers`, 'GET')).json.map((worker) => worker.load.requests);
  expect(await loads()).toEqual([2, 2, 2]);
  expect((await call(`${url}/v1/selections/r0/prefilled`, 'POST')).status).toBe(200);
  expect((await call(`${url}/v1/selections/r0/grown`, 'POST', { output_tokens: 40 })).status).toBe(200);
  expect((await call(`${url}/v1/selections/r0`, 'DELETE')).status).toBe(200);
  expect((await call(`${url}/v1/selections/r0`, 'DELETE')).status).toBe(404);
  for (let i = 1; i < 6; i++) await call(`${url}/v1/selections/r${i}/ended`, 'POST', { cached_tokens: 0 });
  expect(await loads()).toEqual([0, 0, 0]);
  const record = (await call(`${admin}/requests/r1`, 'GET')).json;
  expect(record.decisions[0]).toMatchObject({ chosen: chosen.get('r1'), actualCachedTokens: 0, candidates: expect.arrayContaining([expect.objectContaining({ worker: chosen.get('r1') })]) });
});

test('apart: both workers are named; with the first token the prefill worker is free', async () => {
  const { url, admin } = await open('selection', '      - { name: p, role: prefill, engine: { use: mock } }\n      - { name: d, role: decode, engine: { use: mock } }');
  const loads = async (): Promise<Record<string, number>> =>
    Object.fromEntries((await call<{ pool: string; load: { requests: number } }[]>(`${admin}/workers`, 'GET')).json.map((worker) => [worker.pool, worker.load.requests]));
  const { json } = await call<{ worker: { id: string }; prefill: { id: string } }>(`${url}/v1/selections`, 'POST', { id: 'x', tokens });
  expect([json.worker.id.split('/')[0], json.prefill.id.split('/')[0]]).toEqual(['d', 'p']);
  expect(await loads()).toEqual({ p: 1, d: 1 });
  await call(`${url}/v1/selections/x/prefilled`, 'POST');
  await call(`${url}/v1/selections/x/prefilled`, 'POST');
  expect(await loads()).toEqual({ p: 0, d: 1 });
  await call(`${url}/v1/selections/x/ended`, 'POST', {});
  expect(await loads()).toEqual({ p: 0, d: 0 });
});

test('text and chats are encoded; track: false leaves no load; overlaps answer index queries', async () => {
  const { url, admin } = await open();
  const text = await call(`${url}/v1/selections`, 'POST', { prompt: 'My cat is called Biscuit. '.repeat(8), track: false });
  expect(text.json.prompt_tokens).toBeGreaterThan(16);
  const chat = await call(`${url}/v1/selections`, 'POST', { messages: [{ role: 'user', content: 'Hello!' }], track: false });
  expect(chat.status).toBe(200);
  expect((await call<{ load: { requests: number } }[]>(`${admin}/workers`, 'GET')).json.map((worker) => worker.load.requests)).toEqual([0, 0, 0]);
  const overlaps = await call(`${url}/v1/overlaps`, 'POST', { tokens });
  expect(overlaps.json.workers).toHaveLength(3);
  expect(overlaps.json.workers[0]).toMatchObject({ overlap_blocks: 0, degraded: false });
  expect((await call(`${url}/v1/overlaps`, 'POST', { sequence_hashes: ['00000000000000ff'] })).status).toBe(200);
});

test.each([
  ['no JSON', '{', 400, 'SELECTION_REQUEST_INVALID'],
  ['nothing to route', '{}', 400, 'SELECTION_REQUEST_INVALID'],
  ['two prompts', '{"tokens":[1],"prompt":"x"}', 400, 'SELECTION_REQUEST_INVALID'],
  ['a negative token', '{"tokens":[-1]}', 400, 'SELECTION_REQUEST_INVALID'],
  ['a token over 2^32', '{"tokens":[4294967296]}', 400, 'SELECTION_REQUEST_INVALID'],
  ['hashes as numbers', '{"sequence_hashes":[1]}', 400, 'SELECTION_REQUEST_INVALID'],
  ['an unknown field', '{"tokens":[1],"modle":"demo"}', 400, 'SELECTION_REQUEST_INVALID'],
  ['a negative weight', '{"tokens":[1],"routing":{"overlap_credit":-1}}', 400, 'SELECTION_REQUEST_INVALID'],
  ['an unknown model', '{"tokens":[1],"model":"other"}', 404, 'SELECTION_MODEL_UNKNOWN'],
  ['an unknown worker', '{"tokens":[1],"routing":{"worker":"w/9@0"}}', 404, 'SERVING_WORKER_UNKNOWN'],
])('bad input: %s', async (_name, body, status, code) => {
  const { url } = await open();
  const path = body.includes('sequence_hashes') ? '/v1/overlaps' : '/v1/selections';
  const response = await fetch(`${url}${path}`, { method: 'POST', body });
  expect(response.status).toBe(status);
  expect(await response.json()).toMatchObject({ error: { code, hint: expect.any(String) } });
});

test('the export of decisions is reproduced by its own weights, and other weights choose otherwise', async () => {
  const { url, admin } = await open('openai');
  const ask = (user: string): Promise<unknown> => call(`${url}/v1/chat/completions`, 'POST', { model: 'demo', max_tokens: 4, messages: [{ role: 'user', content: user }] });
  const shared = 'My cat is called Biscuit, my dog is called Rufus and my horse is called Bandit. '.repeat(6);
  for (let i = 0; i < 12; i++) await ask(`${shared} ${'And so on. '.repeat(i % 4)}`);
  const text = await (await fetch(`${admin}/decisions.jsonl`)).text();
  const same = rescoreText(text, {});
  expect(same).toMatchObject({ decisions: 12, skipped: 0, reproduced: 12, changed: 0 });
  const blind = rescoreText(text, { overlapCredit: 0, activeRequestWeight: 5 });
  expect(blind.decisions).toBe(12);
  // Sabotage: a cost that was recorded wrongly is seen.
  const broken = rescoreText(text.replace(/"cost":(\d+)/, '"cost":9$1'), {});
  expect(broken.reproduced).toBe(11);
  const lines = (await call<Answer[]>(`${admin}/decisions?limit=3`, 'GET')).json;
  expect(lines).toHaveLength(3);
  expect(lines[0]?.actualCachedTokens).toBeGreaterThan(0);
});

test('absurd growth and broken percent escapes are answered 400 at once', async () => {
  const { url } = await open();
  await call(`${url}/v1/selections`, 'POST', { id: 'g', tokens });
  expect((await call(`${url}/v1/selections/g/grown`, 'POST', { output_tokens: 1e300 })).status).toBe(400);
  expect((await call(`${url}/v1/selections/g/grown`, 'POST', { output_tokens: 2_000_000_000 })).status).toBe(200);
  expect((await call(`${url}/v1/selections/%zz`, 'DELETE')).status).toBe(400);
});

test('rescoring leaves out what is no decision, keeps excluded workers excluded, and compares draws with the lowest cost', () => {
  const candidate = (worker: string, cost: number | null, overlapBlocks: number) => ({ worker, cost, overlapBlocks, parts: { other: cost === null ? 0 : cost }, terms: {}, degraded: false });
  const line = (more: object): string => JSON.stringify({ type: 'decision', requestId: 'r', model: 'm', hop: 'aggregated', policy: 'kv', chosen: 'a', promptTokens: 16, blocks: 1, blockSize: 16, request: {}, ...more });
  const foreign = ['', '[]', 'no json', '{"type":"decision","policy":"kv","candidates":[null]}', line({ candidates: [{}] }), line({ policy: 'random', candidates: [candidate('a', 1, 0)] })];
  expect(rescoreText(foreign.join('\n'), {})).toMatchObject({ decisions: 0, skipped: 5 });
  expect(rescoreText(line({ candidates: [candidate('a', 5, 0), candidate('b', null, 0)] }), {})).toMatchObject({ decisions: 1, reproduced: 1, changed: 0, drawn: 0 });
  expect(rescoreText(line({ candidates: [candidate('a', 5, 0), candidate('b', 2, 0)] }), {})).toMatchObject({ changed: 0, drawn: 1 });
});
