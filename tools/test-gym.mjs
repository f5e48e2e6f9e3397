// `npm run test:gym`: the Python package armature-gym against Gymnasium's own checkers, over a real `armature planner ground`. Installs into .cache/gym.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const venv = join(root, '.cache', 'gym');
const python = join(venv, 'bin', 'python');
const REQUIRED = ['gymnasium==1.4.0', 'numpy'];
const LIMIT_MS = 300_000;

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', timeout: LIMIT_MS, ...options });
  if (result.status === 0) return;
  console.error(`test:gym: ${command} ${args.join(' ')} ended with ${result.status ?? result.error?.message}`);
  process.exit(1);
}

run(process.execPath, [join(root, 'tools/bootstrap.mjs')]);
mkdirSync(join(root, '.cache'), { recursive: true });
if (!existsSync(python)) run('python3', ['-m', 'venv', venv]);
run(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...REQUIRED, join(root, 'packages/planner/python')]);
run(python, [join(root, 'packages/planner/python/tests/check.py')], { env: { ...process.env, ARMATURE: `${process.execPath} ${join(root, 'packages/cli/bin/armature.js')}` } });
