import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';
import { median } from './measure.mjs';

const RUN = 128;
const CHAIN = 512;
/** Queries per timed round; their hashes are copies laid end to end, so that each is cold, as a new request's are. */
const ROUND = 4000;
const HOLDERS = [1, 4, 16, 64];
const NO_PARENT = new Int32Array(0);

/** Dynamo's figures where it is not built: `dynamo-kv-router` 1.6.1 on the machine of an earlier run, median. */
const RECORDED = {
  'index/full-512/1-worker': 0.83,
  'index/deep-128-of-512/55-workers': 1.6,
  'index/full-512/64-workers': 1.85,
  'index/prefix-64-of-512': 1.1,
  'index/miss-512': 0.08,
  'index/store-events': 11.8,
  'index/bytes-per-entry': 64,
};

/** xorshift32, as in the Rust peer: both build the same paths. */
function xorshift(seed) {
  let x = seed;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}

function mixed(x) {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}

/** Chained 64-bit hashes of a path given by its block ids. */
function chained(ids) {
  const hashes = new Int32Array(ids.length * 2);
  let lo = 0x1234567;
  let hi = 0x89abcde;
  ids.forEach((id, i) => {
    lo = mixed(lo ^ id);
    hi = mixed((hi + lo) ^ Math.imul(id, 0x9e3779b1));
    lo = mixed(lo + hi);
    hashes[2 * i] = lo;
    hashes[2 * i + 1] = hi;
  });
  return hashes;
}

/** 64 blocks shared by all paths of a prefix, then 64 of its own. */
const pathOf = (prefix, unique) => chained(Array.from({ length: RUN }, (_, i) => (i < 64 ? (prefix << 12) + i + 1 : 0x40000000 | (Math.imul(unique, RUN) + i))));

const cpuUs = () => {
  const { user, system } = process.cpuUsage();
  return user + system;
};

function workload(blocks, workers) {
  const random = xorshift(12345);
  const stores = [];
  for (let u = 0; u < Math.floor(blocks / RUN); u++) stores.push({ slot: u % workers, hashes: pathOf(random() % 64, u), parent: NO_PARENT });
  const shared = Array.from({ length: 64 }, (_, i) => pathOf(i, 0).subarray(0, 128));
  const long = Array.from({ length: 32 }, (_, k) => ({ holders: Math.min(workers, HOLDERS[k % 4]), hashes: chained(Array.from({ length: CHAIN }, (_, i) => -((k + 7) * 1000 + i))) }));
  const padded = (hashes) => {
    const query = new Int32Array(CHAIN * 2);
    query.set(hashes);
    for (let i = hashes.length; i < query.length; i++) query[i] = random() | 0;
    return query;
  };
  const longBy = (holders) => long.filter((chain) => chain.holders === holders).map((chain) => chain.hashes);
  const queries = new Map([
    ['index/full-512/1-worker', longBy(1)],
    ['index/deep-128-of-512/55-workers', stores.filter((_, u) => u % 16 === 0).slice(0, 400).map(({ hashes }) => padded(hashes))],
    ['index/full-512/64-workers', longBy(Math.min(64, workers))],
    ['index/prefix-64-of-512', Array.from({ length: 400 }, (_, i) => padded(shared[i % 64]))],
    ['index/miss-512', Array.from({ length: 400 }, () => padded(new Int32Array(0)))],
  ]);
  return { stores, long, queries };
}

const stored = (eventId, hashes, parent) => ({ type: 'stored', eventId, parent, sequenceHashes: hashes, tier: 'device' });

/** Fills an index; CPU microseconds per event, without the making of the events. */
function fill(KvIndex, workers, stores, totalBlocks) {
  const index = new KvIndex();
  for (let slot = 0; slot < workers; slot++) index.joined(slot, totalBlocks);
  const ids = new Int32Array(workers);
  const events = stores.map(({ slot, hashes, parent }) => stored(++ids[slot], hashes, parent));
  const before = cpuUs();
  for (let i = 0; i < events.length; i++) index.apply(stores[i].slot, events[i]);
  return { index, ids, perEventUs: (cpuUs() - before) / events.length };
}

function storeLong(index, ids, long) {
  for (let at = 0; at < CHAIN; at += RUN) {
    for (const { holders, hashes } of long) {
      const parent = at === 0 ? NO_PARENT : hashes.subarray(at * 2 - 2, at * 2);
      for (let slot = 0; slot < holders; slot++) index.apply(slot, stored(++ids[slot], hashes.subarray(at * 2, (at + RUN) * 2), parent));
    }
  }
}

/** An index that grows from nothing: its slowest store (wall time, so other processes are in it) and resident memory per block, which exceeds `stats().bytes` by pages in part used. */
function footprint(KvIndex, workers, stores) {
  const index = new KvIndex();
  for (let slot = 0; slot < workers; slot++) index.joined(slot);
  const ids = new Int32Array(workers);
  const events = stores.map(({ slot, hashes, parent }) => stored(++ids[slot], hashes, parent));
  const before = process.memoryUsage.rss();
  let longestStoreMs = 0;
  for (let i = 0; i < events.length; i++) {
    const from = performance.now();
    index.apply(stores[i].slot, events[i]);
    longestStoreMs = Math.max(longestStoreMs, performance.now() - from);
  }
  return { longestStoreMs, residentPerBlock: (process.memoryUsage.rss() - before) / index.size };
}

function lesser(first, second) {
  return new Map([...first].map(([name, value]) => [name, Math.min(value, second.get(name))]));
}

