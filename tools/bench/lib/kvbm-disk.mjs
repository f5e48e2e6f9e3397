import { benchDisk, benchRestart } from '../../../packages/kvbm/dist/disk/bench.test.support.js';

/** Store and load of the disk tier beside positional file calls with the same block size, depth, flags and memory, in turns. */
export async function diskRows({ folder, rounds, log }) {
  const rows = await benchDisk({ folder, rounds, say: log });
  return rows.map((row) => {
    log(`${row.name}: ${row.value.toFixed(3)} GB/s = ${(row.value / row.limit).toFixed(2)} of raw file I/O (${row.limit.toFixed(3)})`);
    return { ...row, target: 0.8 * row.limit };
  });
}

export async function restartRows({ folder }) {
  return [{ ...(await benchRestart({ folder })), target: 2 }];
}
