import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterAll, describe, expect, it } from 'vitest';
import { armature, ArmatureProcess, freePort, root } from './support/process.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-up-'));
const children: ArmatureProcess[] = [];
afterAll(async () => {
  for (const child of children) if (child.child.exitCode === null) await child.stop('SIGTERM');
  rmSync(folder, { recursive: true, force: true });
});

/** Mock engines at full speed: what is looked at here is processes, not tokens. */
const cluster = (port: number, adminPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
events: { use: zmq }
requests: { use: tcp, config: { token: up-secret, pingIntervalMs: 200, pingDeadlineMs: 1000 } }
transports: [{ use: tcp, config: { token: up-secret } }]
models:
  - name: demo
    source: ${JSON.stringify(`${root}packages/model-demo/model`)}
    workers:
      - { name: prefill, role: prefill, engine: { use: mock } }
      - { name: decode, role: decode, replicas: 2, engine: { use: mock } }
`;

interface Worker {
  readonly instanceId: string;
}

async function until(what: string, check: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!(await check().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}\n${children.map((child) => child.output.slice(-4000)).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

describe('armature up', () => {
  it('runs every part as a process; two frontends share a port; a killed worker comes back; no request fails', async () => {
    const [port, adminPort] = [await freePort(), await freePort()];
    const file = join(folder, 'cluster.yaml');
    writeFileSync(file, cluster(port, adminPort));
    const up = new ArmatureProcess(['up', '-f', file, '--frontends', '2']);
    children.push(up);
    await up.until('every part is ready', 60_000);
    const client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none', maxRetries: 0 });
    const workers = async (): Promise<Worker[]> => (await fetch(`http://127.0.0.1:${adminPort}/workers`)).json() as Promise<Worker[]>;
    await until('three workers', async () => (await workers()).length === 3);
    const ask = async (): Promise<string | null> => (await client.completions.create({ model: 'demo', prompt: 'My cat is called Biscuit.', max_tokens: 8 })).choices[0]?.finish_reason ?? null;
    expect(await Promise.all(Array.from({ length: 24 }, ask))).toEqual(Array(24).fill('length'));

    const before = new Set((await workers()).map(({ instanceId }) => instanceId));
    const pid = /decode\/1 +\| started, pid (\d+)/.exec(up.output)?.[1];
    process.kill(Number(pid), 'SIGKILL');
    await up.until(/decode\/1 +\| ended \(signal SIGKILL\); starts again/);
    const answers = await Promise.all(Array.from({ length: 24 }, ask));
    expect(answers).toEqual(Array(24).fill('length'));
    await until('another life of decode/1', async () => (await workers()).length === 3 && (await workers()).some(({ instanceId }) => instanceId.startsWith('decode/1@') && !before.has(instanceId)));
    expect(up.output).toMatch(/frontend\/1 +\| started, pid/);

    const ended = await up.stop('SIGTERM', 30_000);
    expect(ended.code).toBe(0);
    expect(ended.stdout).toMatch(/frontend\/0 +\| ended \(exit code 0\)/);
    expect(ended.stdout).toMatch(/decode\/0 +\| ended \(exit code 0\)/);
  }, 150_000);

  it('refuses planes that end at the border of a process, before anything starts', async () => {
    const { code, stderr, stdout } = await armature(['up', '-f', `${root}deploy/quickstart.yaml`]);
    expect([code, stdout]).toEqual([3, '']);
    expect(stderr).toContain('CONFIG_PLANE_IN_MEMORY');
    expect(stderr).toContain('requests: { use: tcp }');
  });
});
