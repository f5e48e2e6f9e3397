// The nixl transport against bare NIXL called through the same binding, alternated in one run on the same memory of the same two processes.
// Not measured: RDMA, EFA, GPU memory, two hosts. Needs the library (`npm run test:nixl` installs it).
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { median, seeded } from './lib/measure.mjs';

export const description = 'nixl transport against bare NIXL, over shared memory (CMA) and tcp: GB/s, latency';
export const packages = ['nixel-nixl'];

const KIB = 1024;
const TOTAL = 16 << 20;
const SHAPES = [
  [64 * KIB, 256],
  [16 * KIB, 1024],
];
const ROUTES = {
  cma: { env: { UCX_TLS: 'posix,cma' }, params: { ucx_error_handling_mode: 'none' } },
  tcp: { env: { UCX_TLS: 'tcp' }, params: {} },
};
const NIXL = '../../packages/nixel-nixl/dist/index.js';

const clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  setTimer: (delayMs, callback) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer),
  defer: (callback) => void setImmediate(callback),
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};
const log = { debug() {}, info() {}, warn: console.error, error: console.error, child: () => log, isEnabled: () => false };

function fakeHost(name) {
  const segments = new Map();
  return {
    agentName: name,
    incarnation: String(process.pid),
    segments,
    segment: (id) => segments.get(id),
    allows: () => 0,
    notified() {},
    disconnected: (peer) => console.error(`lost ${peer}`),
    add() {
      const segment = { id: segments.size + 1, kind: 'dram', bytes: new Uint8Array(new SharedArrayBuffer(TOTAL)), lengthBytes: TOTAL };
      segment.bytes.fill(name === 'owner' ? 7 : 9);
      segments.set(segment.id, segment);
      return segment;
    },
  };
}

async function openEndpoint(name, params) {
  const { NixlTransport } = await import(NIXL);
  const host = fakeHost(name);
  const endpoint = await new NixlTransport({ clock, log, params }).open(host);
  const segment = host.add();
  endpoint.registered(segment);
  return { host, endpoint, segment };
}

/** One owner behind the transport serves both: bare NIXL reads the same bytes by the same keys. */
async function owner() {
  const { host, endpoint, segment } = await openEndpoint('owner', JSON.parse(process.argv[3]));
  process.on('disconnect', () => process.exit(0));
  process.send({ name: 'owner', incarnation: host.incarnation, metadata: endpoint.metadata(), segment: { id: 1, kind: 'dram', lengthBytes: segment.lengthBytes, metadata: endpoint.segmentMetadata(segment) } });
}

function shuffled(count) {
  const random = seeded(1);
  const blocks = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [blocks[i], blocks[j]] = [blocks[j], blocks[i]];
  }
  return blocks;
}

/** The library knows addresses only: what lies there must not be collected. */
const keptAlive = [];

/** What the library gives without us: prepared once, posted, status looked at in a tight loop. */
async function bare(params, hello) {
  const { findLibrary, loadNixl, machineSearch } = await import(NIXL);
  const found = findLibrary(machineSearch(''));
  const library = loadNixl(found.file, found.version);
  const agent = library.createAgent(`bare#${process.pid}`, { progressThread: true });
  const backend = agent.createBackend('UCX', params);
  const bytes = new Uint8Array(new SharedArrayBuffer(TOTAL));
  bytes.fill(9);
  const address = library.address(bytes);
  keptAlive.push(bytes);
  agent.register(backend, 0, { address, length: TOTAL, device: 1n });
  const peer = agent.load(Buffer.from(hello.metadata.connection, 'base64'));
  agent.load(Buffer.from(hello.segment.metadata.key, 'base64'));
  const base = BigInt(`0x${hello.segment.metadata.address}`);
  const rows = (start, order, block) => ({
    count: order.length,
    addresses: BigUint64Array.from(order, (at) => start + BigInt(at * block)),
    lengths: new Float64Array(order.length).fill(block),
    devices: new BigUint64Array(order.length).fill(1n),
  });
  return (op, block, count) => {
    const order = shuffled(count);
    const indices = Int32Array.from(order, (_, i) => i);
    const local = agent.prepare(backend, '', 0, rows(address, order.map((_, i) => i), block));
    const remote = agent.prepare(backend, peer, 0, rows(base, order, block));
    const request = agent.request(backend, op, local, indices, remote, indices);
    return () => {
      let status = agent.post(request, undefined);
      while (status === 1) status = agent.status(request);
      if (status !== 0) throw new Error(`bare NIXL ended with ${status}`);
    };
  };
}

