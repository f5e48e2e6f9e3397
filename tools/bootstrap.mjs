// Behind `prestart` and `pretest`: installs what the lock file says, builds what changed. No dependencies, so that it runs first.
// `node tools/bootstrap.mjs --stamp` (postinstall) only records that node_modules fits the lock file.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const installStamp = join(root, 'node_modules', '.armature-install');
const buildStamp = join(root, 'node_modules', '.armature-build');

function requireNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  console.error(`Armature needs Node 20.19 or newer; this is Node ${process.versions.node}. Install a newer Node (https://nodejs.org) and run the command again.`);
  process.exit(1);
}

function digest(files) {
  const hash = createHash('sha256').update(`${process.platform} ${process.arch} ${process.versions.modules}`);
  for (const file of files) hash.update(`\0${file}\0`).update(readFileSync(join(root, file)));
  return hash.digest('hex');
}

function filesBelow(folder) {
  const entries = existsSync(join(root, folder)) ? readdirSync(join(root, folder), { withFileTypes: true }) : [];
  return entries.flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (!entry.isDirectory()) return [path];
    return ['node_modules', 'dist', 'generated', 'model'].includes(entry.name) ? [] : filesBelow(path);
  });
}

function buildInputs() {
  const sources = filesBelow('packages').filter((file) => /\/(src|assembly)\//.test(file) || /\/(package|tsconfig)\.json$/.test(file));
  return [...sources, 'tsconfig.base.json', 'tsconfig.json', 'nx.json', 'package-lock.json', 'tools/wasm.mjs'].filter((file) => existsSync(join(root, file))).sort();
}

function isStamped(stamp, value) {
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === value;
}

function run(what, command, args) {
  const started = process.hrtime.bigint();
  process.stderr.write(`armature: ${what} … `);
  const result = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    shell: process.platform === 'win32',
    maxBuffer: 1 << 28,
    env: { ...process.env, NX_DAEMON: 'false', NX_TUI: 'false' },
  });
  if (result.status !== 0) {
    console.error(`failed\n\n${result.stdout ?? ''}\n${result.stderr ?? ''}\n${command} ${args.join(' ')} ended with ${result.status ?? result.error?.message}.`);
    process.exit(1);
  }
  console.error(`done in ${(Number(process.hrtime.bigint() - started) / 1e9).toFixed(1)} s`);
}

requireNode();
const lock = digest(['package-lock.json']);
if (process.argv.includes('--stamp')) {
  mkdirSync(join(root, 'node_modules'), { recursive: true });
  writeFileSync(installStamp, lock);
  process.exit(0);
}
if (!isStamped(installStamp, lock)) run('installing dependencies (npm ci)', 'npm', ['ci', '--no-audit', '--no-fund']);
const build = digest(buildInputs());
if (!isStamped(buildStamp, build) || !existsSync(join(root, 'packages/cli/dist/index.js'))) {
  // One compiler process over all references: a quarter of the time of `nx run-many -t build`, which starts one per package.
  run('building WebAssembly', process.execPath, [join(root, 'node_modules/nx/dist/bin/nx.js'), 'run-many', '-t', 'wasm', '--parallel=2', '--output-style=static']);
  run('building', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b']);
  writeFileSync(buildStamp, build);
}
