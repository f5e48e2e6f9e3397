import { expect, test } from 'vitest';
import { promptHashes } from './fake-engine.test.support.ts';
import { Rig } from './rig.test.support.ts';
import { SlowTier } from './slow-tier.test.support.ts';

// Prompts of 20 blocks, one after the other, through a host tier of 128: an eighth of that is less than one prompt.
test.each([
  [8, 1],
  [8, 20],
  [32, 20],
])('rule evict under thrash (batches of %i, a disk of %i ms): what the host tier gives up is below, but for what came before the first bursts were seen', async (batchBlocks, latencyMs) => {
  const disk = new SlowTier('disk', 5_000);
  disk.latencyMs = latencyMs;
  const rig = await Rig.open({ hostBlocks: 128, deviceBlocks: 56, lower: [disk], config: { batchBlocks } });
  const prompts = Array.from({ length: 30 }, (_, i) => promptHashes(i + 1, 20));
  for (const hashes of prompts) {
    rig.engine.compute(hashes);
    await rig.clock.elapse(120);
    rig.engine.forget();
  }
  expect(rig.tier('host').evictions).toBeGreaterThan(400);
  const lost = prompts.slice(0, 20).reduce((sum, hashes) => sum + 20 - disk.match(hashes, 0), 0);
  process.stdout.write(`thrash: ${rig.tier('host').evictions} evicted, ${disk.held.size} on disk, ${lost} lost\n`);
  expect(lost).toBeLessThanOrEqual(20);
  expect(rig.leaks()).toEqual([]);
  await rig.close();
});
