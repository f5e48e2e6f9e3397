// The simulator: requests per minute of wall time at 100 workers (deploy/simulation.yaml, start-up included), and CPU per event and request from 10 to 1,000 workers.
// Options: --requests 20000 --workers 10,100,300,1000
import { readFileSync } from 'node:fs';
import { builtins } from '../../packages/cli/dist/builtins.js';
import { loadSettings, readTrace, simulate } from '../../packages/simulator/dist/index.js';

export const description = 'a trace through the whole cluster in virtual time: requests per minute, cost per event by cluster size';
export const packages = ['cli'];

const TRACE = new URL('data/mooncake_synthetic_trace.jsonl', import.meta.url).pathname;

/** The trace again and again, with prefixes of its own each time. */
function* rows(count) {
  let left = count;
  for (let round = 0, baseMs = 0; left > 0; round++) {
    let lastMs = 0;
    for (const row of readTrace(TRACE, 512)) {
      if (left-- <= 0) return;
      lastMs = row.atMs;
      yield { ...row, atMs: baseMs + row.atMs, blocks: row.blocks.map((block) => block + 100_000 * (round % 20_000)) };
    }
    baseMs += lastMs + 1_000;
  }
}

async function measured(workers, requests, root) {
  const text = readFileSync(new URL('deploy/simulation.yaml', `file://${root}/`), 'utf8');
  const before = process.cpuUsage();
  const startedMs = performance.now();
  const prefill = Math.round(workers * 0.6);
  const result = await simulate({ text, settings: await loadSettings(), trace: rows(requests), seed: 1, plugins: await builtins(), objective: { ttftMs: 5_000, itlMs: 50 }, rate: workers / 10, replicas: { prefill, decode: workers - prefill } });
  const { user, system } = process.cpuUsage(before);
  const wallMs = performance.now() - startedMs;
  if (result.outcome.finished !== requests) throw new Error(`${result.outcome.finished} of ${requests} requests finished`);
  return { wallMs, cpuMs: (user + system) / 1000, events: result.events };
}

export async function run({ options, root, log }) {
  const requests = Number(options.requests ?? 20_000);
  const sizes = (options.workers ?? '10,100,300,1000').split(',').map(Number);
  const out = [];
  await measured(10, 500, root); // compiles
  for (const workers of sizes) {
    // As many requests per worker, so that caches are as full and hits as frequent at each size.
    const { wallMs, cpuMs, events } = await measured(workers, requests, root);
    log(`${workers} workers, ${requests} requests: ${(wallMs / 1000).toFixed(1)} s, ${events} events`);
    out.push({ name: `${workers} workers/requests per minute`, value: (60_000 * requests) / wallMs, unit: 'requests/min', ...(workers === 100 ? { target: 100_000 } : {}) });
    out.push({ name: `${workers} workers/CPU per request`, value: (1000 * cpuMs) / requests, unit: 'us' });
    out.push({ name: `${workers} workers/CPU per event`, value: (1000 * cpuMs) / events, unit: 'us' });
  }
  return out;
}
