import { measureAll, seeded } from './measure.mjs';

const WORKERS = 64;
const BLOCKS = 512;
const RUNNING = 1024;

/** Accounting of requests of 512 blocks over 64 workers while 1,024 others run; the clock and the host's own columns are not in it. */
export async function loadRows() {
  const { ActiveBlocks, OverlapColumns } = await import('@armature/router-kv');
  const random = seeded(21);
  const shared = hashes(random, 64);
  const prompts = Array.from({ length: 2048 }, (_, i) => {
    const prompt = hashes(random, BLOCKS);
    if (i % 2 === 0) prompt.set(shared); // every second one begins with the same 64 blocks
    return prompt;
  });
  const active = new ActiveBlocks({ expiryMs: 300_000, maxRequests: 65_536, trackOutputBlocks: true });
  for (let slot = 0; slot < WORKERS; slot++) active.joined(slot);
  const request = (id, sequenceHashes) => ({ id, promptTokens: BLOCKS * 16, sequenceHashes, blocks: BLOCKS, blockSize: 16 });
  for (let i = 0; i < RUNNING; i++) active.dispatched(i % WORKERS, request(`running-${i}`, prompts[i]), true, 0);
  const out = new OverlapColumns(WORKERS);
  let number = 0;
  const turn = (prompt) => {
    const slot = number & 63;
    const id = `r${number++}`;
    active.dispatched(slot, request(id, prompt), true, 0);
    active.ended(slot, id);
  };
  const cost = measureAll({
    cold: (i) => turn(prompts[RUNNING + 1 + 2 * (i & 511)]),
    prefix: (i) => turn(prompts[RUNNING + 2 * (i & 511)]),
    held: (i) => turn(prompts[i & 1023]),
    find: (i) => active.findShared(prompts[i & 2047], BLOCKS, out),
    // The least: a copy of the hashes and one entry of a string table.
    limit: copyAndName(prompts),
  });
  return [
    { name: 'load/dispatch-and-end', value: cost.cold, unit: 'us', limit: cost.limit },
    { name: 'load/dispatch-and-end/64-blocks-shared', value: cost.prefix, unit: 'us', limit: cost.limit },
    { name: 'load/dispatch-and-end/all-blocks-shared', value: cost.held, unit: 'us', limit: cost.limit },
    { name: 'load/find-shared', value: cost.find, unit: 'us' },
  ];
}

function copyAndName(prompts) {
  const target = new Int32Array(BLOCKS * 2);
  const names = new Map();
  let number = 0;
  return (i) => {
    const id = `c${number++}`;
    target.set(prompts[i & 2047]);
    names.set(id, i);
    names.delete(id);
  };
}

function hashes(random, blocks) {
  return Int32Array.from({ length: blocks * 2 }, () => random.u32() | 0);
}
