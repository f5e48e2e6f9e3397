import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { PluginDescriptor } from '@armature/contracts';
import { afterAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { testRoot, tracer } from '../boot.test.fixtures.ts';
import { effectiveYaml } from './effective.ts';
import { loadConfig } from './load.ts';
import type { ConfigOptions } from './load.ts';
import { configProblems, problemText } from './problems.ts';

const builtins: PluginDescriptor[] = [
  tracer('router-policy', 'fake', []),
  tracer('router-policy', 'weighted', [], {
    schema: {
      credit: { type: 'number', minimum: 0, default: 1, description: 'Weight of what is there already.' },
      inner: { type: 'array', items: { 'x-kind': 'router-policy' }, default: [], description: 'Policies inside.' },
      mode: { anyOf: [{ type: 'integer', minimum: 1 }, { const: 'auto' }], default: 'auto', description: 'How many, or auto.' },
    },
  }),
  tracer('engine-backend', 'fake', [], { schema: { apiKey: { type: 'string', 'x-secret': true, default: '', description: 'Key.' }, port: { type: 'integer', default: 1, description: 'Port.' } } }),
];

function load(configText: string, options: Partial<ConfigOptions> = {}): ReturnType<typeof loadConfig> {
  return loadConfig({ configText, root: testRoot() as never, builtins, env: {}, ...options });
}

async function problems(text: string, options: Partial<ConfigOptions> = {}): Promise<string[]> {
  const error = await load(text, options).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return configProblems(error).map(problemText);
}

describe('configuration', () => {
  it('reports every problem at once, with places and the nearest word', async () => {
    const text = `apiVersion: armature/v1
discovrey: { use: memory }
transports: [ { use: tpc } ]
models:
  - name: demo
    blokSize: 16
    router: { use: weigthed, config: {} }
    workers:
      - { name: a, role: frist, replicas: "two", engine: { use: fake, config: { prot: 1 } } }
      - { name: b }
  - name: demo
    blockSize: 0
    router: { use: weighted, config: { credit: -1, mode: 0, inner: [ { use: fak } ] } }
    workers: \${WORKERS}
plugins: [ "./nothing.js" ]
`;
    expect(await problems(text, { baseDir: tmpdir() })).toMatchInlineSnapshot(`
      [
        "config.yaml:2:1 CONFIG_UNKNOWN_KEY discovrey: unknown key "discovrey"; did you mean "discovery"?",
        "config.yaml:3:22 CONFIG_UNKNOWN_PLUGIN transports[0].use: there is no transfer-transport "tpc"; no transfer-transport is installed: name its package under plugins",
        "config.yaml:6:5 CONFIG_UNKNOWN_KEY models[0].blokSize: unknown key "blokSize"; did you mean "blockSize"?",
        "config.yaml:7:20 CONFIG_UNKNOWN_PLUGIN models[0].router.use: there is no router-policy "weigthed"; did you mean "weighted"?",
        "config.yaml:9:26 CONFIG_INVALID_VALUE models[0].workers[0].role: "frist" is not one of the allowed values; did you mean "first"?",
        "config.yaml:9:43 CONFIG_WRONG_TYPE models[0].workers[0].replicas: expected a whole number, found "two"; How many.",
        "config.yaml:9:81 CONFIG_UNKNOWN_KEY models[0].workers[0].engine.config.prot: unknown key "prot"; did you mean "port"?",
        "config.yaml:10:9 CONFIG_MISSING_KEY models[0].workers[1].engine: required key "engine" is missing; engine: What computes.",
        "config.yaml:11:11 CONFIG_DUPLICATE_NAME models[1].name: two models are named "demo"; rename one",
        "config.yaml:12:16 CONFIG_INVALID_VALUE models[1].blockSize: 0 is less than the least allowed, 1; Tokens per block.",
        "config.yaml:13:48 CONFIG_INVALID_VALUE models[1].router.config.credit: -1 is less than the least allowed, 0; Weight of what is there already.",
        "config.yaml:13:58 CONFIG_INVALID_VALUE models[1].router.config.mode: 0 is less than the least allowed, 1",
        "config.yaml:13:77 CONFIG_UNKNOWN_PLUGIN models[1].router.config.inner[0].use: there is no router-policy "fak"; did you mean "fake"?",
        "config.yaml:14:14 CONFIG_VARIABLE_MISSING models[1].workers: environment variable WORKERS is not set; set WORKERS, or write \${WORKERS:-default}",
        "config.yaml:15:12 PLUGIN_NOT_FOUND plugins[0]: there is no plug-in file "./nothing.js" (looked for /tmp/nothing.js); paths are relative to the configuration file and name a .js or .mjs file, or a package folder",
      ]
    `);
  });

  it('puts the checks of the root among the problems, with places', async () => {
    const text = 'apiVersion: armature/v1\nmodels:\n  - { name: x, workers: [] }\n  - { name: x, workers: [] }\n';
    expect(await problems(text)).toEqual(['config.yaml:4:13 CONFIG_DUPLICATE_NAME models[1].name: two models are named "x"; rename one']);
  });

  it('helps with the two slips that everybody makes at a slot', async () => {
    const text = 'apiVersion: armature/v1\nmodels:\n  - { name: a, router: weighted, workers: [] }\n  - { name: b, router: { use: weighted, credit: 2 }, workers: [] }\n';
    expect(await problems(text)).toEqual([
      'config.yaml:3:24 CONFIG_WRONG_TYPE models[0].router: expected a mapping, found "weighted"; write { use: weighted }, where the name is that of a router-policy',
      'config.yaml:4:41 CONFIG_UNKNOWN_KEY models[1].router.credit: unknown key "credit"; write it under config: { use: weighted, config: { credit: … } }',
    ]);
  });

  it.each([
    ['', 'config.yaml:1:1 CONFIG_MISSING_KEY apiVersion: required key "apiVersion" is missing; apiVersion: Version of this file format.'],
    ['apiVersion: armature/v2\nmodels: [{name: a, workers: []}]', 'config.yaml:1:13 CONFIG_INVALID_VALUE apiVersion: "armature/v2" is not one of the allowed values; write armature/v1'],
    ['- a', 'config.yaml:1:1 CONFIG_SYNTAX: the file is not a mapping of sections; begin with "apiVersion: armature/v1"'],
    ['apiVersion: armature/v1\nmodels: [\n', 'config.yaml:3:1 CONFIG_SYNTAX: Flow sequence in block collection must be sufficiently indented and end with a ]'],
    ['apiVersion: armature/v1\nmodels: [ { name: ${A} } ]', 'config.yaml:2:20 CONFIG_SYNTAX: Unexpected flow-map-start at node end; an unquoted ${…} cannot stand inside { } or [ ]: write that part over several lines'],
    ['apiVersion: armature/v1\napiVersion: armature/v1\n', 'config.yaml:2:1 CONFIG_SYNTAX: Map keys must be unique'],
    ['apiVersion: armature/v1\nmodels: &a [*a]', 'config.yaml:2:13 CONFIG_SYNTAX models[0]: an alias names the value it stands in; write the value out'],
    ['apiVersion: armature/v1\nmodels: [{name: "${A", workers: []}]', 'config.yaml:2:17 CONFIG_VARIABLE_INVALID models[0].name: "${A" is not a variable; write ${NAME} or ${NAME:-default}; $${ is a literal ${'],
  ])('names what is wrong with %j', async (text, expected) => {
    expect(await problems(text)).toContain(expected);
  });

  it('survives a file that multiplies itself through aliases', async () => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]'];
    for (let i = 1; i < 9; i++) lines.push(`a${i}: &a${i} [${Array(10).fill(`*a${i - 1}`).join(', ')}]`);
    const found = await problems(`apiVersion: armature/v1\n${lines.join('\n')}\n`);
    expect(found.some((line) => line.includes('CONFIG_TOO_LARGE'))).toBe(true);
  });

  it('replaces variables, types plain scalars afterwards, and keeps quoted ones text', async () => {
    const { graph } = await load(
      `apiVersion: armature/v1
models:
  - name: "\${NAME}-$\${x}"
    blockSize: \${SIZE}
    workers:
      - name: a
        replicas: \${N:-3}
        engine: { use: "\${ENGINE:-fake}", config: { apiKey: "\${KEY}" } }
`,
      { env: { NAME: 'demo', SIZE: '32', KEY: '0042' } },
    );
    expect(graph.config['models']).toMatchObject([{ name: 'demo-${x}', blockSize: 32, workers: [{ replicas: 3, engine: { kind: 'engine-backend', use: 'fake', path: 'models[0].workers[0].engine' } }] }]);
    expect(graph.secretValues()).toEqual(['0042']);
    const entry = graph.entries().find(({ path }) => path.endsWith('apiKey'));
    expect(entry).toMatchObject({ value: '***', origin: 'config.yaml:8, environment KEY', isSecret: true });
    expect(JSON.stringify(graph.masked())).not.toContain('0042');
  });

  it('merges anchors', async () => {
    const { graph } = await load(`apiVersion: armature/v1
models:
  - name: demo
    workers:
      - &base { name: a, replicas: 2, engine: { use: fake } }
      - { <<: *base, name: b }
`);
    expect(graph.config['models']).toMatchObject([{ workers: [{ name: 'a' }, { name: 'b', replicas: 2 }] }]);
    expect(graph.processScope.scopes[0].scopes.map((scope) => scope.slots.length)).toEqual([1, 1]);
  });

  it('prints the effective configuration with origins, and can read it again', async () => {
    const text = 'apiVersion: armature/v1\nmodels:\n  - name: demo\n    router: { use: weighted, config: { inner: [ { use: fake } ] } }\n    workers:\n      - { name: a, engine: { use: fake, config: { port: 9 } } }\n';
    const { graph } = await load(text);
    const printed = effectiveYaml(graph);
    expect(printed).toMatchInlineSnapshot(`
      "apiVersion: armature/v1 # config.yaml:1
      plugins: []
      log:
        level: info # default
        format: json # default
      models:
        - name: demo # config.yaml:3
          router:
            use: weighted # config.yaml:4
            config:
              inner:
                - use: fake # config.yaml:4
                  config: {}
              credit: 1 # default
              mode: auto # default
          workers:
            - name: a # config.yaml:6
              engine:
                use: fake # config.yaml:6
                config:
                  port: 9 # config.yaml:6
                  apiKey: "" # default
              role: both # default
              replicas: 1 # default
          blockSize: 16 # default
      discovery:
        use: memory # default
        config:
          encode: false # default
      transports: []
      "
    `);
    const again = await load(printed);
    expect(again.graph.masked()).toEqual(graph.masked());
  });

  it('exports one JSON Schema that accepts what it accepts and completes plug-in config', async () => {
    const text = 'apiVersion: armature/v1\nmodels: [ { name: demo, workers: [ { name: a, engine: { use: fake, config: { port: 2 } } } ] } ]';
    const { graph } = await load(text);
    const check = new Ajv2020({ strict: false, useDefaults: false }).compile(graph.jsonSchema());
    expect(check(parse(text))).toBe(true);
    expect(check(parse(text.replace('port: 2', 'prot: 2')))).toBe(false);
    expect(check(parse(text.replace('use: fake', 'use: fakir')))).toBe(false);
    expect(check({ ...parse(text), discovery: { use: 'memory', config: { encode: true } } })).toBe(true);
  });

  it('explains keys through lists and slots', async () => {
    const { graph } = await load('apiVersion: armature/v1\nmodels: [ { name: demo, router: { use: weighted }, workers: [ { name: a, engine: { use: fake } } ] } ]');
    expect(graph.explainKey('models.router')).toMatchObject({ type: 'router-policy plug-in', description: 'Chooses a worker.', default: { use: 'fake' }, plugins: ['fake', 'weighted'] });
    expect(graph.explainKey('models[0].router.config.credit')).toMatchObject({ type: 'number', default: 1, values: [{ path: 'models[0].router.config.credit', value: 1, origin: 'default' }] });
    expect(graph.explainKey('models.workers.replicas')).toMatchObject({ type: 'integer', values: [{ path: 'models[0].workers[0].replicas', value: 1 }] });
    expect(graph.explainKey('models.workers.engine.config.port')).toMatchObject({ type: 'integer' });
    expect(graph.explainKey('log.level')).toMatchObject({ type: 'one of', allowed: ['debug', 'info', 'warn', 'error', 'silent'] });
    expect(graph.explainKey('models.nothing')).toBeUndefined();
  });

  it('names cycles with every path, and requirements that nothing meets', async () => {
    const circular = [
      tracer('router-policy', 'fake', []),
      tracer('engine-backend', 'fake', [], { requires: [{ kind: 'preprocessor' }] }),
      tracer('discovery', 'a', [], { requires: [{ kind: 'transfer-transport' }] }),
      tracer('transfer-transport', 'b', [], { requires: [{ kind: 'discovery' }] }),
    ];
    const text = 'apiVersion: armature/v1\ndiscovery: { use: a }\ntransports: [ { use: b } ]\nmodels: [ { name: demo, workers: [ { name: x, engine: { use: fake } } ] } ]';
    expect(await problems(text, { builtins: circular })).toEqual([
      'config.yaml:2:12 PLUGIN_CYCLE discovery: plug-ins require each other: discovery (discovery "a") → transports[0] (transfer-transport "b") → discovery (discovery "a"); use another plug-in at one of these places',
      'config.yaml:4:55 PLUGIN_REQUIREMENT_MISSING models[0].workers[0].engine: engine-backend "fake" requires a preprocessor, and neither its own scope nor an outer one has one; configure a preprocessor at worker level or above',
    ]);
  });

  it('freezes what plug-ins get', async () => {
    const { graph } = await load('apiVersion: armature/v1\nmodels: [ { name: demo, workers: [] } ]');
    expect(() => ((graph.config['models'] as { name: string }[])[0].name = 'x')).toThrow(TypeError);
  });
});

