import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { armature, ArmatureProcess, freePort, root } from './support/process.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-roles-'));
const file = join(folder, 'cluster.yaml');
let up: ArmatureProcess;
let admin = '';
let client: OpenAI;

const cluster = (port: number, adminPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
events: { use: zmq }
requests: { use: tcp, config: { token: roles-secret, pingIntervalMs: 200, pingDeadlineMs: 2000 } }
transports: [{ use: tcp, config: { token: roles-secret } }]
models:
  - name: demo
    source: ${JSON.stringify(`${root}packages/model-demo/model`)}
    workers:
      - { name: prefill, role: prefill, replicas: 2, engine: { use: mock, config: { speedup: 1 } } }
      - { name: decode, role: decode, replicas: 2, engine: { use: mock, config: { speedup: 1 } } }
`;

interface Worker {
  readonly instanceId: string;
  readonly role: string;
}
interface Record {
  readonly decisions: readonly { readonly hop: string; readonly chosen: string }[];
}

beforeAll(async () => {
  const [port, adminPort] = [await freePort(), await freePort()];
  admin = `http://127.0.0.1:${adminPort}`;
  writeFileSync(file, cluster(port, adminPort));
  up = new ArmatureProcess(['up', '-f', file]);
  await up.until('every part is ready', 90_000);
  client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none', maxRetries: 0 });
  await until('four workers', async () => (await workers()).length === 4);
}, 120_000);

afterAll(async () => {
  if (up !== undefined && up.child.exitCode === null) await up.stop('SIGTERM', 30_000);
  rmSync(folder, { recursive: true, force: true });
});

const workers = async (): Promise<Worker[]> => (await fetch(`${admin}/workers`)).json() as Promise<Worker[]>;
const roles = async (): Promise<string[]> => (await workers()).map(({ instanceId, role }) => `${instanceId.split('@')[0]} ${role}`).sort();
const change = (worker: string, role: string, deadlineMs = 200) => armature(['role', worker, role, '-f', file, '--deadline-ms', String(deadlineMs), '--json']);

async function until(what: string, check: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 45_000;
  while (!(await check().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}; ${JSON.stringify(await workers().catch(String))}\n${up.output.slice(-6000)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Requests one after the other on `lanes` lanes, until stopped: how many were answered, and every failure. */
function load(lanes: number): { readonly answered: () => number; stop(): Promise<string[]> } {
  let answered = 0;
  const stopping = new AbortController();
  const failures: string[] = [];
  const lane = async (number: number): Promise<void> => {
    for (let i = 0; !stopping.signal.aborted; i++) {
      try {
        const answer = await client.completions.create({ model: 'demo', prompt: `Lane ${number}, request ${i}: my cat is called Biscuit and sleeps on the warm roof.`, max_tokens: 24 });
        if (answer.choices[0]?.finish_reason !== 'length' || answer.usage?.completion_tokens !== 24) failures.push(`lane ${number}: ${JSON.stringify(answer)}`);
        answered++;
      } catch (error) {
        failures.push(String(error));
      }
    }
  };
  const running = Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)));
  return {
    answered: () => answered,
    stop: async () => {
      stopping.abort();
      await running;
      return failures;
    },
  };
}

/** Answers that take longer than a command; on both decode workers. */
const longAnswers = (): Promise<(string | null | undefined)[]> =>
  Promise.all(
    Array.from({ length: 8 }, async (_, i) => {
      const answer = await client.completions.create({ model: 'demo', prompt: `${i}: tell me everything about cats.`, max_tokens: 2_000 });
      return answer.usage?.completion_tokens === 2_000 ? answer.choices[0]?.finish_reason : `only ${answer.usage?.completion_tokens} tokens`;
    }),
  );

