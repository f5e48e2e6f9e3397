// Transfers between two processes of this host: shm beside one libc memcpy per block on the same memory, cma beside one bare process_vm_readv,
// the same blocks in the same random order, on the same thread, in turns. Not measured: more than one peer at a time, NUMA machines.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { median, seeded } from './lib/measure.mjs';

export const description = 'shm and cma transports between two processes: GB/s, latency, CPU of posting, event loop; limit = memcpy or process_vm_readv in the same run';
export const packages = ['nixel'];

const KIB = 1024;
const TOTAL = 256 << 20;
const SHAPES = [
  [16 * KIB, 1024, 60],
  [64 * KIB, 256, 60],
  [1024 * KIB, 64, 30],
  [64 * 1024 * KIB, 4, 8],
];
/** Of the issue: shm against memcpy per block. */
const TARGETS = { 'shm 16x1024': 0.7, 'shm 64x256': 0.8 };

const clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  setTimer: (delayMs, callback) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer),
  defer: (callback) => void setImmediate(callback),
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};
const log = { debug() {}, info() {}, warn: console.warn, error: console.error, child: () => log, isEnabled: () => false };

/** The C library as the limit uses it: nothing of ours in between. */
function bareLibc(nixel) {
  const koffi = createRequire(nixel)('koffi');
  const libc = koffi.load(null);
  const address = libc.func('memcpy', 'uintptr_t', ['void *', 'uintptr_t', 'size_t']);
  return {
    mmap: libc.func('intptr_t mmap(uintptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)'),
    memcpy: libc.func('uintptr_t memcpy(uintptr_t target, uintptr_t source, size_t length)'),
    readv: libc.func('int64_t process_vm_readv(int pid, void *local, unsigned long localCount, void *remote, unsigned long remoteCount, unsigned long flags)'),
    addressOf: (bytes) => address(bytes, 0, 0),
  };
}

async function makeAgent(nixel, name, transport) {
  const { createAgent, ShmTransport, CmaTransport } = await import(nixel);
  const made = transport === 'shm' ? new ShmTransport({ clock, log }) : new CmaTransport({ clock, log, sameUserTrust: true });
  const reason = made.unavailable();
  if (reason !== undefined) throw new Error(`${transport} is not available: ${reason}`);
  return createAgent({ name, clock, log, transports: [made] });
}

