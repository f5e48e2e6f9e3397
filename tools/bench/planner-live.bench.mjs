// The planner on real processes: `armature up` with the process connector and backend-mock workers, a load that triples and shifts from short to long prompts and back, against
// static splits of the same workers under the same load. Options: --policy optimize --phase 40 (seconds) --static 3+3,4+3,5+4
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SeededRandom } from '../../packages/core/dist/index.js';

export const description = 'planner with real worker processes against static splits: requests in time, worker-hours';
export const packages = ['cli'];

const OBJECTIVE = { ttftMs: 2_000, itlMs: 60, quantile: 0.9 };
/** Requests per second, prompt and output tokens. */
const PHASES = [
  { name: 'quiet', rate: 2, prompt: 100, output: 60 },
  { name: 'three times, long prompts', rate: 6, prompt: 600, output: 20 },
  { name: 'three times, long answers', rate: 6, prompt: 100, output: 120 },
  { name: 'quiet', rate: 2, prompt: 100, output: 60 },
];
/** 0.8 ms per prompt token; eight seats, 25 ms per token. */
const ENGINE = '{ use: mock, config: { vocabSize: 1024, totalBlocks: 4096, maxSequences: 8, prefillCoefficients: [0, 0.8, 10], decodeCoefficients: [0, 0, 25] } }';

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function yaml({ folder, port, adminPort, prefill, decode, policy, root }) {
  const planner = policy === undefined ? '' : `
planner:
  connector: { use: process, config: { path: ${join(folder, 'run')}, stopMs: 30000 } }
  models:
    - { model: demo, policy: ${policy}, intervalMs: 2000, constraints: { stabilisationTicks: 5, hysteresis: 0 } }`;
  return `
apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${join(folder, 'who')} } }
events: { use: zmq }
requests: { use: tcp, config: { token: planner-live } }
transports: [{ use: tcp, config: { token: planner-live } }]
telemetry: { intervalMs: 500 }${planner}
models:
  - name: demo
    source: ${JSON.stringify(join(root, 'packages/model-demo/model'))}
    blockSize: 16
    objective: ${JSON.stringify({ goal: 'cost', ...OBJECTIVE })}
    workers:
      - { name: prefill, role: prefill, replicas: ${prefill}, maxReplicas: 6, startupMs: 3000, engine: ${ENGINE} }
      - { name: decode, role: decode, replicas: ${decode}, maxReplicas: 6, startupMs: 3000, engine: ${ENGINE} }
`;
}

/** One streamed request: time to first token, mean inter-token latency. */
async function ask(port, { prompt, output }, random) {
  const startedMs = performance.now();
  const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'demo', prompt: Array.from({ length: prompt }, () => random.below(1_000)), max_tokens: output, ignore_eos: true, stream: true }),
  });
  if (!response.ok) throw new Error(`${response.status} ${(await response.text()).slice(0, 200)}`);
  let firstMs = NaN;
  let lastMs = NaN;
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of response.body) {
    lastMs = performance.now() - startedMs;
    if (Number.isNaN(firstMs)) firstMs = lastMs;
    text += decoder.decode(chunk, { stream: true });
  }
  if (!text.includes('[DONE]') || text.includes('"error"')) throw new Error(`the stream ended early: ${text.slice(-200)}`);
  return { ttftMs: firstMs, itlMs: (lastMs - firstMs) / Math.max(1, output - 1) };
}

async function play({ prefill, decode, policy, phaseMs, root, log }) {
  const folder = mkdtempSync(join(tmpdir(), 'armature-planner-live-'));
  const [port, adminPort] = [await freePort(), await freePort()];
  const file = join(folder, 'cluster.yaml');
  writeFileSync(file, yaml({ folder, port, adminPort, prefill, decode, policy, root }));
  const child = spawn(process.execPath, [join(root, 'packages/cli/bin/armature.js'), 'up', '-f', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output = (output + chunk).slice(-20_000)));
  const ended = new Promise((resolve) => child.on('exit', resolve));
  const workers = async () => ((await (await fetch(`http://127.0.0.1:${adminPort}/workers`)).json())).length;
  try {
    const limit = performance.now() + 60_000;
    while ((await workers().catch(() => 0)) < prefill + decode) {
      if (performance.now() > limit || child.exitCode !== null) throw new Error(`the cluster did not come up:\n${output}`);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    return await drive({ port, workers, phaseMs, log });
  } catch (error) {
    throw new Error(`${error.message}\n${output.slice(-3_000)}`, { cause: error });
  } finally {
    child.kill('SIGTERM');
    const kill = setTimeout(() => child.kill('SIGKILL'), 60_000);
    await ended;
    clearTimeout(kill);
    rmSync(folder, { recursive: true, force: true });
  }
}

async function drive({ port, workers, phaseMs, log }) {
  const random = new SeededRandom(7);
  const asked = [];
  const failures = [];
  let [requests, inTime, workerMs, most] = [0, 0, 0, 0];
  let sampledMs = performance.now();
  const sample = async () => {
    const count = await workers();
    const nowMs = performance.now();
    workerMs += count * (nowMs - sampledMs);
    sampledMs = nowMs;
    most = Math.max(most, count);
  };
  const sampling = setInterval(() => void sample().catch(() => undefined), 500);
  for (const phase of PHASES) {
    const before = { requests, inTime };
    const untilMs = performance.now() + phaseMs;
    const started = [];
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, (-Math.log(1 - random.next()) / phase.rate) * 1000));
      if (performance.now() >= untilMs) break;
      requests++;
      started.push(
        ask(port, phase, random).then(
          ({ ttftMs, itlMs }) => void (ttftMs <= OBJECTIVE.ttftMs && itlMs <= OBJECTIVE.itlMs && inTime++),
          (error) => void failures.push(error.message),
        ),
      );
    }
    asked.push(...started);
    log(`  ${phase.name}: ${requests - before.requests} requests, ${await workers()} workers at its end`);
  }
  await Promise.all(asked);
  clearInterval(sampling);
  await sample();
  return { requests, failures, kept: inTime / requests, workerHours: workerMs / 3_600_000, most };
}

export async function run({ options, root, log }) {
  const phaseMs = 1_000 * Number(options.phase ?? 40);
  const names = (options.policy ?? 'optimize').split(',');
  const prior = '{ default: { prefillMsPerToken: 0.8, prefillMs: 10, decodeMsPerSequence: 0, decodeMsPerContextToken: 0, decodeMs: 25, maxSequences: 8, kvTokens: 65536 } }';
  const rows = [];
  const tell = (name, { requests, failures, kept, workerHours, most }) => {
    log(`${name}: ${requests} requests, ${failures.length} failed, ${(100 * kept).toFixed(1)} % in time, ${(60 * workerHours).toFixed(1)} worker-minutes, at most ${most} workers${failures.length > 0 ? `; ${failures[0]}` : ''}`);
    rows.push({ name: `${name}/in time`, value: 100 * kept, unit: '%', target: 100 * OBJECTIVE.quantile }, { name: `${name}/worker-minutes`, value: 60 * workerHours, unit: 'min' }, { name: `${name}/failed`, value: failures.length, unit: 'requests', target: 0 });
  };
  for (const name of names) tell(name, await play({ prefill: 1, decode: 1, policy: `{ use: ${name}, config: { hardware: ${prior} } }`, phaseMs, root, log }));
  for (const split of (options.static ?? '3+3,4+3,5+4').split(',')) {
    const [prefill, decode] = split.split('+').map(Number);
    tell(`static ${split}`, await play({ prefill, decode, phaseMs, root, log }));
  }
  return rows;
}