describe('armature role', () => {
  it('makes a decode worker a prefill worker and back under load: no request fails, prefills go to it, a long answer moves on', async () => {
    const before = (await workers()).find(({ instanceId }) => instanceId.startsWith('decode/1@'))?.instanceId;
    const traffic = load(8);
    await until('answers', async () => traffic.answered() > 20);
    const long = longAnswers();
    const there = await change('decode/1', 'prefill', 0);
    expect([there.code, there.stderr]).toEqual([0, expect.stringContaining('decode/1 drains')]);
    const changed = JSON.parse(there.stdout) as { instanceId: string; role: string; moved: number };
    expect(changed).toMatchObject({ instanceId: expect.stringMatching(/^decode\/1@/), role: 'prefill' });
    expect(changed.instanceId).not.toBe(before);
    expect(changed.moved).toBeGreaterThan(0); // with a deadline of 0 what runs is told to move on
    await until('the new role', async () => (await roles()).includes('decode/1 prefill'));
    expect(await roles()).toEqual(['decode/0 decode', 'decode/1 prefill', 'prefill/0 prefill', 'prefill/1 prefill']);
    await until('prefills on it', async () => {
      const records = (await (await fetch(`${admin}/requests?limit=200`)).json()) as Record[];
      return records.some(({ decisions }) => decisions.some(({ hop, chosen }) => hop === 'prefill' && chosen === changed.instanceId));
    });

    const listed = await armature(['workers', '-f', file]);
    expect(listed.stdout).toMatch(new RegExp(`demo +${changed.instanceId} +prefill +mock +1x default +[\\d.]+ +- +\\d+\\+\\d+ +\\d+/16384 +tcp://`));

    const back = await change('decode/1', 'decode');
    expect(back.code).toBe(0);
    await until('the old role', async () => (await roles()).includes('decode/1 decode'));
    const answered = traffic.answered();
    await until('answers after it', async () => traffic.answered() > answered + 20);
    expect(await traffic.stop()).toEqual([]);
    expect(await long).toEqual(Array(8).fill('length'));
  }, 150_000);

  it('keeps the minimum of a role, also for two who ask at once; refuses what is not there', async () => {
    expect((await change('decode/1', 'decode')).code).toBe(0); // it has that role
    const both = await Promise.all([change('decode/0', 'prefill'), change('decode/1', 'prefill')]);
    expect(both.map(({ code }) => code).sort()).toEqual([0, 7]);
    expect(both.map(({ stderr }) => stderr).join('')).toContain('CONTROL_ROLE_MINIMUM');
    await until('one decode worker', async () => (await roles()).filter((line) => line.endsWith(' decode')).length === 1 && (await workers()).length === 4);
    const moved = (await roles()).find((line) => line.startsWith('decode') && line.endsWith('prefill'))?.split(' ')[0] ?? '';
    expect((await change(moved, 'decode')).code).toBe(0);
    expect((await change('decode/7', 'prefill')).stderr).toMatch(/it has: decode\/0, decode\/1[^]*CONTROL_WORKER_UNKNOWN/);
    expect((await change('decode/1', 'cook')).stderr).toContain('USAGE_ROLE_UNKNOWN');
  }, 150_000);

  it('killed in the middle of a change: who asked is told, the worker comes back as configured, no request fails', async () => {
    const traffic = load(8);
    await until('answers', async () => traffic.answered() > 5);
    const long = longAnswers();
    await until('both decode workers have legs', async () => traffic.answered() > 15);
    const asked = new ArmatureProcess(['role', 'decode/1', 'prefill', '-f', file, '--deadline-ms', '60000']);
    await asked.until('decode/1 drains');
    const pid = Number([...up.output.matchAll(/decode\/1 +\| started, pid (\d+)/g)].at(-1)?.[1]);
    process.kill(pid, 'SIGKILL');
    const ended = await asked.ended;
    expect([ended.code, ended.stderr]).toEqual([7, expect.stringContaining('PLANE_DISCONNECTED')]);
    await until('as configured', async () => JSON.stringify(await roles()) === JSON.stringify(['decode/0 decode', 'decode/1 decode', 'prefill/0 prefill', 'prefill/1 prefill']));
    expect(await traffic.stop()).toEqual([]);
    expect(await long).toEqual(Array(8).fill('length'));
    // The lock of the change has gone with it.
    expect((await change('decode/1', 'prefill')).code).toBe(0);
    expect((await change('decode/1', 'decode')).code).toBe(0);
  }, 180_000);
});
