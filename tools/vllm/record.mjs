// `node tools/vllm/record.mjs`: records what the real vLLM says, word for word, into packages/backend-vllm/fixtures/VERSION/http.json, for tests that need no vLLM. Run it (and
// look at the difference) when a new version is installed. Times and random ids stay as they came.
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Dealer, Subscriber } from 'zeromq';
import { pause, sumOf, until } from './check.mjs';
import { installVllm } from './install.mjs';
import { freePort } from './processes.mjs';
import { BLOCK_SIZE, MODEL_FOLDER, VllmServer } from './server.mjs';

const FIXTURES = fileURLToPath(new URL('../../packages/backend-vllm/fixtures/', import.meta.url));
/** As completionBody (wire.ts) writes it for a greedy request. */
const BASE = {
  model: 'demo', stream: true, stream_options: { include_usage: true }, n: 1, max_tokens: 6, min_tokens: 0, ignore_eos: true, return_token_ids: true, return_tokens_as_token_ids: true,
  temperature: 0, top_p: 1, top_k: 0, min_p: 0, seed: 7, frequency_penalty: 0, presence_penalty: 0, repetition_penalty: 1,
};
const ABORTED_TOKENS = 1500;
const PREFILL = { stream: false, stream_options: undefined, max_tokens: 1 };
const prompt = Array.from({ length: 2 * BLOCK_SIZE + 6 }, (_, i) => 40 + ((i * 37) % 400));

/** Name of the recording, and what differs from BASE. `stop` is filled in from the greedy answer. */
const CASES = {
  greedy: {},
  cached: {},
  logprobs: { logprobs: 3, max_tokens: 4 },
  choices: { n: 2, temperature: 1, max_tokens: 3 },
  eos: { ignore_eos: false },
  stop: {},
  grown: { max_tokens: 40 },
  salted: { cache_salt: 'tenant' },
  prefill: PREFILL,
  unknownModel: { model: 'nobody' },
  tokenAboveVocabulary: { prompt: [1, 2_000_000] },
  promptTooLong: { prompt: Array.from({ length: 2100 }, () => 50) },
  contextEdge: { prompt: Array.from({ length: 2045 }, () => 50), max_tokens: 100 },
  badField: { temperature: -1 },
  priority: { priority: 1, max_tokens: 1 },
  structured: { structured_outputs: { choice: ['yes', 'no'] }, max_tokens: 8, ignore_eos: false },
};

async function record(server, name, changes) {
  const { prompt: own = prompt, ...rest } = changes;
  const request = { prompt: own, ...BASE, ...rest };
  const response = await fetch(`${server.url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json', 'x-request-id': `record-${name}` }, body: JSON.stringify(request) });
  // A prompt that is only long is told by its length.
  const shown = own.length > 200 ? { ...request, prompt: `${own.length} times ${own[0]}` } : request;
  return { request: shown, status: response.status, contentType: response.headers.get('content-type'), body: await response.text() };
}

/** Closes the connection after the first event of a long answer: the server stops to generate, and frees what it held. */
async function recordAbort(server) {
  const generated = async () => sumOf(await server.metrics(), 'vllm:generation_tokens_total');
  const before = await generated();
  const abort = new AbortController();
  const response = await fetch(`${server.url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ ...BASE, prompt, max_tokens: ABORTED_TOKENS }), signal: abort.signal });
  const { value } = await response.body.getReader().read();
  abort.abort();
  await until('nothing runs', async () => sumOf(await server.metrics(), 'vllm:num_requests_running') === 0, 60_000);
  const metrics = await server.metrics();
  return { asked: ABORTED_TOKENS, generated: (await generated()) - before, firstBytes: Buffer.from(value).toString(), usage: sumOf(metrics, 'vllm:kv_cache_usage_perc'), finished: metrics.split('\n').filter((line) => /^vllm:request_success_total.*abort/.test(line)) };
}

const hex = (frames) => frames.map((frame) => Buffer.from(frame).toString('hex'));

async function replayOf(port) {
  const dealer = new Dealer({ linger: 0, receiveTimeout: 10_000 });
  dealer.connect(`tcp://127.0.0.1:${port}`);
  await dealer.send([Buffer.alloc(0), Buffer.alloc(8)]);
  const told = [];
  try {
    for await (const frames of dealer) {
      told.push(hex(frames));
      if (frames.at(-2)?.every((byte) => byte === 0xff)) return told;
    }
  } finally {
    dealer.close();
  }
  throw new Error('the replay did not end');
}

/** The series that are read (metrics.ts), and a few beside them. */
const SERIES = /^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|num_preemptions_total|cache_config_info|prefix_cache_hits_total)\b/;

async function main() {
  const install = installVllm({ log: (line) => console.log(line) });
  if (install.reason !== undefined) throw new Error(install.reason);
  const [eventsPort, replayPort] = [await freePort(), await freePort()];
  const subscriber = new Subscriber({ linger: 0 });
  subscriber.subscribe('');
  await subscriber.bind(`tcp://127.0.0.1:${eventsPort}`);
  const published = [];
  void (async () => {
    for await (const frames of subscriber) published.push(hex(frames));
  })().catch(() => undefined);
  const server = new VllmServer({ name: 'record', install, folder: mkdtempSync(join(tmpdir(), 'armature-vllm-record-')), eventsPort, replayPort });
  try {
    await server.start();
    await server.resetCache();
    await pause(500);
    const completions = {};
    for (const [name, changes] of Object.entries(CASES)) {
      // The fourth token of the greedy answer ends it.
      const stop = name === 'stop' ? { stop_token_ids: [tokensOf(completions.greedy.body)[3]] } : {};
      completions[name] = await record(server, name, { ...changes, ...stop });
      console.log(`${name}: ${completions[name].status}`);
    }
    const get = async (path) => {
      const response = await fetch(`${server.url}${path}`);
      return { status: response.status, body: await response.text() };
    };
    const metrics = await get('/metrics');
    const abort = await recordAbort(server);
    await server.resetCache();
    await record(server, 'after', {});
    await pause(500);
    const recording = {
      vllm: install.version,
      source: `recorded from vllm ${install.version} (CPU build) by tools/vllm/record.mjs`,
      version: await get('/version'),
      models: await get('/v1/models'),
      health: await get('/health'),
      eventSources: await get('/kv_event_sources'),
      metrics: { status: metrics.status, body: `${metrics.body.split('\n').filter((line) => SERIES.test(line)).join('\n')}\n` },
      completions,
      abort,
      events: { published: published.slice(0, 12), replayed: (await replayOf(replayPort)).filter((_, i, all) => i < 12 || i === all.length - 1) },
    };
    const folder = join(FIXTURES, install.version.split('+')[0]);
    mkdirSync(folder, { recursive: true });
    const text = `${JSON.stringify(recording, null, 1)}\n`.replaceAll(MODEL_FOLDER, '/models/demo');
    writeFileSync(join(folder, 'http.json'), text);
    console.log(`${join(folder, 'http.json')}: ${text.length} characters`);
  } finally {
    subscriber.close();
    await server.stop();
  }
}

function tokensOf(body) {
  const chunks = body.split('\n').filter((line) => line.startsWith('data: {')).map((line) => JSON.parse(line.slice(6)));
  return chunks.flatMap(({ choices }) => choices.flatMap(({ token_ids: ids }) => ids ?? []));
}

await main();
