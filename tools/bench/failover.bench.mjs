// What a lost worker costs the requests that ran on it: answers in flight, their worker is killed (its connection says so at once) or stopped (pings say so).
// Not measured: what a cold cache costs later requests; long prompts, whose recompute is longer by the time of their prefill.
import { join } from 'node:path';
import { quantile, startParts, streamed } from './lib/parts.mjs';
import { median, seeded } from './lib/measure.mjs';

export const description = 'added latency of migrated requests: worker killed, worker stopped; real processes on backend-mock';
export const packages = ['cli'];

const WORKERS = ['all/0', 'all/1', 'all/2'];
const PING = { intervalMs: 250, deadlineMs: 1_000 };
const STREAMS = 12;
const PROMPT_TOKENS = 512;
const OUTPUT_TOKENS = 120;
const TOLERANCE_MS = 100;

const file = (root) => ({ folder, port, adminPort }) => `apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${JSON.stringify(join(folder, 'who'))} } }
events: { use: zmq }
requests: { use: tcp, config: { token: bench-secret, pingIntervalMs: ${PING.intervalMs}, pingDeadlineMs: ${PING.deadlineMs} } }
models:
  - name: demo
    source: ${JSON.stringify(join(root, 'packages/model-demo/model'))}
    workers: [{ name: all, replicas: ${WORKERS.length}, engine: { use: mock, config: { vocabSize: 1024, maxModelTokens: 2048, totalBlocks: 8192 } } }]
`;

/** All at once; `onText` hears of each stream how many pieces it has had. */
function all(cluster, prompts, maxTokens, onText = () => undefined) {
  return Promise.all(prompts.map((prompt, i) => streamed(cluster.url, { model: 'demo', prompt, max_tokens: maxTokens, temperature: 0 }, (pieces) => onText(i, pieces))));
}

const FAULTS = {
  killed: {
    detectionMs: 0,
    strike: (cluster, part) => cluster.kill(part),
    mend: (cluster, part) => cluster.start(part),
  },
  stopped: {
    detectionMs: PING.intervalMs + PING.deadlineMs,
    strike: (cluster, part) => cluster.signal(part, 'SIGSTOP'),
    mend: (cluster, part) => cluster.signal(part, 'SIGCONT'),
  },
};

/** One fault under running streams: added milliseconds of every move, and the whole time of the requests that moved, beside that of the same ones undisturbed. */
async function round(cluster, { fault, worker, random }) {
  const prompts = Array.from({ length: STREAMS }, () => Array.from({ length: PROMPT_TOKENS }, () => 10 + random.below(390)));
  const part = `workers.${worker}`;
  const pieces = Array.from({ length: STREAMS }, () => 0);
  let struck;
  const answers = await all(cluster, prompts, OUTPUT_TOKENS, (i, count) => {
    pieces[i] = count;
    if (struck === undefined && pieces.every((had) => had >= 10)) struck = FAULTS[fault].strike(cluster, part) ?? true;
  });
  await struck;
  const records = await Promise.all(answers.map(({ requestId }) => cluster.admin(`/requests/${requestId}`)));
  await FAULTS[fault].mend(cluster, part);
  await cluster.untilRoutable(WORKERS);
  const movesOf = ({ moves }) => moves.filter(({ from }) => from.startsWith(`${worker}@`));
  const expected = await all(cluster, prompts, OUTPUT_TOKENS); // nobody disturbs these
  answers.forEach(({ text }, i) => {
    if (text !== expected[i].text) throw new Error(`answer ${i} is not that of an undisturbed run`);
  });
  const moved = records.flatMap((record, i) => (movesOf(record).length > 0 ? [i] : []));
  return {
    added: records.flatMap((record) => movesOf(record).map(({ addedMs }) => addedMs)),
    undisturbedMs: moved.map((i) => expected[i].totalMs),
    struckMs: moved.map((i) => answers[i].totalMs),
  };
}

/** What computing a moved request's prompt and output again takes, with as many at once as move, undisturbed: time to the first token. */
async function recompute(cluster, random) {
  const prompts = Array.from({ length: STREAMS }, () => Array.from({ length: PROMPT_TOKENS + OUTPUT_TOKENS / 2 }, () => 10 + random.below(390)));
  return (await all(cluster, prompts, 2)).map(({ firstMs }) => firstMs);
}

export async function run({ options, root, log }) {
  const rounds = Number(options.rounds ?? 8);
  const random = seeded(11);
  const cluster = await startParts({ root, parts: [...WORKERS.map((worker) => `workers.${worker}`), 'frontend'], yaml: file(root) });
  try {
    await cluster.untilRoutable(WORKERS);
    await all(cluster, Array.from({ length: STREAMS }, (_, i) => [i + 10, 11, 12]), 20); // warm
    const rows = [];
    for (const fault of Object.keys(FAULTS)) {
      const { detectionMs } = FAULTS[fault];
      const [added, undisturbed, struck, again] = [[], [], [], []];
      for (let i = 0; i < rounds; i++) {
        const result = await round(cluster, { fault, worker: WORKERS[i % WORKERS.length], random });
        added.push(...result.added);
        undisturbed.push(...result.undisturbedMs);
        struck.push(...result.struckMs);
        again.push(...(await recompute(cluster, random)));
      }
      if (added.length < rounds) throw new Error(`only ${added.length} requests moved in ${rounds} rounds`);
      const recomputeMs = quantile(again, 0.99);
      log(`${fault}: ${added.length} of ${rounds * STREAMS} requests moved, all answered as undisturbed; detection up to ${detectionMs} ms, recompute p50 ${median(again).toFixed(0)} ms, p99 ${recomputeMs.toFixed(0)} ms; their whole answers took ${(median(struck) / median(undisturbed)).toFixed(2)} times as long as undisturbed`);
      rows.push({ name: `failover, ${fault}: added latency p50`, unit: 'ms', value: median(added), peer: median(again) });
      rows.push({ name: `failover, ${fault}: added latency p99`, unit: 'ms', value: quantile(added, 0.99), peer: recomputeMs, target: detectionMs + TOLERANCE_MS + recomputeMs });
    }
    return rows;
  } finally {
    await cluster.close();
  }
}
