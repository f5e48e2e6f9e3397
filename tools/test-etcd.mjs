// `npm run test:etcd [FILES]`: etcd discovery against a real etcd server, then the bench. Installs Debian's etcd once where it may.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Undefined when etcd and etcdctl can be started, else why not. */
export function installEtcd() {
  const has = () => ['etcd', 'etcdctl'].every((name) => spawnSync(name, name === 'etcd' ? ['--version'] : ['version'], { env: { ...process.env, ETCDCTL_API: '3' } }).status === 0);
  if (has()) return undefined;
  if (process.platform !== 'linux') return `etcd and etcdctl are not on the PATH, and they are installed on Debian only`;
  if (process.getuid?.() !== 0) return 'etcd and etcdctl are not on the PATH, and installing them needs root';
  const quiet = { encoding: 'utf8', timeout: 300_000, env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } };
  spawnSync('apt-get', ['update', '-qq'], quiet);
  const installed = spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'etcd-server', 'etcd-client'], quiet);
  if (installed.error) return `there is no apt-get: ${installed.error.message}`;
  return has() ? undefined : `apt-get cannot install etcd-server and etcd-client: ${(installed.stderr || installed.stdout).trim().split('\n').at(-1)}`;
}

function main() {
  const reason = installEtcd();
  if (reason !== undefined) {
    console.log(`skipped etcd: ${reason}`);
    return 0;
  }
  const run = (words) => spawnSync(process.execPath, words, { cwd: root, stdio: 'inherit' }).status ?? 1;
  const built = run([join(root, 'node_modules/typescript/bin/tsc'), '-b', 'packages/discovery-etcd']);
  if (built !== 0) return built;
  return run([join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'tools/vitest.etcd.config.ts', ...process.argv.slice(2)]);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exit(main());
