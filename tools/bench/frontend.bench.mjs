import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { once } from './lib/load-client.mjs';
import { Load, startEcho } from './lib/load.mjs';
import { benchModel } from './lib/model-folder.mjs';
import { median } from './lib/measure.mjs';
import { residentMiB } from './lib/processes.mjs';
import { chatRequests } from './lib/prompts.mjs';
import { coldStartMs, startServers } from './lib/servers.mjs';

export const description =
  'OpenAI front end with KV router over mock workers in another process: CPU per request of each process, first byte. starts both, or --url URL --pids frontend:PID,workers:PID [--model NAME]; [--rounds 3] [--scale 1] [--workers 1] [--server node|uws]';
export const packages = ['cli'];

const INPUT_TOKENS = 512;
/**
 * What we aim at, microseconds of CPU per request with all features on. For orientation, measured elsewhere and in another run, so not in
 * the table: Dynamo 1.6.1 (fastokens, 1 worker) needs 660-770 and 1,500-1,900.
 */
const TARGET_US = { osl1: 350, stream: 600 };
const TARGET_FIRST_BYTE_P99_MS = 5;
const TARGET_COLD_START_MS = 2000;
const TARGET_IDLE_MIB = 200;
const SHAPES = {
  osl1: { title: 'OSL 1', outputTokens: 1, stream: false },
  stream: { title: '64-token stream', outputTokens: 64, stream: true },
};
const LOADS = [
  { connections: 1, count: 800 },
  { connections: 32, count: 2400 },
  { connections: 128, count: 2400 },
];
/** The bare server answers this many times as many, so that a tick of CPU time (10 ms) is small against its total too. */
const LIMIT_FACTOR = 3;

function parsePids(text) {
  const pids = {};
  for (const part of text.split(',')) {
    const [name, pid] = part.split(':');
    if (!(Number(pid) > 0)) throw new Error(`--pids "${text}": expected frontend:PID,workers:PID`);
    pids[name] = Number(pid);
  }
  return pids;
}

export async function run({ options, root, log }) {
  const how = { rounds: Number(options.rounds ?? 3), scale: Number(options.scale ?? 1), log };
  if (options.url === undefined) return startAndMeasure(root, options, how);
  if (options.pids === undefined) throw new Error('--url needs --pids frontend:PID,workers:PID (see tools/bench/README.md)');
  const { hostname: host, port: portText } = new URL(options.url);
  const port = Number(portText);
  return measureFrontend({ host, port, pids: parsePids(options.pids), model: options.model ?? 'bench', ...how });
}

async function startAndMeasure(root, options, how) {
  const cold = [];
  for (let i = 0; i < 3; i++) cold.push(await coldStartMs(root));
  const { folder: modelFolder } = benchModel(how.log);
  const servers = await startServers({ root, modelFolder, workers: Number(options.workers ?? 1), httpServer: options.server ?? 'node' });
  try {
    const idle = residentMiB(servers.pids.frontend);
    const rows = await measureFrontend({ host: servers.host, port: servers.port, pids: servers.pids, model: 'bench', ...how });
    return [
      ...rows,
      { name: 'cold armature serve to first token', value: median(cold), unit: 'ms', target: TARGET_COLD_START_MS },
      { name: 'resident, frontend idle', value: idle, unit: 'MiB', target: TARGET_IDLE_MIB },
    ];
  } finally {
    await servers.close();
  }
}

/** Measures a running server and, in turns with it, the bare server of the same bytes. */
export async function measureFrontend({ host, port, pids, model, rounds, scale, log }) {
  const { words } = benchModel(log);
  log(`${words.length} words of one token each; ${INPUT_TOKENS} per prompt`);
  const target = { host, port, model, inputTokens: INPUT_TOKENS };
  const recording = await record(words, target);
  const echo = await startEcho(recording);
  const load = new Load();
  const rows = [];
  let seed = Date.now() % 1_000_000_007; // prompts must be new to the server's caches in every run
  log(`seed ${seed}`);
  try {
    for (const [shape, { title, outputTokens, stream }] of Object.entries(SHAPES)) {
      const job = { ...target, outputTokens, stream };
      for (const place of [{ port, pids }, { port: echo.port, pids: { limit: echo.pid } }]) {
        await load.run({ ...job, port: place.port, connections: 16, count: Math.ceil(1000 * scale), seed: seed++ }); // warm
      }
      for (const { connections, count } of LOADS) {
        const runs = { server: [], limit: [] };
        for (let round = 0; round < rounds; round++) {
          const size = { connections, count: Math.ceil(count * scale) };
          runs.server.push(check(await load.run({ ...job, ...size, seed: seed++ }, pids), outputTokens, stream));
          runs.limit.push(await load.run({ ...job, connections, count: size.count * LIMIT_FACTOR, distinct: 500, port: echo.port, seed: seed++ }, { limit: echo.pid }));
        }
        rows.push(...report(`${title}, c=${connections}`, runs, TARGET_US[shape]));
        const last = runs.server.at(-1);
        log(`${title} c=${connections}: ${Math.round((last.requests / last.wallMs) * 1000)} req/s, client ${Math.round(last.clientCpuUs / last.requests)} us/req`);
      }
    }
    for (const [name, pid] of Object.entries(pids)) rows.push({ name: `resident, ${name}`, value: residentMiB(pid), unit: 'MiB' });
  } finally {
    load.close();
    echo.close();
  }
  return rows;
}

function report(title, { server, limit }, targetUs) {
  const of = (runs, read) => median(runs.map(read));
  const rows = [];
  for (const name of Object.keys(server[0].cpu)) {
    rows.push({
      name: `${title}: CPU ${name}`,
      value: of(server, (run) => run.cpu[name]),
      unit: 'us/req',
      ...(name === 'frontend' ? { limit: of(limit, (run) => run.cpu.limit), target: targetUs } : {}),
    });
  }
  for (const key of ['firstByteP50Ms', 'firstByteP99Ms', 'totalP50Ms']) {
    const target = key === 'firstByteP99Ms' && title.endsWith('c=1') ? { target: TARGET_FIRST_BYTE_P99_MS } : {};
    rows.push({ name: `${title}: ${key.replace('Ms', '')}`, value: of(server, (run) => run[key]), unit: 'ms', limit: of(limit, (run) => run[key]), ...target });
  }
  return rows;
}

/** A benchmark of wrong answers is worth nothing. */
function check(result, outputTokens, stream) {
  if (result.failed > 0) throw new Error(`${result.failed} of ${result.requests} requests failed: ${JSON.stringify(result.statuses)}`);
  if (stream && result.events < result.requests * 2) throw new Error(`only ${result.events} events in ${result.requests} streams of ${outputTokens} tokens`);
  return result;
}

/** One answer of each shape from the real server, for the bare one to repeat. */
async function record(words, target) {
  const answers = {};
  for (const [shape, { outputTokens, stream }] of Object.entries(SHAPES)) {
    const [request] = chatRequests({ ...target, words, count: 1, outputTokens, stream, seed: 7 });
    const { status, body } = await once({ ...target, request });
    if (status !== 200) throw new Error(`${shape}: status ${status}: ${body.toString().slice(0, 300)}`);
    answers[shape] = body.toString('base64');
  }
  const folder = fileURLToPath(new URL('../../.cache/bench', import.meta.url));
  mkdirSync(folder, { recursive: true });
  const name = `${folder}/answers.json`;
  writeFileSync(name, JSON.stringify(answers));
  return name;
}
