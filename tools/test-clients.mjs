// `npm run test:clients`: the official Python client, unmodified, against a real server; and a worker written in Python. Installs into .cache/clients.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const venv = join(root, '.cache', 'clients');
const python = join(venv, 'bin', 'python');
const OPENAI = 'openai==3.54.0';
const MSGPACK = 'msgpack==1.1.2';

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.status !== 0) {
    console.error(`test:clients: ${command} ${args.join(' ')} ended with ${result.status ?? result.error?.message}`);
    process.exit(1);
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

run(process.execPath, [join(root, 'tools/bootstrap.mjs')]);
mkdirSync(join(root, '.cache'), { recursive: true });
if (!existsSync(python)) run('python3', ['-m', 'venv', venv]);
run(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', OPENAI]);

run(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', MSGPACK]);

const children = [];
const timer = setTimeout(() => {
  console.error('test:clients: took longer than five minutes');
  end(1);
}, 300_000);

/** Starts a process and waits until it says `word`. */
function start(command, args, { word, ...options }) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], ...options });
  children.push(child);
  child.said = '';
  const ready = new Promise((resolve, reject) => {
    child.stdout.on('data', (chunk) => {
      child.said += chunk;
      if (child.said.includes(word)) resolve();
    });
    child.on('exit', (code) => reject(new Error(`${args[0]} ended with ${code}`)));
  });
  ready.catch(() => undefined);
  return { child, ready };
}

async function stop(child) {
  child.removeAllListeners('exit');
  if (child.exitCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGINT');
  await gone;
}

function end(code) {
  clearTimeout(timer);
  for (const child of children) child.kill('SIGKILL');
  process.exit(code);
}

function check(script, args) {
  const result = spawnSync(python, [join(root, 'tools/clients', script), ...args], { cwd: root, stdio: 'inherit', timeout: 240_000 });
  if (result.status !== 0) end(result.status ?? 1);
}

const bin = join(root, 'packages/cli/bin/armature.js');

async function officialClient() {
  const [port, adminPort] = [await freePort(), await freePort()];
  const env = { ...process.env, ARMATURE_PORT: String(port), ARMATURE_ADMIN_PORT: String(adminPort) };
  const { child, ready } = start(process.execPath, [bin, 'serve', '-f', 'deploy/quickstart.yaml'], { env, word: 'Ctrl-C stops' });
  await ready;
  check('openai_client.py', [`http://127.0.0.1:${port}/v1`]);
  await stop(child);
}

/** A worker in another language, against the documented frames. */
async function pythonWorker() {
  const [port, planePort] = [await freePort(), await freePort()];
  const folder = mkdtempSync(join(tmpdir(), 'armature-clients-'));
  const file = join(folder, 'frontend.yaml');
  writeFileSync(
    file,
    `apiVersion: armature/v1
frontend: { use: openai, config: { port: ${port} } }
requests: { use: tcp, config: { port: ${planePort}, token: python-secret } }
models: [{ name: demo, source: ${JSON.stringify(join(root, 'packages/model-demo/model'))}, router: { use: kv } }]
`,
  );
  const frontend = start(process.execPath, [bin, 'serve', '-f', file], { word: 'Ctrl-C stops' });
  await frontend.ready;
  const refused = spawnSync(python, [join(root, 'tools/clients/python_worker.py'), `127.0.0.1:${planePort}`, 'wrong', 'demo', 'any'], { encoding: 'utf8', timeout: 30_000 });
  if (!refused.stderr.includes('PLANE_AUTH_FAILED')) {
    console.error(`test:clients: a wrong token was not refused: ${refused.stderr}`);
    end(1);
  }
  const worker = start(python, [join(root, 'tools/clients/python_worker.py'), `127.0.0.1:${planePort}`, 'python-secret', 'demo', 'any'], { word: 'registered' });
  await worker.ready;
  check('python_worker_check.py', [`http://127.0.0.1:${port}/v1`]);
  for (let i = 0; i < 100 && !worker.child.said.includes('cancelled 1'); i++) await new Promise((resolve) => setTimeout(resolve, 50));
  if (!worker.child.said.includes('cancelled 1')) {
    console.error('test:clients: the worker never heard of the cancellation');
    end(1);
  }
  console.log('ok python worker: cancelled when the client leaves');
  worker.child.removeAllListeners('exit');
  worker.child.kill('SIGKILL');
  await stop(frontend.child);
  rmSync(folder, { recursive: true, force: true });
}

await officialClient();
await pythonWorker();
end(0);
