// What is replayed: traces, pool and cache sizes, loads.
import { traceOf } from './sweep.mjs';

/** Requests in flight per worker when capacity is measured. */
const IN_FLIGHT = 32;
/** Capacity is the highest throughput that one of these reaches. */
const CAPACITY_POLICIES = ['expected-work', 'kv-cost', 'least-loaded'];

const mooncake = (workers, cache) => ({
  name: `mooncake/${workers}-workers/${cache}`,
  trace: { name: 'mooncake' },
  workers,
  /** A quarter of the distinct blocks over all workers; roomy: every worker has room for all of them. */
  blocksPerWorker: (distinct) => (cache === 'quarter' ? Math.floor(distinct / 4 / workers) : distinct),
  hitTarget: cache === 'roomy' ? undefined : workers === 4 ? 2.4 : 9,
});

const unseen = (name, generator, workers, blocks) => ({ name: `${name}/${workers}-workers/${blocks}-blocks`, trace: { name: generator }, workers, blocksPerWorker: () => blocks });

export const mainSettings = [mooncake(4, 'quarter'), mooncake(16, 'quarter'), mooncake(4, 'roomy'), mooncake(16, 'roomy')];

/** Traces on which nothing was tuned; small, very small and roomy caches. */
export const unseenSettings = [
  unseen('shared-prefixes', 'sharedPrefixes', 4, 1024),
  unseen('shared-prefixes', 'sharedPrefixes', 4, 1536),
  unseen('shared-prefixes', 'sharedPrefixes', 4, 16_384),
  unseen('chats', 'chats', 4, 1500),
  unseen('chats', 'chats', 16, 600),
  unseen('chats', 'chats', 8, 16_384),
  unseen('zipf-documents', 'zipfDocuments', 16, 300),
  unseen('zipf-documents', 'zipfDocuments', 8, 8192),
  unseen('siblings', 'siblings', 4, 4096),
];

/** Seeds change the arrival times of the recorded trace (the first keeps them), and everything of a generated one. */
function traceFor(setting, seed) {
  return setting.trace.name === 'mooncake' ? { ...setting.trace, arrangement: seed - 1 } : { ...setting.trace, seed };
}

function facts(setting) {
  const trace = traceOf(traceFor(setting, 1));
  return { ratePerSecond: (trace.rows.length / trace.rows[trace.rows.length - 1].atMs) * 1000, blocksPerWorker: setting.blocksPerWorker(trace.distinctBlocks) };
}

export function capacityJobs(setting) {
  const { blocksPerWorker } = facts(setting);
  return CAPACITY_POLICIES.map((policy) => ({ trace: traceFor(setting, 1), policy, workers: setting.workers, blocksPerWorker, seed: 1, concurrency: IN_FLIGHT * setting.workers }));
}

/** `capacity` in requests per second; arrival times are scaled so that the mean rate is `load` of it. */
export function loadJobs(setting, { capacity, load, seeds, policies }) {
  const { ratePerSecond, blocksPerWorker } = facts(setting);
  const timeScale = ratePerSecond / (capacity * load);
  const jobs = [];
  for (let seed = 1; seed <= seeds; seed++) {
    for (const policy of policies) jobs.push({ trace: traceFor(setting, seed), policy, workers: setting.workers, blocksPerWorker, seed, timeScale, setting: setting.name, load });
  }
  return jobs;
}