describe('plug-in loader', () => {
  const folder = mkdtempSync(join(tmpdir(), 'armature-loader-'));
  const write = (path: string, text: string): void => {
    mkdirSync(join(folder, path, '..'), { recursive: true });
    writeFileSync(join(folder, path), text);
  };
  const plugin = (name: string, extra = ''): string =>
    `{ [Symbol.for('armature/plugin')]: true, kind: 'router-policy', contract: 'v1', name: '${name}', description: 'x', configSchema: { type: 'object' }, create: () => ({}) ${extra} }`;
  const config = (...names: string[]): string => `apiVersion: armature/v1\nplugins: ${JSON.stringify(names)}\nmodels: [ { name: demo, workers: [] } ]`;
  write('package.json', '{ "type": "module" }');
  write('plugins/one.js', `export default ${plugin('one')};`);
  write('plugins/many.js', `export const a = ${plugin('many-a')}; export const rest = [${plugin('many-b')}, ${plugin('many-c')}]; export const other = 1;`);
  write('node_modules/@acme/only-import/package.json', '{ "name": "@acme/only-import", "type": "module", "exports": { ".": { "import": "./entry.js" } } }');
  write('node_modules/@acme/only-import/entry.js', `export default ${plugin('acme')};`);
  write('node_modules/acme-common/package.json', '{ "name": "acme-common", "main": "main.cjs" }');
  write('node_modules/acme-common/main.cjs', `module.exports = { policy: ${plugin('common')} };`);
  write('plugins/again.js', `export default ${plugin('one')};`);
  write('plugins/none.js', 'export const answer = 42;');
  write('plugins/throws.js', `throw new Error('no licence');`);
  write('plugins/future.js', `export default ${plugin('future', ", contract: 'v9'")};`);
  write('plugins/schema.js', `export default ${plugin('schema', ", configSchema: { type: 'objekt' }")};`);

  it('loads packages and files from the folder of the configuration', async () => {
    const { graph } = await load(config('./plugins/one.js', './plugins/many.js', '@acme/only-import', 'acme-common'), { baseDir: folder });
    expect(graph.registry.names('router-policy')).toEqual(['acme', 'common', 'fake', 'many-a', 'many-b', 'many-c', 'one', 'weighted']);
  });

  it('reports what cannot be loaded among the other problems', async () => {
    const text = config('./plugins/one.js', './plugins/again.js', './plugins/none.js', './plugins/throws.js', './plugins/future.js', '@acme/missing').replace('workers: []', 'workers: [], router: { use: schema }');
    const found = await problems(`${text}\nextra: 1`.replace('"@acme/missing"', '"@acme/missing", "./plugins/schema.js"'), { baseDir: folder });
    expect(found.map((line) => line.replaceAll(folder, 'DIR'))).toMatchInlineSnapshot(`
      [
        "config.yaml:2:30 PLUGIN_DUPLICATE plugins[1]: router-policy "one" comes from "./plugins/one.js" and from "./plugins/again.js"; remove one of them; a plug-in that is to replace another needs a name of its own",
        "config.yaml:2:51 PLUGIN_INVALID plugins[2]: "./plugins/none.js" exports no plug-in (exports: answer); export what definePlugin of @armature/contracts returns",
        "config.yaml:2:71 PLUGIN_LOAD_FAILED plugins[3]: "./plugins/throws.js" threw while it was loaded: no licence; the fault is in DIR/plugins/throws.js, or in something it imports",
        "config.yaml:2:93 PLUGIN_CONTRACT_UNSUPPORTED plugins[4]: plug-in "future" of "./plugins/future.js" implements router-policy v9; this host supports v1; upgrade @armature/core, or install a version of the plug-in that fits",
        "config.yaml:2:115 PLUGIN_NOT_FOUND plugins[5]: package "@acme/missing" is not installed; run: npm install @acme/missing (in DIR), or write a path that begins with "./"",
        "config.yaml:3:38 PLUGIN_SCHEMA_INVALID models[0].router.config: the configSchema of router-policy "schema" is not a JSON Schema: schema is invalid: data/type must be equal to one of the allowed values, data/type must be array, data/type must match a schema in anyOf; correct the plug-in; schemas are draft 2020-12",
        "config.yaml:4:1 CONFIG_UNKNOWN_KEY extra: unknown key "extra"; known keys: "apiVersion", "plugins", "log", "discovery", "transports", "models"",
      ]
    `);
  });
});

