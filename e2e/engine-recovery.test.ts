import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mock } from '@armature/backend-mock';
import { definePlugin } from '@armature/contracts';
import type { EngineBackend, EngineSink, ErrorData, PluginDescriptor } from '@armature/contracts';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { metric, modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App, Output } from './support/in-process.ts';
import { armature, ArmatureProcess, freePort, root } from './support/process.ts';

async function until(what: string, holds: () => Promise<boolean>, told: () => string = () => ''): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!(await holds().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}\n${told()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const broken: ErrorData = { code: 'ENGINE_BROKEN', message: 'broken by the test', retryable: true };

/** The mock engine, which the test can break and mend: what runs fails, what comes is refused. Its cache stays. */
class Fragile {
  isBroken = false;
  readonly engine: EngineBackend;
  readonly #running = new Map<object, EngineSink>();

  constructor(engine: EngineBackend) {
    const submit: EngineBackend['submit'] = (asked, sink) => {
      if (this.isBroken) {
        sink.end({ type: 'failed', error: broken });
        return {};
      }
      const handle = engine.submit(asked, {
        tokens: (batch) => sink.tokens(batch),
        prefilled: (handover) => sink.prefilled?.(handover),
        end: (end, eventId) => {
          this.#running.delete(handle);
          sink.end(this.isBroken && end.type === 'cancelled' ? { type: 'failed', error: broken } : end, eventId);
        },
      });
      this.#running.set(handle, sink);
      return handle;
    };
    const changed: Partial<EngineBackend> = { submit, failure: () => (this.isBroken ? broken : engine.failure()) };
    this.engine = new Proxy(engine, {
      get: (target, name: keyof EngineBackend) => {
        const value: unknown = changed[name] ?? target[name];
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  fail(): void {
    this.isBroken = true;
    for (const handle of [...this.#running.keys()]) this.engine.cancel(handle);
  }

  mend(): void {
    this.isBroken = false;
  }
}

describe('an engine that fails and recovers', () => {
  const engines: Fragile[] = [];
  const fragile: PluginDescriptor = definePlugin({
    ...mock,
    name: 'fragile',
    create: (config, context) => {
      const made = new Fragile(mock.create(config as never, context as never) as EngineBackend);
      engines.push(made);
      return made.engine;
    },
  } as typeof mock) as unknown as PluginDescriptor;
  let app: App;

  interface Worker {
    readonly instanceId: string;
    readonly pool: string;
    readonly kvStream?: unknown;
  }
  const get = async <T>(path: string): Promise<T> => JSON.parse((await app.admin.handle(path, new URLSearchParams())).body) as T;
  const workers = (): Promise<Worker[]> => get<Worker[]>('/workers');
  const prompt = (seed: number): Int32Array => Int32Array.from({ length: 640 }, (_, i) => (i * 7 + seed * 131) % 400);
  const ask = (seed: number, tokens: number): Promise<Output> => run(modelOf(app), request(prompt(seed), { id: `ask-${seed}-${tokens}`, stop: stopAfter(tokens, { ignoreEos: true }) }));
  const recordOf = (seed: number, tokens: number) => get<{ cachedTokens: number; migrations: number; decisions: { chosen: string; candidates: { worker: string; overlapBlocks: number }[] }[] }>(`/requests/ask-${seed}-${tokens}`);

  beforeAll(async () => {
    app = await start(
      `
apiVersion: armature/v1
frontend: { use: openai, config: { port: 0 } }
models:
  - name: demo
    source: "@armature/model-demo"
    router: { use: kv }
    workers:
      - { name: a, engine: { use: fragile, config: { speedup: 10 } } }
      - { name: b, engine: { use: fragile, config: { speedup: 10 } } }
`,
      { plugins: [fragile] },
    );
  }, 60_000);
  afterAll(() => app?.close(1_000));

  it('its requests move on, it leaves; well again it comes back as another life, the index knows its blocks, and requests go to them', async () => {
    await ask(1, 4);
    const first = (await recordOf(1, 4)).decisions[0]?.chosen as string;
    const index = first.startsWith('a/') ? 0 : 1;
    const engine = engines[index] as Fragile;
    const expected = await ask(1, 400);
    expect((await recordOf(1, 400)).decisions[0]?.chosen, 'its blocks draw requests').toBe(first);

    const undisturbed = ask(1, 401); // to `first` again
    await until('it runs', async () => (await get<{ instanceId: string; load: { running: number } }[]>('/engines')).some(({ instanceId, load }) => instanceId === first && load.running > 0));
    engine.fail();
    const moved = await undisturbed;
    expect([moved.end?.type, moved.tokens[0]?.slice(0, 400)]).toEqual(['finished', expected.tokens[0]]);
    expect((await recordOf(1, 401)).migrations).toBe(1);
    await until('it has left', async () => (await workers()).length === 1);
    expect([await metric(app, 'armature_worker_engine_failed'), app.health.report().components[`worker demo/${first.split('@')[0]}`]]).toMatchObject([1, { state: 'failed', reason: expect.stringContaining('ENGINE_BROKEN') as string }]);

    engine.mend();
    await until('it is back', async () => (await workers()).length === 2);
    const back = (await workers()).find(({ instanceId }) => instanceId.split('@')[0] === first.split('@')[0])?.instanceId as string;
    expect(back).not.toBe(first);
    expect([await metric(app, 'armature_worker_engine_failed'), await metric(app, 'armature_worker_engine_recoveries_total'), app.health.report().state]).toEqual([0, 1, 'ready']);

    let probe = 10; // every request its own id
    // The other one fails now: what comes goes to the one that is back, whose old blocks are in the index of its new life.
    await until('its blocks are in the index', async () => {
      const tokens = probe++;
      await ask(1, tokens);
      const { decisions } = await recordOf(1, tokens);
      return (decisions[0]?.candidates.find(({ worker }) => worker === back)?.overlapBlocks ?? 0) > 30;
    });
    (engines[1 - index] as Fragile).fail();
    await until('the other has left', async () => (await workers()).length === 1);
    await ask(1, 5);
    const hit = await recordOf(1, 5);
    expect([hit.decisions[0]?.chosen, hit.cachedTokens]).toEqual([back, 624]); // all of the 640 but the last block
  }, 120_000);
});

const folder = mkdtempSync(join(tmpdir(), 'armature-recovery-'));
const source = JSON.stringify(`${root}packages/model-demo/model`);
const upstream = (port: number): string => `
apiVersion: armature/v1
frontend: { use: openai, config: { port: ${port} } }
models:
  - name: demo
    source: ${source}
    workers: [{ name: worker, engine: { use: mock, config: { speedup: 0 } } }]
`;
const gateway = (port: number, adminPort: number, upstreamPort: number): string => `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
requests: { use: tcp, config: { token: recovery-secret } }
events: { use: zmq }
models:
  - name: demo
    source: ${source}
    workers:
      - { name: far, engine: { use: openai-server, config: { baseUrl: "http://127.0.0.1:${upstreamPort}/v1", probeIntervalMs: 100, failuresToLeave: 2 } } }
`;

describe('a server behind a worker that is stopped and started again (real processes)', () => {
  const processes: ArmatureProcess[] = [];
  const serve = async (name: string, yaml: string): Promise<ArmatureProcess> => {
    const file = join(folder, `${name}.yaml`);
    writeFileSync(file, yaml);
    const process = new ArmatureProcess(['serve', '-f', file]);
    processes.push(process);
    await process.until('Ctrl-C stops', 90_000);
    return process;
  };
  afterAll(async () => {
    for (const process of processes.reverse()) if (process.child.exitCode === null && process.child.signalCode === null) await process.stop('SIGTERM', 20_000);
    rmSync(folder, { recursive: true, force: true });
  }, 60_000);

  it('is out while it is away, as `armature workers` and /health say, and serves again afterwards without a restart of the worker', async () => {
    const [upstreamPort, port, adminPort] = [await freePort(), await freePort(), await freePort()];
    const server = await serve('upstream', upstream(upstreamPort));
    const front = await serve('gateway', gateway(port, adminPort, upstreamPort));
    const told = (): string => processes.map(({ output }) => output.slice(-3000)).join('\n');
    type Row = { readonly instanceId: string; readonly state: string; readonly code?: string };
    const rows = async (): Promise<Row[]> => JSON.parse((await armature(['workers', '-f', join(folder, 'gateway.yaml'), '--json'])).stdout) as Row[];
    const post = async (): Promise<number> => {
      const body = JSON.stringify({ model: 'demo', prompt: 'Hello there', max_tokens: 4 });
      return (await fetch(`http://127.0.0.1:${port}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body })).status;
    };
    const health = async (): Promise<string> => (await fetch(`http://127.0.0.1:${adminPort}/health`)).text();
    expect(await post()).toBe(200);
    const [before] = await rows();
    expect(before).toMatchObject({ state: 'ready', instanceId: expect.stringMatching(/^far\/0@/) as string });

    server.child.kill('SIGKILL');
    await server.ended;
    await until('it is out', async () => (await health()).includes('OPENAI_UNREACHABLE'), told);
    expect(await rows()).toMatchObject([{ instanceId: before?.instanceId, state: 'failed', code: 'OPENAI_UNREACHABLE' }]);
    expect(await post()).toBe(503);

    await serve('upstream', upstream(upstreamPort));
    await until('it is back', async () => (await post()) === 200, told);
    const after = await rows();
    expect(after).toMatchObject([{ state: 'ready' }]);
    expect(after[0]?.instanceId).not.toBe(before?.instanceId);
    expect(front.output).toContain('worker is back');
    expect(await health()).not.toContain('OPENAI_UNREACHABLE');
  }, 240_000);
});
