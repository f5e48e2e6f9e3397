import { createVerifier } from '@armature/kvbm';
import { measureAll, median, seeded } from './measure.mjs';
import { BLOCK_SIZE, openWorker, promptHashes } from './kvbm-worker.mjs';

/** More than the caches hold. */
const TOTAL_BYTES = 128 << 20;
/** Of one prompt. */
const PROMPT_BYTES = 32 << 20;
const LAYERS = 32;

/** GB/s of device → host and back through the manager, beside copy + checksum of the same bytes in a bare loop, and the copy alone. */
export async function hostRows({ rounds, log }) {
  const rows = [];
  for (const pieces of [1, LAYERS]) {
    for (const blockBytes of [64 << 10, 256 << 10, 1 << 20]) {
      const layout = pieces === 1 ? 'contiguous' : `${pieces} pieces`;
      const rates = await measureLayout(blockBytes, pieces, rounds);
      for (const way of ['offload', 'onboard']) {
        const [value, limit, copy] = [rates[way], rates[`${way} limit`], rates[`${way} copy`]];
        rows.push({ name: `host ${way}, ${blockBytes >> 10} KiB, ${layout}`, value, unit: 'GB/s', limit, target: 0.8 * limit });
        log(`host ${way} ${blockBytes >> 10} KiB, ${layout}: ${value.toFixed(2)} GB/s = ${(value / limit).toFixed(2)} of copy + checksum (${limit.toFixed(2)}), ${(value / copy).toFixed(2)} of the bare copy (${copy.toFixed(2)})`);
      }
    }
  }
  return rows;
}

async function measureLayout(blockBytes, pieces, rounds) {
  const blocks = TOTAL_BYTES / blockBytes;
  const pieceBytes = blockBytes / pieces;
  const worker = await openWorker({ blocks, pieces, pieceBytes, hostBytes: TOTAL_BYTES, offload: { device: 'stored' } });
  // Another worker's host memory, of the same kind (shared mappings have small pages, private ones large) and not held by anybody.
  const idle = await openWorker({ blocks: 1, pieces, pieceBytes: 65_536, hostBytes: TOTAL_BYTES });
  const bare = new BareLoop(worker.engine, blocks, pieceBytes, idle.hostMemory.bytes);
  const random = seeded(11);
  const times = {};
  const timed = async (name, work) => {
    const startMs = performance.now();
    await work();
    (times[name] ??= []).push(performance.now() - startMs);
  };
  try {
    for (let round = 0; round <= rounds; round++) {
      const prompts = Array.from({ length: TOTAL_BYTES / PROMPT_BYTES }, () => promptHashes(random, PROMPT_BYTES / blockBytes));
      const turns = {
        'offload': () => offload(worker, prompts),
        'offload copy': () => bare.run('down', false),
        'offload limit': () => bare.run('down', true),
      };
      const back = {
        'onboard': () => onboard(worker, prompts),
        'onboard copy': () => bare.run('up', false),
        'onboard limit': () => bare.run('up', true),
      };
      for (const group of [turns, back]) {
        const order = Object.entries(group);
        if (round % 2 === 1) order.reverse();
        for (const [name, work] of order) await timed(name, work);
      }
      // The first round meets new pages.
      if (round === 0) for (const name of Object.keys(times)) times[name].length = 0;
    }
  } finally {
    await worker.close();
    await idle.close();
  }
  return Object.fromEntries(Object.entries(times).map(([name, values]) => [name, TOTAL_BYTES / 1e6 / median(values)]));
}

async function offload({ engine, manager }, prompts) {
  const before = manager.stats().offloadedBlocks;
  engine.forget();
  let blocks = 0;
  for (const hashes of prompts) {
    engine.compute(hashes);
    blocks += hashes.length / 2;
  }
  for (let turn = 0; manager.stats().offloadedBlocks < before + blocks; turn++) {
    if (turn > 1e6) throw new Error(`offloaded ${manager.stats().offloadedBlocks - before} of ${blocks}: ${JSON.stringify(manager.stats())}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function onboard({ engine, fetch }, prompts) {
  engine.forget();
  for (const hashes of prompts) {
    const { reservation, readyTokens, record } = await fetch(hashes);
    if (readyTokens !== (hashes.length / 2) * BLOCK_SIZE || record.onboardedBlocks !== hashes.length / 2) throw new Error(`not everything was fetched: ${JSON.stringify(record)}`);
    engine.release(reservation);
  }
}

/** What nobody can do without: every piece copied, every block checksummed where it lies in the arena while it is warm. Same arena, same kind of memory, same checksum. */
class BareLoop {
  constructor(engine, blocks, pieceBytes, host) {
    const { blockStrideBytes, pieces, pieceStrideBytes } = engine.arena();
    this.memory = { segment: 0, blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes, bytes: engine.bytes, wasm: engine.wasm };
    this.host = host;
    this.verifier = createVerifier({ layoutFingerprint: 'bench', pieceBytes });
    this.one = new Int32Array(1);
    this.words = new Int32Array(2);
  }

  run(way, isChecked) {
    const { memory, one, verifier, words } = this;
    for (let block = 0; block < memory.blocks; block++) {
      one[0] = block;
      if (isChecked && way === 'down') verifier.checksums(memory, one, 1, words, words);
      this.#copy(block, way);
      if (isChecked && way === 'up') verifier.checksums(memory, one, 1, words, words);
    }
  }

  #copy(block, way) {
    const { bytes, pieces, pieceBytes, pieceStrideBytes, blockStrideBytes } = this.memory;
    for (let piece = 0; piece < pieces; piece++) {
      const inArena = block * blockStrideBytes + piece * pieceStrideBytes;
      const inHost = (block * pieces + piece) * pieceBytes;
      if (way === 'down') this.host.set(bytes.subarray(inArena, inArena + pieceBytes), inHost);
      else bytes.set(this.host.subarray(inHost, inHost + pieceBytes), inArena);
    }
  }
}

/** CPU of the manager for a request of 512 blocks for which nothing is brought. */
export async function overheadRows() {
  const blocks = 2048;
  const worker = await openWorker({ blocks, pieces: 1, pieceBytes: 4096, hostBytes: blocks * 4096, offload: { device: 'never' } });
  const random = seeded(5);
  const unknown = promptHashes(random, 512);
  const known = promptHashes(random, 512);
  worker.engine.compute(known);
  const request = (sequenceHashes) => ({ id: 'r', sequenceHashes, promptTokens: 512 * BLOCK_SIZE + 1, cacheSalt: '', queuedTokens: 0, deadlineMs: 60_000, peers: [] });
  let answers = 0;
  const ask = (what) => () => worker.manager.fetch(what, () => answers++);
  try {
    const us = measureAll({ unknown: ask(request(unknown)), known: ask(request(known)) });
    if (answers === 0) throw new Error('no fetch was answered at once');
    return [
      { name: 'manager, CPU per request of 512 blocks nobody holds', value: us.unknown, unit: 'us' },
      { name: 'manager, CPU per request of 512 blocks on the device', value: us.known, unit: 'us' },
    ];
  } finally {
    await worker.close();
  }
}