function timeQueries(index, out, queries) {
  const copies = new Int32Array(ROUND * CHAIN * 2);
  const medians = new Map();
  for (const [name, set] of queries) {
    if (set.length === 0) continue;
    const count = Math.floor(ROUND / set.length) * set.length;
    const rounds = [];
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < count; i++) copies.set(set[i % set.length], i * CHAIN * 2);
      const before = cpuUs();
      for (let i = 0; i < count; i++) index.findOverlap(copies, CHAIN, out, i * CHAIN);
      if (round >= 5) rounds.push((cpuUs() - before) / count);
    }
    medians.set(name, median(rounds));
  }
  return medians;
}

/**
 * How times are taken, ours and the peer's alike: CPU time of the process (the peer: of its thread) over a round of about 4,000
 * queries; median of 15 rounds after 5 to warm up; the lower of two such medians. Stores: median of 5 fills (1 above 3 M blocks).
 *
 * One point of the curves, and the rows at 1 M blocks and 64 workers: name → value, as the peer reports its own. */
export function measureIndex({ KvIndex, OverlapColumns }, blocks, workers) {
  const { stores, long, queries } = workload(blocks, workers);
  const warm = stores.slice(0, 2400);
  for (let i = 0; i < 3; i++) fill(KvIndex, workers, warm, 0);
  const memory = footprint(KvIndex, workers, stores);
  const repetitions = blocks > 3e6 ? 1 : 5;
  const growing = [];
  const sized = [];
  let filled;
  for (let i = 0; i < repetitions; i++) {
    filled = undefined;
    sized.push(fill(KvIndex, workers, stores, Math.ceil(blocks / workers)).perEventUs);
    filled = fill(KvIndex, workers, stores, 0);
    growing.push(filled.perEventUs);
  }
  const { index, ids } = filled;
  const stats = index.stats();
  storeLong(index, ids, long);
  const out = new OverlapColumns(workers);
  const medians = lesser(timeQueries(index, out, queries), timeQueries(index, out, queries));
  return { ...Object.fromEntries(medians), 'index/store-events': median(sized), 'index/store-events/growing': median(growing), 'index/bytes-per-entry': stats.bytes / stats.pairs, stats, memory };
}

/** What the Rust peer prints on the same workload, when it is built; else the recorded figures. */
async function peerOf({ root, options, log }) {
  const binary = options.peer ?? process.env.DYNAMO_INDEX_PEER ?? `${root}tools/peers/dynamo-index/target/release/dynamo-index`;
  if (!existsSync(binary)) {
    log('peer: not built (tools/peers/dynamo-index); its column is NOT of this run: recorded figures of dynamo-kv-router 1.6.1');
    return () => RECORDED;
  }
  log(`peer: dynamo-kv-router 1.6.1, in this run. Charged to whom: it looks up local hashes and returns a map; ours takes sequence hashes, which the router needs anyway (+3 us to chain 512).`);
  const runs = [];
  for (let i = 0; i < 2; i++) runs.push(await promisify(execFile)(binary, [], { maxBuffer: 1 << 20 }).then(({ stdout }) => JSON.parse(stdout)));
  return (ours) => {
    const least = {};
    // As ours: the lower of two medians.
    for (const name of Object.keys(ours)) if (runs[0][name] !== undefined) least[name] = Math.min(runs[0][name], runs[1][name]);
    return least;
  };
}

/**
 * The rows of the index: 1 M blocks stored by 64 workers as runs of 128 with shared prefixes, queries of 512 blocks.
 * `index/store-events` is microseconds per event of 128 blocks in an index sized by the registered capacity, as the router's is;
 * `/growing` starts at 256 slots.
 */
export async function indexRows({ KvIndex, OverlapColumns }, { root, options, log }) {
  const peerBy = await peerOf({ root, options, log });
  const ours = measureIndex({ KvIndex, OverlapColumns }, Number(options.blocks ?? 1_000_000), 64);
  const peer = peerBy(ours);
  const row = (name, unit, share) => ({ name, value: ours[name], unit, peer: peer[name], target: peer[name] * share });
  const { stats, memory } = ours;
  log(`index: ${stats.blocks} blocks, ${stats.pairs} held, ${stats.sets} sets, fill ${stats.fill.toFixed(2)}, ${(stats.bytes / stats.blocks).toFixed(1)} B per block (${memory.residentPerBlock.toFixed(1)} resident); longest store while growing ${memory.longestStoreMs.toFixed(2)} ms`);
  if (options.curves !== undefined) curves({ KvIndex, OverlapColumns }, log);
  return [
    row('index/full-512/1-worker', 'us', 0.5),
    row('index/deep-128-of-512/55-workers', 'us', 0.5),
    row('index/full-512/64-workers', 'us', 0.5),
    row('index/prefix-64-of-512', 'us', 0.5),
    row('index/miss-512', 'us', 0.5),
    row('index/store-events', 'us', 1),
    { ...row('index/store-events/growing', 'us', 1), peer: peer['index/store-events'], target: peer['index/store-events'] },
    { ...row('index/bytes-per-entry', 'B', 1), target: 32 },
  ];
}

function curves(classes, log) {
  for (const [blocks, workers] of [[1e5, 64], [1e6, 1], [1e6, 64], [1e6, 256], [1e6, 1000], [3e6, 64], [1e7, 64]]) {
    const point = measureIndex(classes, blocks, workers);
    const ns = (name) => (point[name] === undefined ? '-' : (point[name] * 1000).toFixed(0));
    log(`${blocks / 1e6} M blocks, ${workers} workers: deep ${ns('index/deep-128-of-512/55-workers')} prefix ${ns('index/prefix-64-of-512')} full/1 ${ns('index/full-512/1-worker')} full/64 ${ns('index/full-512/64-workers')} miss ${ns('index/miss-512')} ns, store ${point['index/store-events'].toFixed(2)} (growing ${point['index/store-events/growing'].toFixed(2)}) us, ${point['index/bytes-per-entry'].toFixed(1)} B per entry`);
  }
}
