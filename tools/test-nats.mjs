// `npm run test:nats`: the nats event plane against a real nats-server: the one on this machine, or Debian's, unpacked into a cache folder once.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Path of a nats-server that runs here, or why there is none. */
export function findNatsServer() {
  const cache = join(process.env.XDG_CACHE_HOME || join(os.homedir(), '.cache'), 'armature', 'nats-server');
  const unpacked = join(cache, 'usr/sbin/nats-server');
  const runs = (binary) => spawnSync(binary, ['--version'], { timeout: 20_000 }).status === 0;
  const present = [process.env.ARMATURE_NATS_SERVER, 'nats-server', '/usr/sbin/nats-server', unpacked].find((binary) => binary && runs(binary));
  if (present !== undefined) return { binary: present };
  if (process.platform !== 'linux') return { reason: `no nats-server in PATH, and Debian's is for Linux, this is ${process.platform}` };
  const scratch = `${cache}.${process.pid}`;
  try {
    mkdirSync(scratch, { recursive: true });
    const run = (command, ...words) => spawnSync(command, words, { cwd: scratch, encoding: 'utf8', timeout: 300_000 });
    let download = run('apt-get', 'download', '-q', 'nats-server');
    if (download.status !== 0 && process.getuid?.() === 0) {
      run('apt-get', 'update', '-q');
      download = run('apt-get', 'download', '-q', 'nats-server');
    }
    const archive = readdirSync(scratch).find((name) => name.endsWith('.deb'));
    if (archive === undefined) return { reason: `no nats-server in PATH, and apt-get cannot fetch it: ${download.error?.message ?? download.stderr.trim().split('\n').at(-1)}` };
    const unpack = run('dpkg-deb', '-x', archive, 'out');
    if (unpack.status !== 0) return { reason: `cannot unpack ${archive}: ${unpack.error?.message ?? unpack.stderr.trim()}` };
    rmSync(cache, { recursive: true, force: true });
    renameSync(join(scratch, 'out'), cache);
    return existsSync(unpacked) && runs(unpacked) ? { binary: unpacked } : { reason: `${unpacked} does not run here` };
  } catch (error) {
    return { reason: error.message };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function main() {
  const { binary, reason } = findNatsServer();
  if (binary === undefined) {
    console.log(`skipped nats: ${reason}`);
    return 0;
  }
  const run = (...words) => spawnSync(process.execPath, words, { cwd: root, stdio: 'inherit', env: { ...process.env, ARMATURE_NATS_SERVER: binary } }).status ?? 1;
  const built = run(join(root, 'node_modules/typescript/bin/tsc'), '-b', 'packages/events-nats');
  return built === 0 ? run(join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'tools/vitest.nats.config.ts', ...process.argv.slice(2)) : built;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exit(main());
