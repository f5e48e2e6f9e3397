// Transfers over TCP between two processes on loopback, beside what TCP itself gives on this machine in the same run.
// Not measured: two hosts, a real NIC, more than one peer at a time.
import { execFileSync, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { median, seeded } from './lib/measure.mjs';

export const description = 'tcp transport: GB/s, latency, CPU of posting, against iperf3 (or a bare node:net pair) on loopback';
export const packages = ['nixel'];

const KIB = 1024;
const TOTAL = 64 << 20;
const SHAPES = [
  [16 * KIB, 1024],
  [64 * KIB, 256],
  [1024 * KIB, 64],
];
/** NVIDIA NIXL 1.5.1 over tcp (UCX), C API called from Node, this kind of machine; measured elsewhere: GB/s READ and WRITE, median. */
const NIXL = { '16x1024': { read: 0.76, write: 0.68 }, '64x256': { read: 1.1, write: 2.4 }, '1024x64': { read: 1.0, write: 2.2 } };

/** Times NIXL's that ours must reach. */
const TARGETS = { read: 3, write: 1.3 };

const clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  setTimer: (delayMs, callback) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer),
  defer: (callback) => void setImmediate(callback),
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};
const log = { debug() {}, info() {}, warn: console.warn, error: console.error, child: () => log, isEnabled: () => false };

async function makeAgent(nixel, name, config) {
  const { createAgent, TcpTransport } = await import(nixel);
  const agent = await createAgent({ name, clock, log, transports: [new TcpTransport({ clock, log, ...config })] });
  const segment = agent.register({ buffer: new SharedArrayBuffer(TOTAL) });
  segment.bytes.fill(name === 'owner' ? 7 : 9);
  return { agent, segment };
}

async function owner() {
  const [nixel, config] = [process.argv[3], JSON.parse(process.argv[4])];
  const { agent, segment } = await makeAgent(nixel, 'owner', config);
  for (let at = 0; at < TOTAL; at += 4096) new DataView(segment.bytes.buffer).setUint32(at, at, true);
  process.on('message', () => {
    const { user, system } = process.cpuUsage();
    process.send({ cpuUs: user + system });
  });
  process.on('disconnect', () => process.exit(0));
  process.send({ metadata: Buffer.from(agent.metadata()).toString('base64'), segment: segment.id });
}

function shuffled(count, seed) {
  const random = seeded(seed);
  const blocks = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [blocks[i], blocks[j]] = [blocks[j], blocks[i]];
  }
  return blocks;
}

class Pair {
  async open(nixel, config) {
    const { blockDescriptors } = await import(nixel);
    this.blockDescriptors = blockDescriptors;
    this.child = fork(fileURLToPath(import.meta.url), ['owner', nixel, JSON.stringify(config)], { serialization: 'json' });
    const [hello] = await once(this.child, 'message');
    this.remote = hello.segment;
    const { agent, segment } = await makeAgent(nixel, 'reader', config);
    this.agent = agent;
    this.segment = segment;
    agent.addPeer(Buffer.from(hello.metadata, 'base64'));
    return this;
  }

  prepare(op, blockBytes, count, seed = 1) {
    const layout = { blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes };
    const order = shuffled(Math.min(TOTAL / blockBytes, Math.max(count, 256)), seed).slice(0, count);
    const here = Int32Array.from({ length: count }, (_, i) => i);
    const handle = this.agent.prepare({
      op,
      peer: 'owner',
      local: this.blockDescriptors(this.segment.id, layout, here),
      remote: this.blockDescriptors(this.remote, layout, order),
    });
    return { handle, order };
  }

  post(handle) {
    return new Promise((resolve, reject) => this.agent.post(handle, {}, (status) => (status === 0 ? resolve() : reject(new Error(`transfer ended with status ${status}`)))));
  }

  async ownerCpuUs() {
    this.child.send('cpu');
    const [{ cpuUs }] = await once(this.child, 'message');
    return cpuUs;
  }

  async close() {
    await this.agent.close();
    this.child.disconnect();
    await once(this.child, 'exit');
  }
}

/** Microseconds of each of `times` posts. */
async function timed(pair, handle, times) {
  const micros = [];
  for (let i = 0; i < times; i++) {
    const start = performance.now();
    await pair.post(handle);
    micros.push((performance.now() - start) * 1000);
  }
  return micros;
}

/** GB/s of one iperf3 stream, or of a bare node:net pair of processes. */
async function limit(hasIperf) {
  return hasIperf ? iperfLimit() : bareLimit();
}

const iperfCpuUsPerMiB = [];