async function owner() {
  const [nixel, transport] = process.argv.slice(3);
  const { createSharedMemory } = await import(nixel);
  const agent = await makeAgent(nixel, 'owner', transport);
  const memory = transport === 'shm' ? createSharedMemory({ name: 'bench', lengthBytes: TOTAL }) : undefined;
  const buffer = memory?.buffer ?? new ArrayBuffer(TOTAL);
  const segment = agent.register({ buffer, lengthBytes: TOTAL, ...(memory === undefined ? {} : { location: memory.location() }) });
  const words = new Uint32Array(buffer);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 2654435761);
  process.on('disconnect', () => process.exit(0));
  process.send({ metadata: Buffer.from(agent.metadata()).toString('base64'), segment: segment.id, pid: process.pid, fd: memory?.fd ?? -1, address: bareLibc(nixel).addressOf(segment.bytes) });
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
  async open(nixel, transport) {
    const { blockDescriptors } = await import(nixel);
    this.blockDescriptors = blockDescriptors;
    this.transport = transport;
    this.libc = bareLibc(nixel);
    this.child = fork(fileURLToPath(import.meta.url), ['owner', nixel, transport], { serialization: 'json' });
    [this.owner] = await once(this.child, 'message');
    this.agent = await makeAgent(nixel, 'initiator', transport);
    this.segment = this.agent.register({ buffer: new ArrayBuffer(TOTAL) });
    this.segment.bytes.fill(9);
    this.here = this.libc.addressOf(this.segment.bytes);
    this.there = transport === 'shm' ? this.#map() : this.owner.address;
    this.agent.addPeer(Buffer.from(this.owner.metadata, 'base64'));
    return this;
  }

  /** The same memory at an address of this process, every page touched, for the limit. */
  #map() {
    const fd = openSync(`/proc/${this.owner.pid}/fd/${this.owner.fd}`, 'r');
    const address = this.libc.mmap(0, TOTAL, 1, 1 /* MAP_SHARED */, fd, 0);
    closeSync(fd);
    this.libc.memcpy(this.here, address, TOTAL);
    return address;
  }

  prepare(op, blockBytes, order) {
    const layout = { blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes };
    const here = Int32Array.from({ length: order.length }, (_, i) => i);
    return this.agent.prepare({ op, peer: 'owner', local: this.blockDescriptors(this.segment.id, layout, here), remote: this.blockDescriptors(this.owner.segment, layout, order) });
  }

  post(handle) {
    return new Promise((resolve, reject) => this.agent.post(handle, {}, (status) => (status === 0 ? resolve() : reject(new Error(`transfer ended with status ${status}`)))));
  }

  /** The same copies without us. */
  limit(blockBytes, order) {
    const { here, there, libc } = this;
    const count = order.length;
    if (this.transport === 'shm') {
      const sources = Float64Array.from(order, (block) => there + block * blockBytes);
      return () => {
        for (let i = 0; i < count; i++) libc.memcpy(here + i * blockBytes, sources[i], blockBytes);
      };
    }
    const local = BigUint64Array.from({ length: 2 * count }, (_, i) => (i % 2 === 0 ? BigInt(here + (i / 2) * blockBytes) : BigInt(blockBytes)));
    const remote = BigUint64Array.from({ length: 2 * count }, (_, i) => (i % 2 === 0 ? BigInt(there + order[i / 2] * blockBytes) : BigInt(blockBytes)));
    return () => {
      if (libc.readv(this.owner.pid, local, count, remote, count, 0) !== blockBytes * count) throw new Error('process_vm_readv was short');
    };
  }

  check(blockBytes, order) {
    const words = new Uint32Array(this.segment.bytes.buffer);
    const perBlock = blockBytes / 4;
    for (let i = 0; i < order.length; i++) {
      for (const at of [0, 1, perBlock >> 1, perBlock - 1]) {
        if (words[i * perBlock + at] !== Math.imul(order[i] * perBlock + at, 2654435761) >>> 0) throw new Error(`block ${order[i]} did not arrive`);
      }
    }
  }

  async close() {
    await this.agent.close();
    this.child.disconnect();
    await once(this.child, 'exit');
  }
}

const percentile = (values, p) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * p))];
const micros = (start) => (performance.now() - start) * 1000;

async function throughput({ pair, rows, label }) {
  for (const [blockBytes, count, rounds] of SHAPES) {
    const order = shuffled(count, 1);
    const handle = pair.prepare('read', blockBytes, order);
    const limit = pair.limit(blockBytes, order);
    const own = [];
    const bare = [];
    for (let round = -3; round < rounds; round++) {
      const turns = [
        async () => {
          const start = performance.now();
          await pair.post(handle);
          if (round >= 0) own.push(micros(start));
        },
        () => {
          const start = performance.now();
          limit();
          if (round >= 0) bare.push(micros(start));
        },
      ];
      for (const turn of round % 2 === 0 ? turns : turns.reverse()) await turn();
    }
    pair.segment.bytes.fill(9);
    await pair.post(handle);
    pair.check(blockBytes, order);
    const bytes = blockBytes * count;
    const shape = `${blockBytes / KIB}x${count}`;
    const best = bytes / median(bare) / 1e3;
    const target = TARGETS[`${pair.transport} ${shape}`];
    const value = bytes / median(own) / 1e3;
    rows.push({ name: `${label}/${blockBytes / KIB}KiB x ${count}`, value, unit: 'GB/s', limit: best, ratio: value / best, ...(target === undefined ? {} : { target: best * target }) });
  }
}

