// Cost of the host pool beside memcpy and the bare hash of the same bytes, in one run: node packages/kvbm/dist/bench.test.support.js
import { xxh3 } from '@armature/tokens';
import { HostPool } from './host-pool.ts';

const BLOCK_BYTES = 512 << 10;
const BLOCKS = 64;
const ROUNDS = 20;

const hashes = Int32Array.from({ length: BLOCKS * 4 }, (_, i) => Math.imul(i + 1, 0x9e3779b1));
const source = Uint8Array.from({ length: BLOCK_BYTES }, (_, i) => i * 31);
const target = new Uint8Array(BLOCK_BYTES);
const memory = new Uint8Array(new SharedArrayBuffer(BLOCKS * BLOCK_BYTES));
const pool = new HostPool({ capacityBytes: BLOCKS * BLOCK_BYTES, blockBytes: BLOCK_BYTES });

/** Best of the rounds, in GB/s. */
function best(work: (round: number, block: number) => void): string {
  let least = Infinity;
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    for (let block = 0; block < BLOCKS; block++) work(round, block);
    least = Math.min(least, performance.now() - start);
  }
  return ((BLOCKS * BLOCK_BYTES) / least / 1e6).toFixed(2);
}

const rows: [string, string][] = [
  ['memcpy', best((_round, block) => memory.set(source, block * BLOCK_BYTES))],
  ['xxh3', best(() => void xxh3(source))],
  // Twice as many hashes as blocks, in turns: every store evicts and copies.
  ['store', best((round, block) => void pool.store(hashes, (round % 2) * BLOCKS + block, source))],
  ['onboard', best((_round, block) => void pool.onboard(hashes, ((ROUNDS - 1) % 2) * BLOCKS + block, target))],
  ['store, present', best((_round, block) => void pool.store(hashes, ((ROUNDS - 1) % 2) * BLOCKS + block, source))],
];
for (const [name, rate] of rows) process.stdout.write(`${name.padEnd(16)} ${rate.padStart(10)} GB/s\n`);
process.stdout.write(`${JSON.stringify(pool.stats())}\n`);
