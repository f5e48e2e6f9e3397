import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isProcessGone, processIdentity } from '@armature/core';
import type { ProcessIdentity } from '@armature/core';
import type { TickRecord } from '@armature/planner';
import OpenAI from 'openai';
import { afterAll, describe, expect, it } from 'vitest';
import { armature, ArmatureProcess, freePort, root } from './support/process.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-planner-'));
const children: ArmatureProcess[] = [];
afterAll(async () => {
  for (const child of children) if (child.child.exitCode === null) await child.stop('SIGTERM', 30_000);
  for (const { process: left } of started()) if (isAlive(left)) process.kill(left.pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

/** Eight seats per worker, times of the reference's mocker. */
const cluster = (port: number, adminPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
events: { use: zmq }
requests: { use: tcp, config: { token: planner-secret } }
transports: [{ use: tcp, config: { token: planner-secret } }]
telemetry: { intervalMs: 250 }
planner:
  connector: { use: process, config: { path: ${join(folder, 'run')}, stopMs: 8000 } }
  models:
    - model: demo
      policy: { use: load, config: { decode: { up: 0.75, down: 0.4 }, prefill: { up: 100, down: 50 } } }
      intervalMs: 500
      constraints: { stabilisationTicks: 6 }
models:
  - name: demo
    source: ${JSON.stringify(`${root}packages/model-demo/model`)}
    objective: { ttftMs: 1000, itlMs: 50 }
    workers:
      - { name: all, role: both, replicas: 1, maxReplicas: 3, startupMs: 2000, engine: { use: mock, config: { maxSequences: 8 } } }
`;

interface Started {
  readonly worker: string;
  readonly process: ProcessIdentity;
}

function started(): readonly Started[] {
  const file = join(folder, 'run', 'demo.json');
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as { workers: Started[] }).workers : [];
}

/** A zombie that nobody has taken leave of is not alive. */
function isAlive(process: ProcessIdentity): boolean {
  return !isProcessGone(process, processIdentity());
}

async function until(what: string, check: () => boolean | Promise<boolean>, timeoutMs = 45_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await (async () => check())().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}\n${children.map((child) => child.output.slice(-6000)).join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Clients that ask again and again; how many is changed as it goes. */
class Load {
  readonly #client: OpenAI;
  readonly errors: string[] = [];
  answered = 0;
  wanted = 0;
  #running = 0;

  constructor(port: number) {
    this.#client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none', maxRetries: 0 });
  }

  set(clients: number): void {
    this.wanted = clients;
    while (this.#running < clients) void this.#ask(this.#running++);
  }

  async #ask(client: number): Promise<void> {
    while (client < this.wanted) {
      try {
        const answer = await this.#client.completions.create({ model: 'demo', prompt: `My cat is called Biscuit ${client}.`, max_tokens: 60 });
        if (answer.choices[0]?.finish_reason !== 'length') this.errors.push(`ended with ${answer.choices[0]?.finish_reason}`);
        this.answered++;
      } catch (error) {
        this.errors.push(String(error));
      }
    }
    this.#running--;
  }

  idle(): boolean {
    return this.#running === 0;
  }
}

describe('the planner with real processes', () => {
  it('load triples: more workers; the planner is killed: they live on and are taken up again; load falls: fewer. No request fails', async () => {
    const [port, adminPort] = [await freePort(), await freePort()];
    const file = join(folder, 'cluster.yaml');
    writeFileSync(file, cluster(port, adminPort));
    const up = new ArmatureProcess(['up', '-f', file]);
    children.push(up);
    await up.until('every part is ready', 60_000);
    const workers = async (): Promise<string[]> => ((await (await fetch(`http://127.0.0.1:${adminPort}/workers`)).json()) as { instanceId: string }[]).map(({ instanceId }) => instanceId);
    await until('the first worker', async () => (await workers()).length === 1);
    const load = new Load(port);
    load.set(4);
    await until('some answers', () => load.answered >= 8);
    expect((await workers()).length).toBe(1);

    load.set(18);
    await until('a second worker', async () => (await workers()).length >= 2);
    const before = started();
    const planner = [...up.output.matchAll(/planner +\| started, pid (\d+)/g)].at(-1)?.[1];
    process.kill(Number(planner), 'SIGKILL');
    await up.until(/planner +\| ended \(signal SIGKILL\); starts again/);
    await until('three workers', async () => (await workers()).length === 3);
    const after = started();
    expect(after.filter(({ worker }) => before.some((earlier) => earlier.worker === worker))).toEqual(before);
    await up.until('workers of an earlier life taken up');

    load.set(1);
    await until('one worker', async () => (await workers()).length === 1);
    await until('the others to have ended', () => after.every(({ worker, process: left }) => worker === 'all/0' || !isAlive(left)));
    expect(load.errors).toEqual([]);
    load.set(0);
    await until('the last answers', () => load.idle());

    const addresses = (): string[] => [...up.output.matchAll(/planner +\| +admin +(http\S+)/g)].map((match) => match[1] as string);
    await until('the second planner to say where it is', () => addresses().length === 2);
    const plannerAdmin = addresses()[1] as string;
    const ticks = (await (await fetch(`${plannerAdmin}/planner/ticks?limit=1000`)).json()) as TickRecord[];
    expect(ticks.some(({ execution, decision }) => execution.order === 'taken' && decision.state.replicas['all'] === 1)).toBe(true);
    expect(ticks.some(({ actual }) => actual?.isComplete === true && actual.requestsPerSecond > 0)).toBe(true);
    const { code, stdout } = await armature(['planner', 'explain', '--admin', plannerAdmin]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/saw +\d+\.\d+ requests\/s/);

    const { code: ended } = await up.stop('SIGTERM', 40_000);
    expect(ended).toBe(0);
    expect(started()).toEqual([]);
    expect(after.filter(({ process: left }) => isAlive(left))).toEqual([]);
  }, 240_000);
});
