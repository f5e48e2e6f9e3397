// `npm run test:clients`: the official Python client, unmodified, against a real server. Installs into .cache/clients.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const venv = join(root, '.cache', 'clients');
const python = join(venv, 'bin', 'python');
const OPENAI = 'openai==3.54.0';

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

const [port, adminPort] = [await freePort(), await freePort()];
const server = spawn(process.execPath, [join(root, 'packages/cli/bin/armature.js'), 'serve', '-f', 'deploy/quickstart.yaml'], {
  cwd: root,
  env: { ...process.env, ARMATURE_PORT: String(port), ARMATURE_ADMIN_PORT: String(adminPort) },
  stdio: ['ignore', 'pipe', 'inherit'],
});
const ready = new Promise((resolve, reject) => {
  let text = '';
  server.stdout.on('data', (chunk) => {
    text += chunk;
    if (text.includes('Ctrl-C stops')) resolve();
  });
  server.on('exit', (code) => reject(new Error(`the server ended with ${code}`)));
});
const timer = setTimeout(() => server.kill('SIGKILL'), 300_000);
await ready;
const result = spawnSync(python, [join(root, 'tools/clients/openai_client.py'), `http://127.0.0.1:${port}/v1`], { cwd: root, stdio: 'inherit', timeout: 240_000 });
server.removeAllListeners('exit');
server.kill('SIGINT');
await new Promise((resolve) => server.on('exit', resolve));
clearTimeout(timer);
process.exit(result.status ?? 1);
