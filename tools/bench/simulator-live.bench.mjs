// How far the simulator is from the real thing: the same trace through a live deployment of this process (real clock) and through the simulator. backend-mock has the
// simulator's own pass times; backend-reference really computes: its passes are recorded in a first run, fitted, and simulated. Options: --seconds 30
import { boot, MemoryEventPlane, MsgpackCodec, PinoLogger, SeededRandom, SystemClock } from '../../packages/core/dist/index.js';
import { builtins } from '../../packages/cli/dist/builtins.js';
import { fitTable, fitTiming } from '../../packages/fleet-model/dist/index.js';
import { deployment } from '../../packages/serving/dist/index.js';
import { loadSettings, simulate, syntheticTrace } from '../../packages/simulator/dist/index.js';

export const description = 'mean time to first token of the simulator against a live run of the same trace';
export const packages = ['cli'];

const BLOCK = 16;
const VOCABULARY = 1_000;
const objective = { ttftMs: 1_000, itlMs: 100 };
const sampling = { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 0, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0), topLogprobs: -1 };

function yaml(engine, replicas) {
  return `
apiVersion: armature/v1
telemetry: { intervalMs: 250 }
models:
  - name: demo
    source: "@armature/model-demo"
    blockSize: ${BLOCK}
    router: { use: kv }
    workers: [{ name: all, replicas: ${replicas}, engine: ${engine} }]
`;
}

function tokensOf({ promptTokens, blocks }) {
  return Int32Array.from({ length: promptTokens }, (_, i) => {
    const block = blocks[Math.floor(i / BLOCK)];
    return (Math.imul(block + 1, 7_919 + 31 * (i % BLOCK)) >>> 8) % VOCABULARY;
  });
}

/** Plays the rows in real time; passes as the engines report them. */
async function live(text, rows) {
  const log = new PinoLogger({ level: 'error' });
  const clock = new SystemClock();
  const events = new MemoryEventPlane({ encode: false, codec: new MsgpackCodec(), clock, log, bufferEvents: 100_000 });
  const app = await boot({ configText: text, root: deployment, builtins: await builtins(), processMetrics: false, random: 1, logger: log, overrides: ({ kind }) => (kind === 'process' ? { 'event-plane': events } : undefined) });
  await app.start();
  const passes = { prefillTokens: [], decodeSequences: [], contextTokens: [], ms: [] };
  events.subscribe('engine/demo', (_subject, report) => {
    for (const name of Object.keys(passes)) passes[name].push(...report.passes[name]);
  });
  const model = app.deployment.get('demo');
  const ttft = [];
  const startMs = performance.now();
  await Promise.all(
    rows.map(async (row, i) => {
      await new Promise((resolve) => setTimeout(resolve, row.atMs - (performance.now() - startMs)));
      const arrivedMs = performance.now();
      await new Promise((resolve, reject) => {
        let first = NaN;
        const stop = { maxTokens: row.outputTokens, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true };
        model.execute(
          { id: `live-${i}`, promptTokenIds: tokensOf(row), sampling, stop, choices: 1, deadlineMs: 120_000, cacheSalt: '', priority: 0, routing: {}, traceparent: '' },
          {
            tokens: () => {
              if (Number.isNaN(first)) first = performance.now() - arrivedMs;
            },
            end: (end) => {
              if (end.type !== 'finished') return void reject(new Error(JSON.stringify(end)));
              ttft.push(first);
              resolve();
            },
          },
        );
      });
    }),
  );
  await app.close(5_000);
  const columns = Object.fromEntries(Object.entries(passes).map(([name, values]) => [name, Float64Array.from(values)]));
  return { ttftMs: ttft.reduce((sum, value) => sum + value, 0) / ttft.length, passes: columns };
}

async function simulated(text, rows, settings) {
  const result = await simulate({ text, settings, trace: rows, seed: 1, plugins: await builtins(), objective });
  return result.outcome.ttftMs.mean;
}

const network = 'network: { requests: { latencyMs: 0, gigabytesPerSecond: 1000 } }';

export async function run({ options, log }) {
  const durationMs = 1_000 * Number(options.seconds ?? 30);
  const rows = (seed, shape) => [...syntheticTrace({ kind: 'steady', durationMs, sharedShare: 0.4, prefixes: 6, ...shape }, BLOCK, new SeededRandom(seed))];
  const out = [];
  const compare = (name, liveMs, simulatedMs) => {
    const error = (100 * Math.abs(simulatedMs - liveMs)) / liveMs;
    log(`${name}: live ${liveMs.toFixed(2)} ms, simulated ${simulatedMs.toFixed(2)} ms, ${error.toFixed(1)} % off`);
    out.push({ name: `${name}/mean TTFT simulated`, value: simulatedMs, unit: 'ms', peer: liveMs }, { name: `${name}/error`, value: error, unit: '%', target: 10 });
  };
  const mock = yaml('{ use: mock, config: { vocabSize: 1024, totalBlocks: 2048 } }', 2);
  const mockRows = rows(3, { requestsPerSecond: 12, promptTokens: 1_200, outputTokens: 40 });
  compare('backend-mock', (await live(mock, mockRows)).ttftMs, await simulated(mock, mockRows, await loadSettings(`apiVersion: armature/v1\n${network}\n`)));

  const reference = yaml('{ use: reference }', 1);
  const shape = { requestsPerSecond: 4, promptTokens: 300, outputTokens: 16 };
  const { passes } = await live(reference, rows(4, shape));
  const fit = fitTiming(passes);
  if (fit === undefined) throw new Error(`${passes.ms.length} passes were reported: too few to fit`);
  const { coefficients, errors, residualMs } = fit;
  for (const [name, value] of Object.entries(coefficients)) log(`fitted ${name}: ${value.toPrecision(3)} ± ${Number(errors[name]).toPrecision(2)} ms`);
  log(`${passes.ms.length} passes, residual ${residualMs.toFixed(2)} ms`);
  // Attention makes long prompts dearer per token: the measured points, not the line.
  const table = fitTable(passes);
  log(`table: ${table.prefill.tokens.map((tokens, i) => `${tokens.toFixed(0)} tokens ${table.prefill.ms[i].toFixed(1)} ms`).join(', ')}`);
  const settings = await loadSettings(`apiVersion: armature/v1\n${network}\nhardware: { default: { kvTokens: 65536, maxSequences: 32, table: ${JSON.stringify(table)} } }\n`);
  const checkRows = rows(5, shape);
  compare('backend-reference', (await live(reference, checkRows)).ttftMs, await simulated(reference, checkRows, settings));
  return out;
}