async function iperfLimit() {
  const port = String(20_000 + (process.pid % 20_000));
  const server = spawn('iperf3', ['-s', '-1', '-p', port, '--forceflush'], { stdio: ['ignore', 'pipe', 'ignore'] });
  await once(server.stdout, 'data');
  const client = spawn('iperf3', ['-c', '127.0.0.1', '-p', port, '-t', '1', '-J'], { stdio: ['ignore', 'pipe', 'ignore'] });
  let text = '';
  client.stdout.on('data', (chunk) => (text += chunk));
  await Promise.all([once(client, 'close'), once(server, 'close')]);
  const { sum_received: { bytes, bits_per_second: rate, seconds }, cpu_utilization_percent: cpu } = JSON.parse(text).end;
  // CPU of both ends, as a share of the time: what survives a machine that others use too.
  iperfCpuUsPerMiB.push(((cpu.host_total + cpu.remote_total) * seconds * 1e4) / (bytes / 2 ** 20));
  return rate / 8e9;
}

const BARE_CHUNK = 1 << 20;

function bareSender() {
  const chunk = Buffer.alloc(BARE_CHUNK, 7);
  const socket = net.connect({ host: '127.0.0.1', port: Number(process.argv[3]), highWaterMark: 4 << 20 });
  const send = () => {
    while (socket.write(chunk));
  };
  socket.on('drain', send).on('error', () => process.exit(0)).on('close', () => process.exit(0)).on('connect', send);
}

async function bareLimit() {
  const buffer = Buffer.alloc(BARE_CHUNK);
  // A listener cannot set onread: this end listens, takes the handle of the connection and reads it with a socket that can.
  const server = net.createServer({ pauseOnConnect: true });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const sender = fork(fileURLToPath(import.meta.url), ['bare-sender', String(server.address().port)]);
  const [accepted] = await once(server, 'connection');
  let bytes = 0;
  const socket = new net.Socket({ handle: accepted._handle, onread: { buffer, callback: (length) => ((bytes += length), true) } });
  socket.on('error', () => {});
  socket.resume();
  await clock.sleep(200);
  const before = bytes;
  const start = performance.now();
  await clock.sleep(800);
  const gbPerSecond = (bytes - before) / ((performance.now() - start) * 1e6);
  socket.destroy();
  server.close();
  sender.kill();
  return gbPerSecond;
}

function has(program) {
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const gb = (bytes, micros) => bytes / micros / 1e3;
const percentile = (values, p) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * p))];

async function throughput({ pair, hasIperf, rounds, log: say, rows, label }) {
  const limits = [];
  const micros = new Map();
  const prepared = SHAPES.flatMap(([blockBytes, count]) => ['read', 'write'].map((op) => ({ op, blockBytes, count, ...pair.prepare(op, blockBytes, count) })));
  for (const { handle } of prepared) await timed(pair, handle, 3);
  for (let round = 0; round < rounds; round++) {
    if (hasIperf !== undefined) limits.push(await limit(hasIperf));
    for (const shape of prepared) {
      const key = `${shape.blockBytes / KIB}x${shape.count} ${shape.op}`;
      micros.set(key, [...(micros.get(key) ?? []), ...(await timed(pair, shape.handle, 12))]);
    }
  }
  check(pair, prepared);
  const best = limits.length > 0 ? median(limits) : undefined;
  for (const shape of prepared) {
    const shapeKey = `${shape.blockBytes / KIB}x${shape.count}`;
    const value = gb(shape.blockBytes * shape.count, median(micros.get(`${shapeKey} ${shape.op}`)));
    const row = { name: `${label}${shape.op} ${shape.blockBytes / KIB} KiB x ${shape.count}`, value, unit: 'GB/s' };
    rows.push(label === '' ? { ...row, limit: best, peer: NIXL[shapeKey][shape.op], target: TARGETS[shape.op] * NIXL[shapeKey][shape.op] } : row);
  }
  if (best !== undefined) say(`limit: ${hasIperf ? 'iperf3' : 'bare node:net pair (iperf3 is not installed)'}, ${limits.map((value) => value.toFixed(2)).join(' ')} GB/s; peer: NIXL 1.5.1 over tcp, measured elsewhere`);
}

/** The last write changed the owner's memory to ours; reads must have brought what the table says. */
function check(pair, prepared) {
  const { order, blockBytes, count } = prepared.at(-2);
  const view = new DataView(pair.segment.bytes.buffer);
  for (let i = 0; i < count; i++) if (view.getUint32(i * blockBytes, true) === 0x09090909) throw new Error(`block ${order[i]} did not arrive`);
}

