// What a prompt computed elsewhere costs beyond the passes of the engines: the same requests, in turns, to one aggregated worker and to a prefill and a decode worker.
// Not measured: transfer of large blocks (the mock's are small; see nixel-*), queues, load. The difference includes the transfer.
import { join } from 'node:path';
import { quantile, startParts, streamed } from './lib/parts.mjs';
import { median, seeded } from './lib/measure.mjs';

export const description = 'latency of the disaggregated path over the aggregated one, real processes on backend-mock';
export const packages = ['cli'];

const OUTPUT_TOKENS = 16;
const engine = '{ use: mock, config: { vocabSize: 1024, maxModelTokens: 4096, totalBlocks: 8192 } }';

const file = (root) => ({ folder, port, adminPort }) => {
  const source = JSON.stringify(join(root, 'packages/model-demo/model'));
  return `apiVersion: armature/v1
admin: { port: ${adminPort} }
frontend: { use: openai, config: { port: ${port} } }
discovery: { use: file, config: { path: ${JSON.stringify(join(folder, 'who'))} } }
events: { use: zmq }
requests: { use: tcp, config: { token: bench-secret } }
transports: [{ use: shm }, { use: tcp, config: { token: bench-secret } }]
models:
  - name: aggregated
    source: ${source}
    workers: [{ name: all, engine: ${engine} }]
  - name: disaggregated
    source: ${source}
    disaggregation: { use: always, config: { whenNoPrefillWorker: fail } }
    workers:
      - { name: prefill, role: prefill, engine: ${engine} }
      - { name: decode, role: decode, engine: ${engine} }
`;
};

const KINDS = ['aggregated', 'disaggregated'];

async function measure(cluster, { promptTokens, pairs, random }) {
  const samples = { aggregated: [], disaggregated: [] };
  for (let i = -5; i < pairs; i++) {
    const prompt = Array.from({ length: promptTokens }, () => 10 + random.below(390)); // none comes twice
    const answers = {};
    for (const model of i % 2 === 0 ? KINDS : [...KINDS].reverse()) answers[model] = await streamed(cluster.url, { model, prompt, max_tokens: OUTPUT_TOKENS, temperature: 0 });
    if (answers.aggregated.text !== answers.disaggregated.text) throw new Error('the two paths gave different answers');
    if (i >= 0) for (const model of KINDS) samples[model].push(answers[model]);
  }
  const records = await Promise.all(samples.disaggregated.map(({ requestId }) => cluster.admin(`/requests/${requestId}`)));
  const blocks = Math.ceil(promptTokens / 16);
  const remote = records.filter(({ disaggregation, transfer }) => disaggregation?.remote && transfer?.outcome === 'valid' && transfer.movedBlocks === blocks);
  if (remote.length !== pairs) throw new Error(`${remote.length} of ${pairs} prompts were computed on the prefill worker and moved whole`);
  return { samples, movedBytes: remote[0].transfer.movedBytes };
}

export async function run({ options, root, log }) {
  const pairs = Number(options.pairs ?? 100);
  const cluster = await startParts({ root, parts: ['workers.all', 'workers.prefill', 'workers.decode', 'frontend'], yaml: file(root) });
  try {
    await cluster.untilRoutable(['all/0', 'prefill/0', 'decode/0']);
    const rows = [];
    for (const promptTokens of [256, 1536]) {
      const { samples, movedBytes } = await measure(cluster, { promptTokens, pairs, random: seeded(promptTokens) });
      const of = (kind, what) => samples[kind].map((sample) => sample[what]);
      const over = (what) => samples.aggregated.map((sample, i) => samples.disaggregated[i][what] - sample[what]);
      log(`${pairs} pairs of ${promptTokens} + ${OUTPUT_TOKENS} tokens, ${movedBytes} bytes moved each; ratio of whole answers ${(median(of('disaggregated', 'totalMs')) / median(of('aggregated', 'totalMs'))).toFixed(3)}; overhead p90 ${quantile(over('totalMs'), 0.9).toFixed(1)} ms`);
      const name = `disaggregation ${promptTokens}`;
      for (const [what, field] of [['first token', 'firstMs'], ['whole answer', 'totalMs']]) {
        rows.push({ name: `${name}: ${what} p50 (peer: aggregated)`, unit: 'ms', value: median(of('disaggregated', field)), peer: median(of('aggregated', field)) });
        rows.push({ name: `${name}: ${what}, overhead p50 with transfer`, unit: 'ms', value: median(over(field)), target: 5 });
      }
    }
    return rows;
  } finally {
    await cluster.close();
  }
}
