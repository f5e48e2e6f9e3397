// Proves GPU memory transfers on a machine with an NVIDIA GPU: byte equality of random layouts (host to GPU, GPU to host, within the GPU, between
// two processes), then GB/s beside one bare copy of the whole buffer in the same run. Without a driver: says so, exits 0.
//   npx tsc -b packages/nixel && node tools/cuda-check.mjs [--json FILE] [--gpu 0] [--rounds 24] [--repeat 15] [--mib 64]
// Not measured: several GPUs, traffic of an engine on the same GPU, fabrics.
import { createHash } from 'node:crypto';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const KIB = 1024;
const SHAPES = [16 * KIB, 64 * KIB, 1024 * KIB];
const { values } = parseArgs({
  options: { json: { type: 'string' }, gpu: { type: 'string', default: '0' }, rounds: { type: 'string', default: '24' }, repeat: { type: 'string', default: '15' }, mib: { type: 'string', default: '64' }, owner: { type: 'string' } },
});
const ordinal = Number(values.gpu);
const BYTES = Number(values.mib) << 20;

const clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  setTimer: (delayMs, callback) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer),
  defer: (callback) => void setImmediate(callback),
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};
const log = { debug() {}, info() {}, warn: console.warn, error: console.error, child: () => log, isEnabled: () => false };

const nixel = await import('@armature/nixel').catch((error) => {
  console.log(`skipped cuda: @armature/nixel cannot be loaded (${error.message}); run npx tsc -b packages/nixel`);
  process.exit(0);
});
const missing = nixel.cudaMissing();
if (missing !== undefined) {
  console.log(`skipped cuda: ${missing}`);
  process.exit(0);
}

/** Mulberry32. */
function random(seed) {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}

const pattern = (length, seed) => {
  const below = random(seed);
  const bytes = new Uint8Array(length);
  const words = new Uint32Array(bytes.buffer, 0, length >> 2);
  for (let i = 0; i < words.length; i++) words[i] = below(0xffff_ffff);
  return bytes;
};
const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1];
const sum = (bytes) => createHash('sha256').update(bytes).digest('hex');
const makeAgent = (name) => nixel.createAgent({ name, transports: [new nixel.CudaTransport({ clock, log })], clock, log });
const deviceSegment = (agent, lengthBytes) => {
  const memory = nixel.allocateDeviceMemory({ ordinal, lengthBytes });
  return { memory, id: agent.register({ location: memory.location(), lengthBytes }).id };
};
const contentOf = (memory) => {
  const bytes = new Uint8Array(memory.lengthBytes);
  memory.read(0, bytes);
  return bytes;
};

if (values.owner !== undefined) await owner();
else await main();

/** The second process: owns GPU memory, tells its sum. */
async function owner() {
  const agent = await makeAgent('owner');
  const { memory, id } = deviceSegment(agent, BYTES);
  memory.write(0, pattern(BYTES, 77));
  process.on('message', (message) => {
    if (message.metadata !== undefined) agent.addPeer(Buffer.from(message.metadata, 'hex'));
    if (message.want === 'sum') process.send({ sum: sum(contentOf(memory)) });
    if (message.want === 'end') void agent.close().then(() => (memory.close(), process.exit(0)));
  });
  process.on('disconnect', () => process.exit(0));
  process.send({ metadata: Buffer.from(agent.metadata()).toString('hex'), segment: id });
}

/** Rows that do not overlap in the target, anywhere in the source; odd lengths, zero among them. */
function randomRows(seed, bytes) {
  const below = random(seed);
  const scale = [1, 100, 5000, 70_000, 1_000_000][below(5)];
  const rows = [];
  for (let at = below(7); rows.length < 3000; ) {
    const length = below(6) === 0 ? 0 : below(2 * scale);
    if (at + length > bytes) break;
    rows.push({ at, length, from: below(bytes - length + 1) });
    at += length + below(3) * below(40);
  }
  for (let i = rows.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [rows[i], rows[j]] = [rows[j], rows[i]];
  }
  return rows;
}

