import { join } from 'node:path';
import { describe, it } from 'vitest';
import { kvTierContract } from '@armature/contracts/testing/kv-tier';
import { createSuiteMover } from '../mover/suite-mover.test.support.ts';
import { DiskTier } from './disk-tier.ts';

kvTierContract({
  runner: { describe, it },
  create: ({ places, blockBytes, folder }) => new DiskTier({ path: join(folder, 'kv'), capacity: places * Math.ceil(blockBytes / 4096) * 4096, slabBytes: 10 * Math.ceil(blockBytes / 4096) * 4096 }),
  createMover: createSuiteMover,
  isPersistent: true,
});
