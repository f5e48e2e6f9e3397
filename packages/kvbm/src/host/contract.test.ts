import { describe, it } from 'vitest';
import { kvTierContract } from '@armature/contracts/testing/kv-tier';
import { createSuiteMover } from '../mover/suite-mover.test.support.ts';
import { HostTier } from './host-tier.ts';

kvTierContract({
  runner: { describe, it },
  create: ({ places, blockBytes }) => new HostTier({ capacity: places * Math.ceil(blockBytes / 4096) * 4096 }),
  createMover: createSuiteMover,
});
