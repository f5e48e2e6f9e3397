import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { armature } from './support/process.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-config-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const head = 'apiVersion: armature/v1\n';
const model = (more: string): string => `${head}models:\n  - name: demo\n    source: "@armature/model-demo"\n${more}`;

describe('bad input: a clear error, an exit code by class, nothing half-started', () => {
  it('reports every problem at once, with file, line, column and the nearest key', async () => {
    const path = file(
      'many.yaml',
      `${head}admn: { port: 1 }\nmodels:\n  - name: demo\n    source: "@armature/model-demo"\n    routr: { use: kv }\n    router: { use: kv2 }\n    workers:\n      - { name: a, replicas: -1, engine: { use: reference } }\n      - { name: a, engine: { use: nope } }\n`,
    );
    const ended = await armature(['config', 'check', path]);
    expect(ended.code).toBe(3);
    const text = ended.stdout + ended.stderr;
    expect(text).toContain('many.yaml:2:1');
    expect(text).toContain('did you mean "admin"');
    expect(text).toContain('many.yaml:6:5');
    expect(text).toContain('did you mean "router"');
    expect(text).toMatch(/kv2/);
    expect(text).toMatch(/nope/);
    expect(text).toMatch(/replicas/);
    expect(text).toMatch(/CONFIG_DUPLICATE_NAME/);
  });

  it.each([
    ['not YAML', 'a: [1,\n', 3, 'CONFIG_'],
    ['another apiVersion', 'apiVersion: armature/v9\nmodels: []\n', 3, 'CONFIG_'],
    ['an unknown engine', model('    workers: [{ name: a, engine: { use: refrence } }]\n'), 3, 'did you mean "reference"'],
    ['two pools of one name', model('    workers: [{ name: a, engine: { use: mock } }, { name: a, engine: { use: mock } }]\n'), 3, 'CONFIG_DUPLICATE_NAME'],
    ['a missing model folder', `${head}models:\n  - { name: demo, source: ./nowhere, workers: [] }\n`, 5, 'MODEL_NOT_FOUND'],
    ['a missing environment variable', `${head}admin: { port: "\${NO_SUCH_PORT}" }\nmodels: [{ name: a, source: x }]\n`, 3, 'NO_SUCH_PORT'],
  ])('serve with %s', async (_what, text, code, says) => {
    const ended = await armature(['serve', '-f', file('one.yaml', text)]);
    expect(ended.stderr).toContain(says);
    expect(ended.code).toBe(code);
  });

  it('a file that does not exist', async () => {
    const ended = await armature(['serve', '-f', join(folder, 'missing.yaml')]);
    expect(ended.code).toBe(3);
    expect(ended.stderr).toContain('CONFIG_FILE_UNREADABLE');
  });

  it('wrong usage', async () => {
    expect((await armature(['serv'])).code).toBe(2);
    expect((await armature(['serve'])).code).toBe(2);
    expect((await armature(['config', 'check'])).code).toBe(2);
  });

  it('chat without a server', async () => {
    const ended = await armature(['chat', '--url', 'http://127.0.0.1:9', 'Hello']);
    expect(ended.code).toBe(7);
    expect(ended.stderr).toContain('CHAT_UNREACHABLE');
  });

  it('good files pass, and can be printed and explained', async () => {
    for (const good of ['deploy/quickstart.yaml', 'deploy/aggregated.yaml', 'deploy/cluster.yaml', 'deploy/heterogeneous.yaml']) expect((await armature(['config', 'check', '-f', good])).code).toBe(0);
    expect((await armature(['config', 'explain', 'models.router'])).stdout).toContain('router-policy');
    const schema = JSON.parse((await armature(['config', 'schema'])).stdout) as { properties: object };
    expect(Object.keys(schema.properties)).toContain('models');
  });
});

describe('a plug-in that throws', () => {
  it.each([
    ['create', 'PLUGIN_CREATE_FAILED', "create: () => { throw new TypeError('no luck'); }"],
    ['start', 'PLUGIN_START_FAILED', "create: () => ({ name: 'bad', supports: { deterministic: true }, score() {}, start() { throw new TypeError('no luck'); } })"],
  ])('in %s is named, with exit code 4 and no stack', async (_where, code, create) => {
    const plugin = file(
      'bad.mjs',
      `export default Object.freeze({ [Symbol.for('armature/plugin')]: true, kind: 'router-policy', contract: 'v1', name: 'bad', description: 'x', configSchema: { type: 'object' }, ${create} });\n`,
    );
    const ended = await armature(['serve', '-f', file('bad.yaml', model('    router: { use: bad }\n    workers: [{ name: a, engine: { use: mock } }]\n').replace('models:', `plugins: [${JSON.stringify(plugin)}]\nmodels:`))]);
    expect(ended.stderr).toContain(code);
    expect(ended.stderr).toContain('"bad"');
    expect(ended.stderr).toContain('no luck');
    expect(ended.stderr).not.toMatch(/\n\s+at /);
    expect(ended.code).toBe(4);
  });
});
