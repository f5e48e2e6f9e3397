import { afterEach, expect, test } from 'vitest';
import { start } from './support/in-process.ts';
import type { App } from './support/in-process.ts';

/** Wishes of one request, from the HTTP body or headers to the decision they change. */
const yaml = `
apiVersion: armature/v1
admin: { port: 0 }
frontend: { use: openai, config: { port: 0 } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
      - { name: a, taints: ["zone=a"], engine: { use: mock } }
      - { name: b, taints: ["zone=b"], engine: { use: mock } }
`;

let app: App | undefined;
afterEach(async () => {
  await app?.close(0);
  app = undefined;
});

interface Decision {
  readonly chosen: string;
  readonly request: Readonly<Record<string, unknown>>;
}

async function open() {
  app = await start(yaml);
  const { url, adminUrl } = app.deployment.summary();
  const workers = (await (await fetch(`${adminUrl}/workers`)).json()) as { instanceId: string }[];
  const ask = async (more: object, headers: Record<string, string> = {}): Promise<{ status: number; body: { error?: { message: string; param?: string } }; decision: Decision | undefined }> => {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({ model: 'demo', max_tokens: 2, messages: [{ role: 'user', content: 'Hello!' }], ...more }),
    });
    const body = (await response.json()) as { error?: { message: string; param?: string } };
    const record = await fetch(`${adminUrl}/requests/${response.headers.get('x-request-id')}`);
    const decisions = record.ok ? ((await record.json()) as { decisions: Decision[] }).decisions : [];
    return { status: response.status, body, decision: decisions[0] };
  };
  return { ask, a: workers.find((worker) => worker.instanceId.startsWith('a/'))?.instanceId ?? '', b: workers.find((worker) => worker.instanceId.startsWith('b/'))?.instanceId ?? '' };
}

test('weights and hints of nvext reach the decision', async () => {
  const { ask } = await open();
  const { status, decision } = await ask({
    nvext: { router_config_override: { overlap_score_credit: 0.25, router_temperature: 0.5, prefill_load_scale: 2, assume_kv_reuse: false }, agent_hints: { osl: 77 } },
  });
  expect(status).toBe(200);
  expect(decision?.request).toMatchObject({ overlapCredit: 0.25, temperature: 0.5, prefillLoadScale: 2, assumeKvReuse: false, expectedOutputTokens: 77 });
});

test('a worker named in the body or a header takes the request; the header wins; one that is gone is an error', async () => {
  const { ask, a, b } = await open();
  for (const name of [a, b, a]) expect((await ask({ nvext: { backend_instance_id: name } })).decision?.chosen).toBe(name);
  for (const name of [b, a]) expect((await ask({ nvext: { backend_instance_id: a } }, { 'x-dynamo-worker-instance-id': name })).decision?.chosen).toBe(name);
  const gone = await ask({ nvext: { backend_instance_id: 'a/9@00' } });
  expect(gone.status).toBeGreaterThanOrEqual(400);
  expect(gone.body.error?.message).toMatch(/a\/9@00/);
  expect(gone.decision).toBeUndefined();
});

test('required taints are kept, whoever is cheaper; nobody who has them is an error', async () => {
  const { ask, b } = await open();
  for (let i = 0; i < 4; i++) {
    const { decision } = await ask({ nvext: { routing_constraints: { required_taints: ['zone=b'] } } });
    expect(decision?.chosen).toBe(b);
    expect(decision?.request).toMatchObject({ requiredTaints: ['zone=b'] });
  }
  expect((await ask({ nvext: { routing_constraints: { required_taints: ['zone=c'] } } })).status).toBe(503);
});

test.each([
  [{ nvext: { router_config_override: { overlap_score_credit: -1 } } }, /overlap_score_credit/],
  [{ nvext: { router_config_override: { router_temperature: 'hot' } } }, /router_temperature/],
  [{ nvext: { agent_hints: { osl: 0 } } }, /osl/],
  [{ nvext: { routing_constraints: { required_taints: [7] } } }, /required_taints/],
])('%j is refused and named', async (more, field) => {
  const { ask } = await open();
  const { status, body } = await ask(more);
  expect(status).toBe(400);
  expect(`${body.error?.param} ${body.error?.message}`).toMatch(field);
});