describe('companion packages', () => {
  const folder = mkdtempSync(join(tmpdir(), 'armature-companion-'));
  const contracts = new URL('../../../contracts/dist/index.js', import.meta.url).href;
  writeFileSync(
    join(folder, 'apart.mjs'),
    `import { definePlugin } from ${JSON.stringify(contracts)};
     export const apart = definePlugin({ kind: 'transfer-transport', contract: 'v1', name: 'apart', description: 'd', configSchema: { type: 'object', additionalProperties: false, properties: {} }, create: () => ({}) });`,
  );
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const text = 'apiVersion: armature/v1\ntransports:\n  - use: apart\nmodels: []\n';

  it('are loaded when a file uses their name', async () => {
    const options = { baseDir: folder, companions: { apart: './apart.mjs', other: '@acme/never-looked-at' } };
    expect((await problems(text, options)).filter((line) => line.includes('apart'))).toEqual([]);
    expect((await problems(text)).filter((line) => line.includes('CONFIG_UNKNOWN_PLUGIN'))).toHaveLength(1);
  });

  it('that are not installed are named, with what to run and where they are used', async () => {
    const found = await problems(text, { baseDir: folder, companions: { apart: '@acme/apart' } });
    expect(found.find((line) => line.includes('PLUGIN_NOT_FOUND'))).toMatch(/config\.yaml:3:10 PLUGIN_NOT_FOUND transports\[0\]\.use: "apart" comes with @acme\/apart: .* npm install @acme\/apart/);
  });
});
