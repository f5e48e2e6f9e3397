import { kvTierContract } from '@armature/contracts/testing/kv-tier';
import { describe, it } from 'vitest';
import { s3Double } from './s3-double.test.support.ts';
import { S3Tier } from './s3-tier.ts';
import { configOf, seeded } from './testing.test.support.ts';

// Not bounded: a bucket has no size, and what is forgotten here is still there. Not persistent in the suite's sense: after a restart `match` knows nothing until `probe`
// has asked; store.test.ts holds that.
kvTierContract({
  runner: { describe, it },
  isBounded: false,
  create: async () => {
    const { endpoint } = await s3Double();
    return new S3Tier(configOf(endpoint), seeded(3), { env: {}, home: '/nowhere', read: () => undefined });
  },
});