async function mustRun(agent, handle, what) {
  const status = await agent.run(handle);
  if (status !== 0) throw new Error(`${what}: status ${status}`);
}

/** Random rows from `source` to `target` (both {id, load, store}); compares the whole target with a plain model. */
async function equal(agent, peer, { op, target, source, seed, bytes, what }) {
  const rows = randomRows(seed, bytes);
  const list = (segment, key) => nixel.descriptors(rows.map((row) => ({ segment: segment.id, offset: row[key], length: row.length })));
  const [want, from] = [target.load(), source.load()];
  for (const { at, from: offset, length } of rows) want.set(from.subarray(offset, offset + length), at);
  const [local, remote] = op === 'read' ? [list(target, 'at'), list(source, 'from')] : [list(source, 'from'), list(target, 'at')];
  await mustRun(agent, agent.prepare({ op, peer, local, remote }), `${what}, seed ${seed}`);
  if (Buffer.compare(target.load(), want) !== 0) throw new Error(`bytes differ: ${what}, seed ${seed}, ${rows.length} rows`);
  return rows.length;
}

async function main() {
  const { driver } = nixel.cudaRuntime();
  const agent = await makeAgent('check');
  const [one, two] = [deviceSegment(agent, BYTES), deviceSegment(agent, BYTES)];
  const shared = nixel.createSharedMemory({ name: 'cuda-check', lengthBytes: BYTES });
  const hostBytes = new Uint8Array(shared.buffer, 0, BYTES);
  const host = { id: agent.register({ buffer: shared.buffer, lengthBytes: BYTES, location: shared.location() }).id, load: () => hostBytes.slice(), store: (bytes) => hostBytes.set(bytes) };
  const gpu = ({ memory, id }) => ({ id, load: () => contentOf(memory), store: (bytes) => memory.write(0, bytes) });
  const [a, b] = [gpu(one), gpu(two)];
  console.log(`${driver.deviceName(ordinal)}, driver CUDA ${Math.floor(driver.version / 1000)}.${(driver.version % 1000) / 10} (${driver.file}), cuMemcpyBatchAsync ${driver.hasBatch ? 'yes' : 'no'}, ${values.mib} MiB`);

  const child = fork(fileURLToPath(import.meta.url), ['--owner', '1', '--gpu', values.gpu, '--mib', values.mib], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const [hello] = await Promise.race([once(child, 'message'), once(child, 'exit').then(() => Promise.reject(new Error('the second process ended')))]);
  agent.addPeer(Buffer.from(hello.metadata, 'hex'));
  child.send({ metadata: Buffer.from(agent.metadata()).toString('hex') });
  const sumOfOwner = async () => {
    child.send({ want: 'sum' });
    return (await once(child, 'message'))[0].sum;
  };

  let rows = 0;
  let checks = 0;
  for (let seed = 1; seed <= Number(values.rounds); seed++) {
    host.store(pattern(BYTES, seed));
    for (const step of [
      { what: 'host to GPU', op: 'write', target: a, source: host },
      { what: 'within the GPU', op: 'read', target: b, source: a },
      { what: 'GPU to host', op: 'read', target: host, source: b },
    ]) {
      rows += await equal(agent, 'check', { ...step, seed, bytes: BYTES });
      checks++;
    }
  }
  const theirs = pattern(BYTES, 77);
  const far = { id: hello.segment, load: () => theirs.slice() };
  for (let seed = 1; seed <= Math.min(8, Number(values.rounds)); seed++) {
    rows += await equal(agent, 'owner', { what: 'GPU of another process to host', op: 'read', target: host, source: far, seed, bytes: BYTES });
    rows += await equal(agent, 'owner', { what: 'GPU of another process to GPU', op: 'read', target: a, source: far, seed, bytes: BYTES });
    checks += 2;
  }
  const whole = (id) => nixel.descriptors([{ segment: id, offset: 0, length: BYTES }]);
  a.store(pattern(BYTES, 5));
  await mustRun(agent, agent.prepare({ op: 'write', peer: 'owner', local: whole(one.id), remote: whole(hello.segment) }), 'write to another process');
  if ((await sumOfOwner()) !== sum(pattern(BYTES, 5))) throw new Error('bytes differ: GPU to GPU of another process');
  console.log(`equal: ${checks + 1} transfers, ${rows} rows`);

  const results = await measure(agent, { host, a, b, far: hello.segment, memory: one.memory, hostBytes });
  console.table(Object.fromEntries(results.map(({ path, blockKiB, ...row }) => [`${path} ${blockKiB} KiB`, row])));
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify({ gpu: driver.deviceName(ordinal), driver: driver.version, results }, undefined, 2));

  child.send({ want: 'end' });
  await once(child, 'exit');
  await agent.close();
  one.memory.close();
  two.memory.close();
  shared.close();
  const held = nixel.cudaRuntime().held();
  if (Object.values(held).some((count) => count !== 0)) throw new Error(`held after closing: ${JSON.stringify(held)}`);
}

