import { BlockTable, kvPolicyDefaults, lru } from '@armature/kvbm';
import { measureAll, seeded } from './measure.mjs';

const ROWS = 512;

/** Look-up of 512 hashes that are all held, in prompts of 512 blocks, each time another one. */
export async function lookupRows() {
  const policy = await lru.create(kvPolicyDefaults);
  const cases = {};
  for (const places of [4096, 65_536, 1 << 20]) {
    for (const isInOrder of [true, false]) {
      const { table, prompts } = filled(policy, places, isInOrder);
      let next = 0;
      cases[`look-up of 512, ${places.toLocaleString('en-US')} held, ${isInOrder ? 'places as stored' : 'places at random'}`] = () => {
        const found = table.match(prompts[next], 0);
        if (found !== ROWS) throw new Error(`${found} of ${ROWS} rows matched`);
        next = (next * 5 + 1) % prompts.length;
      };
    }
  }
  return Object.entries(measureAll(cases, { rounds: 9 })).map(([name, value]) => ({ name, value, unit: 'us', target: 10 }));
}

/** In order: prompts as they come, one after the other. At random: one row of each prompt after the other, in shuffled turns, so that no two neighbours lie together. */
function filled(policy, places, isInOrder) {
  const random = seeded(places);
  const table = new BlockTable({ places, order: policy.order(places) });
  const prompts = Array.from({ length: places / ROWS }, () => Int32Array.from({ length: 2 * ROWS }, () => random.u32()));
  const order = Int32Array.from({ length: places }, (_, i) => i);
  if (!isInOrder) {
    for (let i = places - 1; i > 0; i--) {
      const j = random.below(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
  }
  for (const at of order) {
    const hashes = prompts[Math.floor(at / ROWS)];
    const row = at % ROWS;
    const place = table.allocate(0);
    table.register(place, hashes[2 * row], hashes[2 * row + 1], hashes[2 * row - 2] ?? 0, hashes[2 * row - 1] ?? 0);
    table.release(place);
  }
  return { table, prompts };
}