async function ours(params, hello) {
  const { endpoint } = await openEndpoint('reader', params);
  endpoint.connect({ name: hello.name, incarnation: hello.incarnation, metadata: hello.metadata, segments: new Map([[1, hello.segment]]) });
  return (op, block, count) => {
    const order = shuffled(count);
    const columns = (at) => ({ count, segments: new Int32Array(count).fill(1), offsets: Float64Array.from(at, (i) => i * block), lengths: new Int32Array(count).fill(block) });
    const plan = { op, peer: 'owner', local: columns(order.map((_, i) => i)), remote: columns(order), bytes: block * count };
    return () => new Promise((resolve, reject) => void endpoint.post(plan, undefined, (status) => (status === 0 ? resolve() : reject(new Error(`ended with ${status}`)))));
  };
}

async function timed(transfer, times) {
  const micros = [];
  for (let i = 0; i < times; i++) {
    const start = performance.now();
    await transfer();
    micros.push((performance.now() - start) * 1000);
  }
  return micros;
}

/** Runs in its own process: UCX reads its environment once. */
async function measure() {
  const [route, rounds] = [process.argv[3], Number(process.argv[4])];
  const { params } = ROUTES[route];
  const child = fork(fileURLToPath(import.meta.url), ['owner', JSON.stringify(params)]);
  const [hello] = await once(child, 'message');
  const sides = { ours: await ours(params, hello), bare: await bare(params, hello) };
  const rows = [];
  for (const op of ['read', 'write']) {
    for (const [block, count] of [...SHAPES, [16 * KIB, 1]]) {
      const transfers = { ours: sides.ours(op, block, count), bare: sides.bare(op, block, count) };
      const micros = { ours: [], bare: [] };
      const times = count === 1 ? 200 : 10;
      for (const side of ['ours', 'bare']) await timed(transfers[side], 5);
      for (let round = 0; round < rounds; round++) for (const side of round % 2 === 0 ? ['ours', 'bare'] : ['bare', 'ours']) micros[side].push(...(await timed(transfers[side], times)));
      const [mine, peer] = [median(micros.ours), median(micros.bare)];
      const gb = (us) => (block * count) / us / 1e3;
      if (count > 1) rows.push({ name: `${route} ${op} ${block / KIB} KiB x ${count}`, value: gb(mine), unit: 'GB/s', peer: gb(peer), ratio: peer / mine, target: 0.95 * gb(peer) });
      // On a busy machine medians tell the neighbours' load; the quickest tenth tells what a path can do.
      const quick = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 10)];
      if (count > 1) rows.push({ name: `${route} ${op} ${block / KIB} KiB x ${count}, quickest tenth`, value: gb(quick(micros.ours)), unit: 'GB/s', peer: gb(quick(micros.bare)), target: 0.95 * gb(quick(micros.bare)) });
      else rows.push({ name: `${route} ${op} 16 KiB x 1, p50`, value: mine, unit: 'us', peer });
    }
  }
  process.send(rows);
  child.kill();
  setTimeout(() => process.exit(0), 50);
}

export async function run({ options, log: say }) {
  const { findLibrary, machineSearch } = await import(NIXL);
  const found = findLibrary(machineSearch(''));
  if (typeof found === 'string') {
    say(`not measured: ${found}`);
    return [];
  }
  const rows = [];
  for (const route of (options.route ?? 'cma,tcp').split(',')) {
    const child = fork(fileURLToPath(import.meta.url), ['measure', route, String(options.rounds ?? 6)], { env: { ...process.env, NIXL_LOG_LEVEL: 'fatal', ...ROUTES[route].env } });
    const [found] = await Promise.race([once(child, 'message'), once(child, 'exit').then(([code]) => Promise.reject(new Error(`${route} ended with ${code}`)))]);
    rows.push(...found);
  }
  say(`peer: bare NIXL ${found.version} by the same binding; target: 0.95 of it`);
  return rows;
}

if (process.argv[2] === 'owner') await owner();
else if (process.argv[2] === 'measure') await measure();
