import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { plansOf } from './commands/up.ts';
import { listOf, parsePart, partsOf, selectPart } from './only.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-only-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const cluster = `# a cluster
apiVersion: armature/v1
admin: { port: 8001 }
frontend:
  use: openai
  config:
    port: \${PORT:-8000}
discovery: { use: file, config: { path: ./who } }
events: { use: memory }
requests: { use: tcp, config: { connect: ["127.0.0.1:7400"] } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
      - { name: prefill, role: prefill, engine: { use: mock } }
      - { name: decode, role: decode, replicas: 3, engine: { use: mock } }
`;
const file = (text: string): string => {
  const path = join(folder, 'cluster.yaml');
  writeFileSync(path, text);
  return path;
};

interface Selected {
  frontend?: { config: Record<string, unknown> };
  admin: { port: number };
  models: { workers: { name: string; replicas?: number; firstIndex?: number }[] }[];
}
const selected = async (only: string, options = {}): Promise<Selected> => parse(selectPart(cluster, parsePart(only), await partsOf(file(cluster)), options)) as Selected;

describe('--only', () => {
  it('the frontend alone keeps models and router, without workers', async () => {
    const config = await selected('frontend', { sharePort: true });
    expect(config.frontend?.config).toEqual({ port: '${PORT:-8000}', sharePort: true });
    expect(config.models[0]?.workers).toEqual([]);
    expect(config.admin.port).toBe(8001);
  });

  it('a pool, or one worker of it', async () => {
    const pool = await selected('workers.decode', { adminPort: 0 });
    expect([pool.frontend, pool.admin.port, pool.models[0]?.workers.map(({ name, replicas }) => [name, replicas])]).toEqual([undefined, 0, [['decode', 3]]]);
    const one = await selected('workers.decode/2');
    expect(one.models[0]?.workers).toEqual([{ name: 'decode', role: 'decode', replicas: 1, firstIndex: 2, engine: { use: 'mock' } }]);
  });

  it('a part that the file has not is refused, and those it has are named', async () => {
    const parts = await partsOf(file(cluster));
    expect(listOf(parts)).toEqual(['frontend', 'workers.prefill', 'workers.decode']);
    for (const only of ['workers.encode', 'workers.decode/3', 'planner']) {
      expect(() => selectPart(cluster, parsePart(only), parts), only).toThrow(expect.objectContaining({ code: 'USAGE_PART_UNKNOWN', hint: expect.stringContaining('workers.decode') as string }));
    }
    for (const only of ['', 'worker.decode', 'workers.', 'workers.a/b', 'workers.-x']) expect(() => parsePart(only), only).toThrow(expect.objectContaining({ code: 'USAGE_PART_UNKNOWN' }));
  });

  it('a pool of no replicas has every worker that somebody starts, unless the file limits it', async () => {
    const text = cluster.replace('replicas: 3', 'replicas: 0, firstIndex: 2');
    const parts = await partsOf(file(text));
    const { models } = parse(selectPart(text, parsePart('workers.decode/7'), parts)) as Selected;
    expect(models[0]?.workers.map(({ name, replicas, firstIndex }) => [name, replicas, firstIndex])).toEqual([['decode', 1, 7]]);
    expect(plansOf('c.yaml', parts, 1).map(({ name }) => name)).toEqual(['prefill/0', 'frontend']);
    const limited = cluster.replace('replicas: 3', 'replicas: 0, maxReplicas: 2');
    const limitedParts = await partsOf(file(limited));
    for (const [of, only] of [[parts, 'workers.decode/1'], [limitedParts, 'workers.decode/2']] as const) {
      expect(() => selectPart(text, parsePart(only), of)).toThrow(expect.objectContaining({ code: 'USAGE_PART_UNKNOWN' }));
    }
  });

  it('planes that end at the border of a process are refused', async () => {
    const without = (from: string, to: string): Promise<unknown> => partsOf(file(cluster.replace(from, to)));
    await expect(without('{ use: tcp, config: { connect: ["127.0.0.1:7400"] } }', '{ use: memory }')).rejects.toMatchObject({ code: 'CONFIG_PLANE_IN_MEMORY', message: expect.stringContaining('requests') as string });
    await expect(without(', config: { connect: ["127.0.0.1:7400"] }', '')).rejects.toMatchObject({ code: 'CONFIG_PLANE_IN_MEMORY', message: expect.stringContaining('events') as string });
    await expect(without('role: decode', 'role: dekode')).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('a planner: it keeps the pools and runs none of them; the others keep their reports', async () => {
    const planned = `${cluster.replace('models:', 'planner: { connector: { use: virtual }, models: [{ model: demo }] }\nmodels:').replace('replicas: 3,', 'replicas: 3, maxReplicas: 5,')}`;
    const parts = await partsOf(file(planned));
    const part = (only: string): Selected & { planner?: { alone?: boolean }; telemetry?: object } => parse(selectPart(planned, parsePart(only), parts)) as Selected & { planner?: { alone?: boolean }; telemetry?: object };
    const planner = part('planner');
    expect([planner.frontend, planner.planner?.alone, planner.telemetry, planner.models[0]?.workers.map(({ name }) => name)]).toEqual([undefined, true, {}, ['prefill', 'decode']]);
    const worker = part('workers.decode/4'); // beyond the replicas, within what a planner may order
    expect([worker.planner, worker.telemetry, worker.models[0]?.workers]).toMatchObject([undefined, {}, [{ name: 'decode', replicas: 1, firstIndex: 4 }]]);
    expect(() => part('workers.decode/5')).toThrow(expect.objectContaining({ code: 'USAGE_PART_UNKNOWN' }));
    expect(part('frontend').planner).toBeUndefined();
    expect(plansOf('c.yaml', parts, 1).map(({ name }) => name)).toEqual(['prefill/0', 'decode/0', 'decode/1', 'decode/2', 'planner', 'frontend']);
  });

  it('up leaves workers to the planner whose connector starts them', async () => {
    const text = cluster.replace('models:', 'planner: { connector: { use: process }, models: [{ model: demo }] }\nmodels:').replace('events: { use: memory }', 'events: { use: zmq }');
    expect(plansOf('c.yaml', await partsOf(file(text)), 1).map(({ name }) => name)).toEqual(['planner', 'frontend']);
  });

  it('up: one process per worker, several frontends share the port', async () => {
    const plans = plansOf('c.yaml', await partsOf(file(cluster)), 2);
    expect(plans.map(({ name, args }) => `${name}: ${args.slice(3).join(' ')}`)).toEqual([
      'prefill/0: --only workers.prefill/0 --admin-port 0',
      'decode/0: --only workers.decode/0 --admin-port 0',
      'decode/1: --only workers.decode/1 --admin-port 0',
      'decode/2: --only workers.decode/2 --admin-port 0',
      'frontend/0: --only frontend --share-port',
      'frontend/1: --only frontend --share-port --admin-port 0',
    ]);
  });
});
