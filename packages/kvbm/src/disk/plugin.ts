import { definePlugin } from '@armature/contracts';
import { parseSize, sizeSchema } from '../size.ts';
import { diskDefaults } from './disk-config.ts';
import type { DiskTierConfig } from './disk-config.ts';
import { DiskTier } from './disk-tier.ts';

const SIZES = ['capacity', 'slabBytes', 'readBytesPerSecond', 'writeBytesPerSecond'] as const;

export const diskTier = definePlugin({
  kind: 'kv-tier',
  contract: 'v1',
  name: 'disk',
  description: 'Keeps KV blocks on a local disk (G3): one folder per worker, found again after a restart or a crash.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      path: { type: 'string', minLength: 1, description: 'Folder of the stores; each worker has PATH/MODEL/WORKER in it, made when missing. Relative to the configuration file. Default: a new folder in the system\'s temporary one, removed at the end.' },
      capacity: { ...sizeSchema, description: 'Disk space of one worker for KV blocks: bytes, or with a unit ("100GiB"). Blocks are rounded up to 4,096 bytes. May change from start to start.', default: diskDefaults.capacity },
      slabBytes: { ...sizeSchema, description: 'Size of one file. A store keeps the size it was made with.', default: diskDefaults.slabBytes },
      preallocate: { type: 'boolean', description: 'Reserve all space at start, so that the disk cannot fill up later. Never done in a temporary folder.', default: diskDefaults.preallocate },
      direct: { type: 'boolean', description: 'Use O_DIRECT where the file system offers it: KV blocks do not push other things out of the page cache.', default: diskDefaults.direct },
      maxRunning: { type: 'integer', minimum: 1, maximum: 256, description: 'Batches stored, and batches loaded, at a time.', default: diskDefaults.maxRunning },
      maxQueued: { type: 'integer', minimum: 0, maximum: 65_536, description: 'Batches of each kind that wait; more are refused (stores) or count as not held (loads).', default: diskDefaults.maxQueued },
      readBytesPerSecond: { ...sizeSchema, description: 'Slows reading down to this rate: for disks shared with others. Default: no limit.' },
      writeBytesPerSecond: { ...sizeSchema, description: 'Slows writing down to this rate: for disks shared with others, and for their wear. Default: no limit.' },
      probeMs: { type: 'integer', minimum: 10, maximum: 3_600_000, description: 'Milliseconds between looks whether the store is still there, and between tries while something is wrong with it (longer each time).', default: diskDefaults.probeMs },
    },
  },
  check: (config: DiskTierConfig, report) => {
    for (const field of SIZES) {
      const size = config[field];
      if (size !== undefined && parseSize(size) === undefined) report({ path: [field], message: `${JSON.stringify(size)} is no size`, hint: 'give bytes, or a number with a unit: "512MiB", "100GiB"' });
    }
  },
  facts: ({ capacity }: DiskTierConfig) => ({ tier: 'disk', capacityBytes: parseSize(capacity ?? diskDefaults.capacity) }),
  create: (config: DiskTierConfig) => new DiskTier(config),
});
