import { definePlugin } from '@armature/contracts';
import { parseSize, sizeSchema } from '../size.ts';
import { DEFAULT_HOST_CAPACITY, HostTier } from './host-tier.ts';
import type { HostTierConfig } from './host-tier.ts';

export const hostTier = definePlugin({
  kind: 'kv-tier',
  contract: 'v1',
  name: 'host',
  description: 'Keeps KV blocks in the memory of the host (G2): one mapping per worker, which peers on the host read in place.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      capacity: { ...sizeSchema, description: 'Memory of one worker for KV blocks: bytes, or with a unit ("512MiB", "8GiB"). Blocks are rounded up to 4,096 bytes.', default: DEFAULT_HOST_CAPACITY },
    },
  },
  check: ({ capacity }: HostTierConfig, report) => {
    if (capacity !== undefined && parseSize(capacity) === undefined) report({ path: ['capacity'], message: `${JSON.stringify(capacity)} is no size`, hint: 'give bytes, or a number with a unit: "512MiB", "8GiB"' });
  },
  facts: ({ capacity }: HostTierConfig) => ({ tier: 'host', capacityBytes: parseSize(capacity ?? DEFAULT_HOST_CAPACITY) }),
  create: (config: HostTierConfig) => new HostTier(config),
});
