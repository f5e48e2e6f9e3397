// File transport against raw fs.read/fs.write with the same descriptor, memory and queue depth, and fio where it is installed.
// Not measured: several disks, other file systems, a disk that others leave alone.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { median, seeded } from './lib/measure.mjs';

export const description = 'file transport: GB/s at 64 KiB and 1 MiB, random, QD32, O_DIRECT, against raw fs and fio';
export const packages = ['nixel'];

const TOTAL = 256 << 20;
const QUEUE_DEPTH = 32;
const SHAPES = [
  [64 << 10, 1024],
  [1 << 20, 128],
];
const clock = { nowMs: () => performance.now(), setTimer: (ms, call) => setTimeout(call, ms), clearTimer: (timer) => clearTimeout(timer), defer: (call) => setImmediate(call) };
const log = { debug() {}, info() {}, warn: console.warn, error: console.error, child: () => log, isEnabled: () => false };

function shuffled(count, seed) {
  const random = seeded(seed);
  const blocks = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [blocks[i], blocks[j]] = [blocks[j], blocks[i]];
  }
  return blocks;
}

/** What Node itself gives: QUEUE_DEPTH positional calls in flight, nothing around them. */
function raw(op, fd, memory, { blockBytes, places }) {
  const call = op === 'read' ? fs.read : fs.write;
  return new Promise((resolve, reject) => {
    let next = 0;
    let left = places.length;
    const begin = () => {
      if (next === places.length) return;
      const i = next++;
      call(fd, memory, i * blockBytes, blockBytes, places[i] * blockBytes, (error, moved) => {
        if (error || moved !== blockBytes) reject(error ?? new Error('short'));
        else if (--left === 0) resolve();
        else begin();
      });
    };
    for (let i = 0; i < QUEUE_DEPTH; i++) begin();
  });
}

function fio(file, op, blockBytes) {
  try {
    const words = ['--name=limit', `--filename=${file}`, `--size=${TOTAL}`, `--rw=rand${op}`, `--bs=${blockBytes}`, '--direct=1', `--iodepth=${QUEUE_DEPTH}`, '--ioengine=libaio', '--time_based', '--runtime=1', '--output-format=json'];
    const [job] = JSON.parse(execFileSync('fio', words, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })).jobs;
    return job[op].bw_bytes / 1e9;
  } catch {
    return undefined;
  }
}

async function timed(run) {
  const start = performance.now();
  await run();
  return (performance.now() - start) * 1000;
}

export async function run({ options, root, log: say }) {
  const { createAgent, descriptors, FileTransport, openFile } = await import(options.nixel ?? import.meta.resolve('@armature/nixel'));
  const folder = fs.mkdtempSync(path.join(options.folder ?? root, '.bench-file-'));
  const name = path.join(folder, 'blocks');
  const rows = [];
  try {
    const file = await openFile({ path: name, lengthBytes: TOTAL, mode: 'create' });
    const agent = await createAgent({ name: 'bench', clock, log, transports: [new FileTransport({ clock, log, queueDepth: QUEUE_DEPTH })] });
    const memory = agent.register({ buffer: new WebAssembly.Memory({ initial: TOTAL / 65536, maximum: TOTAL / 65536, shared: true }).buffer });
    const there = agent.register({ location: file.location, lengthBytes: TOTAL });
    memory.bytes.fill(3);
    const fd = fs.openSync(name, fs.constants.O_RDWR | (file.location.direct ? fs.constants.O_DIRECT : 0));
    say(`O_DIRECT ${file.location.direct ? 'on' : 'not to be had'}, UV_THREADPOOL_SIZE ${process.env.UV_THREADPOOL_SIZE ?? 4}; limit: raw fs; peer: fio libaio`);
    for (const [blockBytes, count] of SHAPES) {
      const places = shuffled(TOTAL / blockBytes, 7).slice(0, count);
      const list = (segment, at) => descriptors(Array.from({ length: count }, (_, i) => ({ segment, offset: at(i) * blockBytes, length: blockBytes })));
      for (const op of ['write', 'read']) {
        const handle = agent.prepare({ op, peer: 'bench', local: list(memory.id, (i) => i), remote: list(there.id, (i) => places[i]) });
        const ours = () => new Promise((resolve, reject) => agent.post(handle, {}, (status) => (status === 0 ? resolve() : reject(new Error(`status ${status}`)))));
        const theirs = () => raw(op, fd, Buffer.from(memory.bytes.buffer), { blockBytes, places });
        const [our, their] = [[], []];
        await theirs();
        await ours();
        for (let round = 0; round < Number(options.rounds ?? 7); round++) {
          their.push(await timed(theirs));
          our.push(await timed(ours));
        }
        const gb = (micros) => (blockBytes * count) / median(micros) / 1e3;
        rows.push({ name: `${op} ${blockBytes >> 10} KiB x ${count}`, value: gb(our), unit: 'GB/s', limit: gb(their), peer: options.fio === 'false' ? undefined : fio(name, op, blockBytes) });
      }
    }
    fs.closeSync(fd);
    await agent.close();
    await file.close();
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
  return rows;
}
