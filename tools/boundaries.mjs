// Holds the package boundaries: ESLint with Nx's project graph over all sources, then a planted violation that must be found.
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const env = { ...process.env, NX_DAEMON: 'false', NX_TUI: 'false' };
const node = (...args) => spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', env, maxBuffer: 1 << 26 });
const eslint = (...files) => node(join(root, 'node_modules/eslint/bin/eslint.js'), ...files);

function fail(message) {
  console.error(message);
  process.exit(1);
}

// The rule is silently skipped without a cached graph: make one first.
const graph = node(join(root, 'node_modules/nx/dist/bin/nx.js'), 'graph', '--file=.nx/boundaries-graph.json');
if (graph.status !== 0) fail(`nx graph failed\n${graph.stdout}\n${graph.stderr}`);

const clean = eslint('packages/*/src/**/*.ts');
if (/rule will be skipped/i.test(clean.stdout + clean.stderr)) fail('eslint skipped the boundary rule: no project graph');
if (clean.status !== 0) fail(clean.stdout + clean.stderr);
console.log('boundaries: sources are clean');

const planted = join(root, 'packages/router-kv/src/planted-violation.ts');
try {
  writeFileSync(planted, "import { boot } from '@armature/core';\nexport const planted = boot;\n");
  const found = eslint(planted);
  if (found.status === 0 || !/enforce-module-boundaries/.test(found.stdout)) fail('a plug-in that imports core was not reported: the boundary rule does not work');
  console.log('boundaries: a planted violation (plug-in imports core) is reported');
} finally {
  rmSync(planted, { force: true });
}
