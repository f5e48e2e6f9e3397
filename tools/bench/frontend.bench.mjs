import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { once } from './lib/load-client.mjs';
import { Load, startEcho } from './lib/load.mjs';
import { benchModel } from './lib/model-folder.mjs';
import { median } from './lib/measure.mjs';
import { residentMiB } from './lib/processes.mjs';
import { chatRequests } from './lib/prompts.mjs';

export const description =
  'OpenAI front end with KV router over mock workers in another process: CPU per request of each process, first byte. --url URL --pids frontend:PID,workers:PID [--model NAME] [--rounds 3]';
export const packages = [];

const INPUT_TOKENS = 512;
/** CPU of the tuned peer's front end (Dynamo 1.6.1, fastokens, 1 worker) in microseconds per request: reference, not the same run. */
const PEER_US = { osl1: 660, stream: 1500 };
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

export async function run({ options, log }) {
  if (options.url === undefined || options.pids === undefined) {
    throw new Error('the front end must run already: --url http://127.0.0.1:PORT --pids frontend:PID,workers:PID (see tools/bench/README.md)');
  }
  const { hostname: host, port: portText } = new URL(options.url);
  const port = Number(portText);
  return measureFrontend({ host, port, pids: parsePids(options.pids), model: options.model ?? 'bench', rounds: Number(options.rounds ?? 3), scale: Number(options.scale ?? 1), log });
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
        rows.push(...report(`${title}, c=${connections}`, runs, PEER_US[shape]));
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
    rows.push({ name: `${title}: ${key.replace('Ms', '')}`, value: of(server, (run) => run[key]), unit: 'ms', limit: of(limit, (run) => run[key]) });
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
