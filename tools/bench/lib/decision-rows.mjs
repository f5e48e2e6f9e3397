import { measureAll, seeded } from './measure.mjs';

const WORKERS = 64;
const BLOCK = 16;

const family = { with: () => ({ set() {}, add() {}, inc() {}, observe() {} }) };
export const metrics = { counter: () => family, gauge: () => family, histogram: () => family, onCollect: () => () => {} };
const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log, isEnabled: () => false };
const clock = { nowMs: () => 0, wallMs: () => 0, setTimer: () => ({}), clearTimer() {}, defer() {} };

const record = (slot) => ({
  instanceId: `w/${slot}@1`,
  model: 'm',
  pool: 'w',
  index: slot,
  role: 'both',
  address: `memory:${slot}`,
  engine: 'mock',
  hardware: '',
  costPerHour: 1,
  taints: [],
  blockSize: BLOCK,
  totalBlocks: 16_384,
  maxModelTokens: 65_536,
  maxBatchedTokens: 8192,
  firstToken: 'prefill',
  modelFingerprint: 'm',
  kvEvents: true,
  layoutFingerprint: '',
  agentMetadata: new Uint8Array(0),
  protocol: 1,
});

/**
 * A whole routing decision of the production router: hash the prompt's tokens, look every worker up, cost and pick over 64 workers, record all of it.
 * `accounted` adds what a request costs until its end: dispatch, first token, end.
 */
export async function decisionRows() {
  const { ModelRouter } = await import('@armature/serving');
  const { KvPolicy, kvPolicyDefaults } = await import('@armature/router-kv');
  const { saltHash, sequenceHashes } = await import('@armature/tokens');
  const policy = new KvPolicy(kvPolicyDefaults, { path: 'bench', log, random: seeded(3), clock, metrics });
  const router = new ModelRouter({ model: 'm', policy, clock, random: seeded(4), log, metrics, snapshot: (_worker, done) => done([]) });
  for (let slot = 0; slot < WORKERS; slot++) router.join(record(slot));
  const random = seeded(9);
  const salt = saltHash({ cacheSalt: '' });
  const prompts = (tokens) => Array.from({ length: 64 }, () => Int32Array.from({ length: tokens }, () => random.below(150_000)));
  const long = prompts(8192);
  const short = prompts(512);
  const ids = Array.from({ length: WORKERS }, () => 0);
  for (const prompt of [...long, ...short]) {
    const hashes = sequenceHashes(prompt, prompt.length, BLOCK, salt);
    for (let slot = 0; slot < WORKERS; slot++) {
      // A quarter of the workers hold some of each prompt, one holds all.
      const blocks = slot === random.below(WORKERS) ? hashes.length >> 1 : slot % 4 === 0 ? 1 + random.below(hashes.length >> 2) : 0;
      if (blocks > 0) router.apply(record(slot).instanceId, { type: 'stored', eventId: ++ids[slot], parent: new Int32Array(0), sequenceHashes: hashes.slice(0, blocks * 2), tier: 'device' });
    }
  }
  let number = 0;
  const query = (prompt) => ({
    id: `r${number++}`,
    hop: 'aggregated',
    role: 'both',
    promptTokens: prompt.length,
    sequenceHashes: sequenceHashes(prompt, prompt.length, BLOCK, salt),
    blockSize: BLOCK,
    creditsOverlap: true,
    overrides: {},
    excluded: [],
    startedAtMs: 0,
  });
  // Some load, as in service.
  for (let i = 0; i < 256; i++) {
    const running = query(short[i & 63]);
    router.dispatch(router.route(running), running, 'aggregated');
  }
  const decide = (set) => (i) => router.route(query(set[i & 63]));
  const cost = measureAll({
    long: decide(long),
    short: decide(short),
    hash: (i) => sequenceHashes(long[i & 63], 8192, BLOCK, salt),
    accounted: (i) => {
      const asked = query(long[i & 63]);
      const route = router.route(asked);
      const charge = router.dispatch(route, asked, 'aggregated');
      router.prefilled(charge, asked.id);
      router.ended(charge, asked.id);
    },
  });
  router.close();
  policy.close();
  return [
    { name: 'decision/64-workers', value: cost.long, unit: 'us', target: 20 },
    { name: 'decision/64-workers/512-token-prompt', value: cost.short, unit: 'us', target: 20 },
    { name: 'decision/64-workers/hashing-of-it', value: cost.hash, unit: 'us' },
    { name: 'decision/64-workers/until-the-end', value: cost.accounted, unit: 'us' },
  ];
}
