// Starts what the front end benchmark measures: one process with frontend and router, one with mock workers, wired over the tcp plane.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const READY = 'Ctrl-C stops';
const START_TIMEOUT_MS = 60_000;

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A child process that has said READY; `startMs` is how long that took. */
async function serve(root, folder, name, yaml) {
  const file = join(folder, `${name}.yaml`);
  writeFileSync(file, yaml);
  const startedAt = performance.now();
  const child = spawn(process.execPath, [join(root, 'packages/cli/bin/armature.js'), 'serve', '-f', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ARMATURE_LOG_LEVEL: 'warn' },
  });
  let text = '';
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${name} did not start:\n${text}`)), START_TIMEOUT_MS);
    const hear = (chunk) => {
      text += chunk;
      if (!text.includes(READY)) return;
      clearTimeout(timer);
      resolve();
    };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    child.on('exit', (code) => reject(new Error(`${name} ended with ${code}:\n${text}`)));
  });
  return { child, pid: child.pid, startMs: performance.now() - startedAt };
}

/** Frontend+router and workers in two processes. `modelFolder` holds the tokenizer; blocks of 16, KV routing, everything on. */
export async function startServers({ root, modelFolder, workers, httpServer = 'node' }) {
  const folder = mkdtempSync(join(tmpdir(), 'armature-bench-'));
  const [planePort, port] = [await freePort(), await freePort()];
  const model = (more) => `models:\n  - name: bench\n    source: ${JSON.stringify(modelFolder)}\n    blockSize: 16\n    router: { use: kv }\n${more}`;
  const engine = '{ use: mock, config: { speedup: 0, vocabSize: 32000, totalBlocks: 65536, maxModelTokens: 8192 } }';
  const workerYaml = `apiVersion: armature/v1\nrequests:\n  use: tcp\n  config: { port: ${planePort} }\n${model(`    workers:\n      - { name: worker, replicas: ${workers}, engine: ${engine} }\n`)}`;
  const frontendYaml = `apiVersion: armature/v1\nadmin: { port: 0 }\nfrontend:\n  use: openai\n  config: { port: ${port}, server: { use: ${httpServer} } }\nrequests:\n  use: tcp\n  config: { connect: ["127.0.0.1:${planePort}"] }\n${model('')}`;
  const started = [];
  const close = async () => {
    for (const { child } of started) {
      child.removeAllListeners('exit');
      if (child.exitCode !== null) continue;
      child.kill('SIGKILL');
      await new Promise((resolve) => child.once('close', resolve));
    }
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    started.push(await serve(root, folder, 'workers', workerYaml));
    started.push(await serve(root, folder, 'frontend', frontendYaml));
    await untilReady(port);
  } catch (error) {
    await close();
    throw error;
  }
  return { host: '127.0.0.1', port, pids: { frontend: started[1].pid, workers: started[0].pid }, close };
}

async function untilReady(port) {
  const deadline = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    const response = await fetch(`http://127.0.0.1:${port}/ready`);
    await response.arrayBuffer();
    if (response.ok) return;
    if (performance.now() > deadline) throw new Error('the workers never joined the frontend');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Cold `armature serve` of the quickstart until its first streamed token, in milliseconds. */
export async function coldStartMs(root) {
  const [port, adminPort] = [await freePort(), await freePort()];
  const startedAt = performance.now();
  const child = spawn(process.execPath, [join(root, 'packages/cli/bin/armature.js'), 'serve', '-f', join(root, 'deploy/quickstart.yaml')], {
    stdio: 'ignore',
    env: { ...process.env, ARMATURE_PORT: String(port), ARMATURE_ADMIN_PORT: String(adminPort), ARMATURE_LOG_LEVEL: 'error' },
  });
  try {
    const body = JSON.stringify({ model: 'demo', stream: true, max_tokens: 4, messages: [{ role: 'user', content: 'Hello!' }] });
    for (;;) {
      if (performance.now() - startedAt > START_TIMEOUT_MS) throw new Error('the quickstart never answered');
      try {
        const response = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
        const decoder = new TextDecoder();
        let text = '';
        for await (const bytes of response.body) {
          text += decoder.decode(bytes, { stream: true });
          if (/"content":"[^"]/.test(text)) return performance.now() - startedAt;
        }
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  } finally {
    child.kill('SIGKILL');
  }
}