/** CPU of both processes per MiB moved, beside iperf3's. */
async function cpuPerMiB({ pair, rows }) {
  for (const [blockBytes, count] of SHAPES) {
    for (const op of ['read', 'write']) {
      const { handle } = pair.prepare(op, blockBytes, count);
      await timed(pair, handle, 5);
      const times = Math.ceil((1 << 30) / (blockBytes * count));
      const [here, there] = [process.cpuUsage(), await pair.ownerCpuUs()];
      await timed(pair, handle, times);
      const { user, system } = process.cpuUsage(here);
      const value = (user + system + (await pair.ownerCpuUs()) - there) / ((times * blockBytes * count) / 2 ** 20);
      rows.push({ name: `${op} ${blockBytes / KIB} KiB x ${count}, CPU per MiB, both ends`, value, unit: 'us', limit: iperfCpuUsPerMiB.length > 0 ? median(iperfCpuUsPerMiB) : undefined });
    }
  }
}

async function latency({ pair, rows }) {
  const { handle } = pair.prepare('read', 16 * KIB, 1);
  await timed(pair, handle, 500);
  const micros = await timed(pair, handle, 3000);
  rows.push({ name: 'read 16 KiB x 1, p50', value: median(micros), unit: 'us', target: 60 });
  rows.push({ name: 'read 16 KiB x 1, p99', value: percentile(micros, 0.99), unit: 'us' });
}

async function posting({ pair, rows }) {
  const { handle } = pair.prepare('read', 4 * KIB, 1024);
  const cpu = [];
  for (let i = 0; i < 200; i++) {
    const before = process.cpuUsage();
    const start = performance.now();
    const done = pair.post(handle);
    const wallUs = (performance.now() - start) * 1000;
    const { user, system } = process.cpuUsage(before);
    await done;
    cpu.push(Math.max(user + system, wallUs));
  }
  rows.push({ name: 'post of 1,024 descriptors, CPU', value: median(cpu), unit: 'us', target: 200 });
}

async function curve({ pair, rows }) {
  for (const count of [1, 4, 16, 64, 256, 1024]) {
    const { handle } = pair.prepare('read', 16 * KIB, count, 3);
    await timed(pair, handle, 20);
    const micros = await timed(pair, handle, count > 200 ? 40 : 200);
    rows.push({ name: `read 16 KiB x ${count}, per block`, value: median(micros) / count, unit: 'us' });
  }
}

/** Longest turn of the event loop beyond its timer's resolution, here while reading and writing. */
async function stalls({ pair, rows }) {
  for (const op of ['read', 'write']) {
    const { handle } = pair.prepare(op, 64 * KIB, 256);
    await timed(pair, handle, 5);
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    await timed(pair, handle, 100);
    delay.disable();
    rows.push({ name: `event loop delay while ${op === 'read' ? 'reading' : 'writing'} 64 KiB x 256, p99`, value: delay.percentile(99) / 1000 - 1000, unit: 'us', target: 1000 });
  }
}

/** Certificates of a throw-away authority; undefined without openssl. */
function certificates(folder) {
  try {
    const openssl = (...words) => execFileSync('openssl', words, { cwd: folder, stdio: 'ignore' });
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    openssl('req', '-x509', ...key, '-keyout', 'key.pem', '-out', 'cert.pem', '-subj', '/CN=bench', '-days', '2', '-addext', 'subjectAltName=IP:127.0.0.1');
    const at = (name) => path.join(folder, name);
    return { certFile: at('cert.pem'), keyFile: at('key.pem'), caFile: at('cert.pem') };
  } catch {
    return undefined;
  }
}

/** Payload over TLS is decrypted into Node's buffers and copied: what that costs. */
async function overTls({ nixel, config, rows, log: say }) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'nixel-bench-'));
  try {
    const tls = certificates(folder);
    if (tls === undefined) return say('TLS left out: no openssl');
    const pair = await new Pair().open(nixel, { ...config, tls });
    for (const op of ['read', 'write']) {
      const { handle } = pair.prepare(op, 64 * KIB, 256);
      await timed(pair, handle, 5);
      rows.push({ name: `TLS ${op} 64 KiB x 256`, value: gb(64 * KIB * 256, median(await timed(pair, handle, 30))), unit: 'GB/s' });
    }
    await pair.close();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export async function run({ options, log: say }) {
  const nixel = options.nixel ?? import.meta.resolve('@armature/nixel');
  const config = options.streams === undefined ? {} : { streams: Number(options.streams) };
  const rows = [];
  const pair = await new Pair().open(nixel, config);
  await throughput({ pair, hasIperf: options.iperf !== 'false' && has('iperf3'), rounds: Number(options.rounds ?? 5), log: say, rows, label: '' });
  for (const measure of [cpuPerMiB, latency, posting, curve, stalls]) await measure({ pair, rows });
  await pair.close();
  await overTls({ nixel, config, rows, log: say });
  return rows;
}

if (process.argv[2] === 'owner') await owner();
else if (process.argv[2] === 'bare-sender') bareSender();
