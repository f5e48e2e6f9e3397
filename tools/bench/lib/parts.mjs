// A cluster of real processes for a benchmark: one child per part of a file, so that each can be stopped, killed and started again.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
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

/** `parts` as `serve --only` names them; `yaml({folder, port, adminPort})` is their file. `url` and `adminUrl` are the frontend's. */
export async function startParts({ root, parts, yaml }) {
  const folder = mkdtempSync(join(tmpdir(), 'armature-bench-'));
  const [port, adminPort] = [await freePort(), await freePort()];
  const file = join(folder, 'cluster.yaml');
  writeFileSync(file, yaml({ folder, port, adminPort }));
  const children = new Map();
  const adminUrl = `http://127.0.0.1:${adminPort}`;

  async function start(part) {
    const child = spawn(process.execPath, [join(root, 'packages/cli/bin/armature.js'), 'serve', '-f', file, '--only', part, ...(part === 'frontend' ? [] : ['--admin-port', '0'])], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ARMATURE_LOG_LEVEL: 'warn' },
    });
    children.set(part, child);
    let text = '';
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${part} did not start:\n${text}`)), START_TIMEOUT_MS);
      const hear = (chunk) => {
        text = `${text}${chunk}`.slice(-10_000);
        if (!text.includes(READY)) return;
        clearTimeout(timer);
        resolve();
      };
      child.stdout.on('data', hear);
      child.stderr.on('data', hear);
      child.once('exit', (code) => reject(new Error(`${part} ended with ${code}:\n${text}`)));
    });
  }

  /** Resolves when the process is gone. */
  async function kill(part, signal = 'SIGKILL') {
    const child = children.get(part);
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  }

  async function close() {
    await Promise.all([...children.keys()].map((part) => kill(part)));
    rmSync(folder, { recursive: true, force: true });
  }

  const admin = async (path) => (await fetch(`${adminUrl}${path}`)).json();

  /** Waits until exactly these workers (`POOL/INDEX`) get requests. */
  async function untilRoutable(workers) {
    const deadline = performance.now() + START_TIMEOUT_MS;
    for (;;) {
      const rows = await admin('/workers');
      const routable = rows.filter(({ isInhibited }) => !isInhibited).map(({ instanceId }) => instanceId.split('@')[0]);
      if (routable.sort().join() === [...workers].sort().join()) return;
      if (performance.now() > deadline) throw new Error(`the workers are ${routable.join(', ')}, and ${workers.join(', ')} were expected`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  try {
    for (const part of parts) await start(part);
  } catch (error) {
    await close();
    throw error;
  }
  return { url: `http://127.0.0.1:${port}`, admin, start, kill, signal: (part, name) => children.get(part).kill(name), untilRoutable, close };
}

/** One streamed completion; times in milliseconds from its begin. Throws unless it ends as it should. `onText` hears how many pieces there were. */
export async function streamed(url, body, onText = () => undefined) {
  const startedAt = performance.now();
  const response = await fetch(`${url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ ...body, stream: true, ignore_eos: true }) });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const decoder = new TextDecoder();
  let [rest, text, pieces, firstMs, finish] = ['', '', 0, NaN, null];
  for await (const bytes of response.body) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue;
      const { choices, error } = JSON.parse(line.slice(6));
      if (error !== undefined) throw new Error(JSON.stringify(error));
      const choice = choices?.[0];
      if (choice === undefined) continue;
      if (pieces === 0) firstMs = performance.now() - startedAt;
      text += choice.text;
      finish = choice.finish_reason ?? finish;
      onText(++pieces);
    }
  }
  if (finish !== 'length') throw new Error(`an answer ended with ${finish} after ${pieces} pieces`);
  return { text, firstMs, totalMs: performance.now() - startedAt, requestId: response.headers.get('x-request-id') };
}

export function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}