/** Ours in shuffled blocks, and the limit: one copy of the whole pinned buffer, taken in turns. */
async function measure(agent, { host, a, b, far, memory, hostBytes }) {
  const { driver } = nixel.cudaRuntime();
  const loop = monitorEventLoopDelay({ resolution: 1 });
  const results = [];
  const paths = [
    { path: 'host to GPU', op: 'write', peer: 'check', local: host.id, remote: a.id, limit: () => memory.write(0, hostBytes) },
    { path: 'GPU to host', op: 'read', peer: 'check', local: host.id, remote: a.id, limit: () => memory.read(0, hostBytes) },
    { path: 'within the GPU', op: 'read', peer: 'check', local: b.id, remote: a.id, limit: () => (nixel.cudaRuntime().enter(ordinal), driver.copy('onDevice', memory.address, memory.address + BigInt(BYTES / 2), BigInt(BYTES / 2), 0n), driver.synchronize(0n)), limitBytes: BYTES / 2 },
    { path: 'other process to GPU', op: 'read', peer: 'owner', local: b.id, remote: far },
  ];
  for (const { path, op, peer, local, remote, limit, limitBytes = BYTES } of paths) {
    for (const block of SHAPES) {
      const count = BYTES / block;
      const order = randomOrder(count, block);
      const list = (segment, at) => nixel.descriptors(Array.from({ length: count }, (_, i) => ({ segment, offset: at(i) * block, length: block })));
      const handle = agent.prepare({ op, peer, local: list(local, (i) => i), remote: list(remote, (i) => order[i]) });
      await mustRun(agent, handle, path);
      const [ours, bare, postMs] = [[], [], []];
      loop.reset();
      loop.enable();
      for (let i = 0; i < Number(values.repeat); i++) {
        const start = performance.now();
        const ended = agent.run(handle);
        postMs.push(performance.now() - start);
        if ((await ended) !== 0) throw new Error(`${path} failed while measured`);
        ours.push(BYTES / 1e6 / (performance.now() - start));
        if (limit === undefined) continue;
        loop.disable();
        const from = performance.now();
        limit();
        bare.push(limitBytes / 1e6 / (performance.now() - from));
        loop.enable();
      }
      loop.disable();
      const [gbPerSecond, limitGbPerSecond] = [median(ours), bare.length === 0 ? undefined : median(bare)];
      const round = (value) => (value === undefined ? undefined : Math.round(value * 100) / 100);
      results.push({ path, blockKiB: block / KIB, batch: count, gbPerSecond: round(gbPerSecond), limitGbPerSecond: round(limitGbPerSecond), ofLimit: limitGbPerSecond === undefined ? undefined : round(gbPerSecond / limitGbPerSecond), postMs: round(median(postMs)), loopDelayP99Ms: round(loop.percentile(99) / 1e6) });
    }
  }
  return results;
}

function randomOrder(count, seed) {
  const below = random(seed);
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = below(i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
