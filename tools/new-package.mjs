// Writes or refreshes the fixed part of a workspace package: package.json fields, tsconfig.json references.
// Usage: node tools/new-package.mjs NAME --tag type:plugin --description "..." [--dep contracts --dep tokens]
// Run without arguments to refresh the references of every package after its dependencies changed.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

const root = new URL('../', import.meta.url);
const path = (p) => new URL(p, root);
const readJson = (p) => JSON.parse(readFileSync(path(p), 'utf8'));
const writeJson = (p, value) => writeFileSync(path(p), `${JSON.stringify(value, null, 2)}\n`);

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { tag: { type: 'string', default: 'type:plugin' }, description: { type: 'string', default: '' }, dep: { type: 'string', multiple: true, default: [] } },
});

if (positionals[0]) {
  const name = positionals[0];
  const dir = `packages/${name}/`;
  mkdirSync(path(`${dir}src/`), { recursive: true });
  if (!existsSync(path(`${dir}package.json`))) {
    const dependencies = Object.fromEntries(values.dep.map((dep) => [`@armature/${dep}`, '0.1.0']));
    writeJson(`${dir}package.json`, {
      name: `@armature/${name}`,
      version: '0.1.0',
      description: values.description,
      license: 'Apache-2.0',
      type: 'module',
      engines: { node: '>=20.19' },
      sideEffects: false,
      exports: {
        './package.json': './package.json',
        '.': { '@armature/source': './src/index.ts', types: './dist/index.d.ts', default: './dist/index.js' },
      },
      files: ['dist', '!dist/**/*.test.*', '!dist/test-support', '!dist/**/*.tsbuildinfo', 'README.md'],
      scripts: { build: 'tsc -b', prepack: 'node ../../tools/license.mjs' },
      dependencies,
      nx: { tags: [values.tag] },
    });
  }
}

// tsconfig.json of each TypeScript package: references follow the workspace dependencies in package.json.
const packages = readdirSync(path('packages/')).filter((name) => existsSync(path(`packages/${name}/package.json`)));
const typed = new Set(packages.filter((name) => readJson(`packages/${name}/package.json`).scripts?.build?.includes('tsc')));
for (const name of typed) {
  const manifest = readJson(`packages/${name}/package.json`);
  const wanted = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies, ...manifest.devDependencies });
  const references = wanted
    .filter((dep) => dep.startsWith('@armature/') && typed.has(dep.slice(10)))
    .map((dep) => ({ path: `../${dep.slice(10)}` }));
  writeJson(`packages/${name}/tsconfig.json`, {
    extends: '../../tsconfig.base.json',
    compilerOptions: { rootDir: 'src', outDir: 'dist', tsBuildInfoFile: 'dist/tsconfig.tsbuildinfo', customConditions: ['@armature/source'] },
    include: ['src/**/*.ts'],
    references,
  });
}
writeJson('tsconfig.json', { files: [], references: [...typed].sort().map((name) => ({ path: `./packages/${name}` })) });
