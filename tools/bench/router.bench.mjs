import { hashRows } from './lib/hash-rows.mjs';
import { loadRows } from './lib/load-rows.mjs';
import { measureAll, seeded } from './lib/measure.mjs';
import { indexRows } from './lib/router-index.mjs';

export const description = 'KV index and routing decision, 64 workers (CPU time; network and event decoding are not in it)';
export const packages = ['router-kv', 'tokens'];

const WORKERS = 64;

const worker = (slot) => ({ instanceId: `w/${slot}@1`, blockSize: 16, totalBlocks: 16_384, taints: [] });
const stored = (eventId, sequenceHashes) => ({ type: 'stored', eventId, parent: new Int32Array(0), sequenceHashes, tier: 'device' });

function chain(random, blocks) {
  const hashes = new Int32Array(blocks * 2);
  for (let i = 0; i < hashes.length; i++) hashes[i] = random.u32() | 0;
  return hashes;
}

export async function run({ options, root, log }) {
  const { KvIndex, KvPolicy, OverlapColumns, kvPolicyDefaults } = await import('@armature/router-kv');
  return [...(await indexRows({ KvIndex, OverlapColumns }, { root, options, log })), ...(await hashRows({ root, options, log })), ...(await loadRows()), ...events(KvIndex), ...decisions({ KvPolicy, kvPolicyDefaults })];
}

function events(KvIndex) {
  const random = seeded(5);
  const long = Array.from({ length: 2000 }, () => chain(random, 128));
  const index = new KvIndex();
  index.joined(0);
  let id = 0;
  // Steady state: a block stored is a block removed, as in a full cache.
  const cost = measureAll({
    long: (i) => {
      const hashes = long[i % long.length];
      index.apply(0, stored(++id, hashes));
      index.apply(0, { ...stored(++id, hashes), type: 'removed' });
    },
    short: (i) => {
      const hashes = long[i % long.length];
      const one = hashes.subarray(0, 2);
      index.apply(0, stored(++id, one));
      index.apply(0, { ...stored(++id, one), type: 'removed' });
    },
  });
  return [
    { name: 'events of 128 blocks, store + remove', value: 2e6 / cost.long, unit: 'events/s', target: 81_000 },
    { name: 'events of 1 block, store + remove', value: 2e6 / cost.short, unit: 'events/s', target: 1_000_000 },
  ];
}

function decisions({ KvPolicy, kvPolicyDefaults }) {
  const family = { with: () => ({ set() {}, add() {}, inc() {}, observe() {} }) };
  const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log, isEnabled: () => false };
  const policy = new KvPolicy(kvPolicyDefaults, {
    path: 'bench',
    log,
    random: seeded(3),
    clock: { nowMs: () => 0, setTimer: () => ({}), clearTimer() {} },
    metrics: { counter: () => family, gauge: () => family, histogram: () => family, onCollect: () => () => {} },
  });
  const prompts = Array.from({ length: 256 }, (_, i) => chain(seeded(50 + i), 32));
  const ids = Array.from({ length: WORKERS }, () => 0);
  for (let slot = 0; slot < WORKERS; slot++) {
    policy.kv.joined(slot, worker(slot));
    for (const hashes of prompts) policy.kv.apply(slot, stored(++ids[slot], hashes.subarray(0, 2 * (1 + ((slot * 7) % 32)))));
  }
  const candidates = {
    count: WORKERS,
    slots: Int32Array.from({ length: WORKERS }, (_, i) => i),
    activeRequests: new Int32Array(WORKERS),
    activePrefillTokens: Float64Array.from({ length: WORKERS }, (_, i) => i * 37),
    activeBlocks: new Float64Array(WORKERS),
    totalBlocks: new Float64Array(WORKERS).fill(16384),
    costPerHour: new Float64Array(WORKERS),
    overlapBlocks: new Int32Array(WORKERS),
    hostBlocks: new Int32Array(WORKERS),
    diskBlocks: new Int32Array(WORKERS),
    objectBlocks: new Int32Array(WORKERS),
    decodeBlocks: new Float64Array(WORKERS),
    degraded: new Uint8Array(WORKERS),
    workers: Array.from({ length: WORKERS }, (_, slot) => worker(slot)),
  };
  const costs = new Float64Array(WORKERS);
  const request = { id: 'r', hop: 'aggregated', promptTokens: 512, sequenceHashes: prompts[0], blocks: 32, blockSize: 16, creditsOverlap: true, overlapCredit: NaN, temperature: NaN, requiredTaints: [], preferredTaints: [], assumeKvReuse: undefined, trackPrefillTokens: undefined, prefillLoadScale: NaN, sharedCacheMultiplier: NaN };
  for (let i = 0; i < 256; i++) policy.load.dispatched(i % WORKERS, { ...request, id: `running-${i}`, sequenceHashes: prompts[(i * 3) % 256] });
  let number = 0;
  const decide = (i) => {
    request.sequenceHashes = prompts[i & 255];
    costs.fill(0);
    candidates.overlapBlocks.fill(0);
    policy.score(request, candidates, costs);
    return policy.pick(request, candidates, costs);
  };
  const cost = measureAll({
    decide,
    softmax: (i) => {
      request.temperature = 0.5;
      decide(i);
      request.temperature = NaN;
    },
    account: (i) => {
      request.id = `n${number++}`;
      request.sequenceHashes = prompts[i & 255];
      policy.load.dispatched(i & 63, request);
      policy.load.firstToken(i & 63, request.id);
      policy.load.ended(i & 63, request.id);
    },
    explain: () => {
      for (let i = 0; i < WORKERS; i++) policy.explain(request, candidates, i);
    },
  });
  return [
    { name: 'decision, 512-token prompt, 64 workers', value: cost.decide, unit: 'us' },
    { name: 'decision with temperature', value: cost.softmax, unit: 'us' },
    { name: 'load accounting of one request', value: cost.account, unit: 'us' },
    { name: 'explain all 64 candidates', value: cost.explain, unit: 'us' },
  ];
}