async function latency({ pair, rows, label }) {
  const handles = Array.from({ length: 64 }, (_, i) => pair.prepare('read', 16 * KIB, Int32Array.of((i * 151) % 4096)));
  for (const handle of handles) await pair.post(handle);
  const limit = pair.limit(16 * KIB, Int32Array.of(77));
  const own = [];
  const bare = [];
  for (let i = 0; i < 8000; i++) {
    const start = performance.now();
    pair.agent.post(handles[i % 64]);
    if (pair.agent.check(handles[i % 64]) !== 0) throw new Error('a small transfer was not done inside post');
    if (i >= 2000) own.push(micros(start));
    const bareStart = performance.now();
    limit();
    if (i >= 2000) bare.push(micros(bareStart));
    if (i % 50 === 49) await new Promise(setImmediate);
  }
  rows.push({ name: `${label}/16KiB x 1, p50`, value: median(own), unit: 'us', limit: median(bare), ...(pair.transport === 'shm' ? { target: 8 } : {}) });
  rows.push({ name: `${label}/16KiB x 1, p99`, value: percentile(own, 0.99), unit: 'us', limit: percentile(bare, 0.99) });
}

/** What the caller pays before it has the thread back; the copying itself comes in turns. */
async function posting({ pair, rows, label }) {
  const first = [];
  const again = [];
  for (let i = 0; i < 60; i++) {
    const handle = pair.prepare('read', 16 * KIB, shuffled(1024, 100 + i));
    for (const times of [first, again]) {
      const before = process.cpuUsage();
      const start = performance.now();
      const done = pair.post(handle);
      const wallUs = micros(start);
      const { user, system } = process.cpuUsage(before);
      times.push(Math.max(wallUs, user + system));
      await done;
    }
    pair.agent.release(handle);
  }
  rows.push({ name: `${label}/post of 1,024 descriptors, first time`, value: median(first), unit: 'us', target: 200 });
  rows.push({ name: `${label}/post of 1,024 descriptors, again`, value: median(again), unit: 'us', target: 200 });
}

async function curve({ pair, rows, label }) {
  for (const count of [1, 4, 16, 64, 256, 1024]) {
    const handle = pair.prepare('read', 16 * KIB, shuffled(count, 3));
    const times = [];
    for (let i = 0; i < 200; i++) {
      const start = performance.now();
      await pair.post(handle);
      if (i >= 50) times.push(micros(start));
    }
    rows.push({ name: `${label}/16KiB x ${count}, per block`, value: median(times) / count, unit: 'us' });
  }
}

/** Longest stay away from the event loop while 256 MiB are copied; CPU time, since other programs take the core away at will. */
async function stalls({ pair, rows, label }) {
  const handle = pair.prepare('read', 64 * KIB, shuffled(TOTAL / (64 * KIB), 5));
  await pair.post(handle);
  const wall = [];
  const longest = [];
  for (let round = 0; round < 15; round++) {
    const cpu = [];
    let isRunning = true;
    let last = performance.now();
    let used = process.cpuUsage();
    const tick = () => {
      const now = performance.now();
      const { user, system } = process.cpuUsage(used);
      wall.push((now - last) * 1000);
      cpu.push(user + system);
      last = now;
      used = process.cpuUsage();
      if (isRunning) setImmediate(tick);
    };
    setImmediate(tick);
    await pair.post(handle);
    isRunning = false;
    await new Promise(setImmediate);
    longest.push(Math.max(...cpu));
  }
  // Garbage collection counts; the median of rounds, because the collector's threads are in the figure too.
  rows.push({ name: `${label}/event loop away at most, 256 MiB (CPU)`, value: median(longest), unit: 'us', target: 1000 });
  rows.push({ name: `${label}/event loop away, 256 MiB, p99 (wall)`, value: percentile(wall, 0.99), unit: 'us', target: 1000 });
}

export async function run({ options }) {
  const nixel = options.nixel ?? import.meta.resolve('@armature/nixel');
  const rows = [];
  for (const transport of (options.transports ?? 'shm,cma').split(',')) {
    const pair = await new Pair().open(nixel, transport);
    const label = `nixel/${transport}`;
    for (const measure of [throughput, latency, posting, curve, stalls]) await measure({ pair, rows, label });
    await pair.close();
  }
  return rows;
}

if (process.argv[2] === 'owner') await owner();
