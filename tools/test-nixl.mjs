// `npm run test:nixl`: the nixl transport against the real NVIDIA library, from PyPI, without CUDA. Installs into a cache folder once.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const VERSION = '1.5.1';
const root = fileURLToPath(new URL('..', import.meta.url));

/** Folder of the unpacked wheel, or why there is none. */
export function installNixl() {
  if (process.env.ARMATURE_NIXL_LIBRARY) return { folder: process.env.ARMATURE_NIXL_LIBRARY };
  const cache = join(process.env.XDG_CACHE_HOME || join(os.homedir(), '.cache'), 'armature', 'nixl');
  const folder = join(cache, VERSION);
  if (existsSync(folder)) return { folder };
  if (process.platform !== 'linux') return { reason: `NIXL is for Linux, this is ${process.platform}` };
  const scratch = join(cache, `.download-${process.pid}`);
  try {
    mkdirSync(scratch, { recursive: true });
    const quiet = { encoding: 'utf8', timeout: 600_000 };
    const pip = ['-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps', '--only-binary', ':all:', '-d', scratch];
    // The libraries inside do not depend on the version of Python: any wheel of this platform does.
    const plain = spawnSync('python3', [...pip, `nixl-cu12==${VERSION}`], quiet);
    if (plain.error) return { reason: `python3 is needed to fetch the wheel: ${plain.error.message}` };
    const any = plain.status === 0 ? plain : spawnSync('python3', [...pip, '--python-version', '3.11', '--implementation', 'cp', '--abi', 'cp311', `nixl-cu12==${VERSION}`], quiet);
    const wheel = readdirSync(scratch).find((name) => name.endsWith('.whl'));
    if (any.status !== 0 || wheel === undefined) return { reason: `pip cannot fetch nixl-cu12==${VERSION}: ${any.stderr.trim().split('\n').at(-1)}` };
    const unpacked = spawnSync('python3', ['-c', 'import sys,zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])', join(scratch, wheel), join(scratch, 'out')], quiet);
    if (unpacked.status !== 0) return { reason: `cannot unpack ${wheel}: ${unpacked.stderr.trim().split('\n').at(-1)}` };
    renameSync(join(scratch, 'out'), folder);
    return { folder };
  } catch (error) {
    return existsSync(folder) ? { folder } : { reason: error.message };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function main() {
  const installed = installNixl();
  if (installed.folder === undefined) {
    console.log(`skipped nixl: ${installed.reason}`);
    return 0;
  }
  const run = (words, env = {}) => spawnSync(process.execPath, words, { cwd: root, stdio: 'inherit', env: { ...process.env, NIXL_LOG_LEVEL: 'fatal', ARMATURE_NIXL_LIBRARY: installed.folder, ...env } }).status ?? 1;
  const built = run([join(root, 'node_modules/typescript/bin/tsc'), '-b', 'packages/nixel-nixl']);
  if (built !== 0) return built;
  const vitest = [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'tools/vitest.nixl.config.ts'];
  const only = process.argv.slice(2);
  if (only.length > 0) return run([...vitest, ...only]);
  const routes = [
    [[...vitest, 'contract', 'two-processes'], { ARMATURE_NIXL_ROUTE: 'default' }],
    [[...vitest, 'two-processes'], { ARMATURE_NIXL_ROUTE: 'tcp', UCX_TLS: 'tcp' }],
    [[...vitest, 'two-processes'], { ARMATURE_NIXL_ROUTE: 'cma', UCX_TLS: 'posix,cma' }],
  ];
  return routes.map(([words, env]) => run(words, env)).find((status) => status !== 0) ?? 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exit(main());
