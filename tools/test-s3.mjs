// `npm run test:s3`: the S3 tier against a real server: versitygw, built once by Go into a cache folder; without Go, moto in a Python venv.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const VERSITYGW = 'v1.8.0';
const MOTO = '5.1.18';
const root = fileURLToPath(new URL('..', import.meta.url));
const cache = join(process.env.XDG_CACHE_HOME || join(os.homedir(), '.cache'), 'armature');

const quiet = (timeout) => ({ encoding: 'utf8', timeout });
const lastLine = (run) => run.error?.message ?? String(run.stderr).trim().split('\n').at(-1);

/** Path of the program, or why there is none. */
function installVersitygw() {
  if (process.env.ARMATURE_VERSITYGW) return { program: process.env.ARMATURE_VERSITYGW };
  const folder = join(cache, 'versitygw', VERSITYGW);
  const program = join(folder, 'versitygw');
  if (existsSync(program)) return { program };
  if (spawnSync('go', ['version'], quiet(20_000)).status !== 0) return { reason: 'go is not installed' };
  console.log(`building versitygw ${VERSITYGW} (once, some minutes)`);
  const scratch = join(cache, 'versitygw', `.build-${process.pid}`);
  mkdirSync(scratch, { recursive: true });
  try {
    const run = spawnSync('go', ['install', `github.com/versity/versitygw/cmd/versitygw@${VERSITYGW}`], { ...quiet(1_200_000), env: { ...process.env, GOBIN: scratch, GOFLAGS: '-mod=mod' } });
    if (run.status !== 0) return { reason: `go cannot build versitygw: ${lastLine(run)}` };
    mkdirSync(folder, { recursive: true });
    renameSync(join(scratch, 'versitygw'), program);
    return { program };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function installMoto() {
  const folder = join(cache, 'moto', MOTO);
  const program = join(folder, 'bin', 'moto_server');
  if (existsSync(program)) return { program };
  if (spawnSync('python3', ['-m', 'venv', folder], quiet(120_000)).status !== 0) return { reason: 'python3 with venv is not installed' };
  const run = spawnSync(join(folder, 'bin', 'pip'), ['install', '--quiet', '--disable-pip-version-check', `moto[server]==${MOTO}`], quiet(600_000));
  if (run.status === 0) return { program };
  rmSync(folder, { recursive: true, force: true });
  return { reason: `pip cannot install moto: ${lastLine(run)}` };
}

export function installServer() {
  const gateway = installVersitygw();
  if (gateway.program !== undefined) return { kind: 'versitygw', program: gateway.program };
  const moto = installMoto();
  if (moto.program !== undefined) return { kind: 'moto', program: moto.program };
  return { reason: `${gateway.reason}; ${moto.reason}` };
}

function main() {
  const server = installServer();
  if (server.program === undefined) {
    console.log(`skipped s3: ${server.reason}`);
    return 0;
  }
  // Objects carry metadata in extended attributes: the folder lies where those are (not on every tmpfs).
  mkdirSync(join(root, '.cache'), { recursive: true });
  const folder = mkdtempSync(join(root, '.cache', 's3-'));
  try {
    console.log(`s3: ${server.kind}`);
    const env = { ...process.env, ARMATURE_S3_KIND: server.kind, ARMATURE_S3_PROGRAM: server.program, ARMATURE_S3_FOLDER: folder };
    const vitest = [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'tools/vitest.s3.config.ts', ...process.argv.slice(2)];
    return spawnSync(process.execPath, vitest, { cwd: root, stdio: 'inherit', env }).status ?? 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exit(main());
