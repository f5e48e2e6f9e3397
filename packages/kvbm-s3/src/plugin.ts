import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import type { S3TierConfig } from './config.ts';
import { MAX_BLOCKS_PER_OBJECT } from './format.ts';
import { S3Tier } from './s3-tier.ts';

const text = (description: string, more: object = {}): object => ({ type: 'string', description, default: '', ...more });
const count = (description: string, value: number, minimum: number, more: object = {}): object => ({ type: 'integer', minimum, description, default: value, ...more });

/** `tiers: [ …, { use: s3, config: { bucket: NAME } } ]`. */
export const s3Tier: PluginDescriptor<'kv-tier', S3TierConfig> = definePlugin<'kv-tier', S3TierConfig>({
  kind: 'kv-tier',
  contract: 'v1',
  name: 's3',
  description: 'Keeps KV blocks in an S3 bucket, shared by content between workers of the same model and layout.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    required: ['bucket'],
    properties: {
      bucket: { type: 'string', minLength: 3, description: 'Bucket; it must exist.' },
      prefix: text('Folder in the bucket; everything below PREFIX is this tier’s.', { default: 'armature-kv' }),
      endpoint: text('Scheme, host and port of the store; empty = AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS.'),
      region: text('Region that requests are signed for; empty = AWS_REGION, AWS_DEFAULT_REGION, else us-east-1.'),
      addressing: { enum: ['auto', 'path', 'virtual'], description: 'path: HOST/BUCKET/KEY; virtual: BUCKET.HOST/KEY; auto: virtual for AWS, path for an endpoint.', default: 'auto' },
      accessKeyId: text('Empty = environment (AWS_ACCESS_KEY_ID), then the shared credentials file.'),
      secretAccessKey: text('With accessKeyId.', { 'x-secret': true }),
      sessionToken: text('With temporary credentials.', { 'x-secret': true }),
      profile: text('Of the shared credentials file; empty = environment first, then AWS_PROFILE, then default.'),
      signPayload: { enum: ['auto', 'always'], description: 'Hash bodies into the signature; auto: only over plain HTTP to another machine.', default: 'auto' },
      caFile: text('PEM file with certificates to trust besides, relative to the configuration file.'),
      connections: count('Requests at once; writing uses at most half of them.', 16, 2, { maximum: 1024 }),
      blocksPerObject: count('Blocks of one object. Workers that share a bucket should agree; they understand each other if not.', 16, 1, { maximum: MAX_BLOCKS_PER_OBJECT }),
      knownBlocks: count('Blocks that this process remembers to be stored, about 60 bytes each.', 262_144, 16),
      knownTtlMs: count('How long that is believed without being confirmed; less than the bucket’s expiry.', 600_000, 1),
      missingTtlMs: count('How long the absence of an object is believed.', 5_000, 1),
      stagedBytes: count('Memory for blocks of objects that are not full yet.', 67_108_864, 0),
      flushAfterMs: count('An object that is not full is written when nothing was added for this long.', 10_000, 1),
      maxQueuedObjects: count('Objects waiting to be written, and reads waiting; more blocks are refused, or missing.', 64, 1),
      requestTimeoutMs: count('Silence after which an attempt is given up.', 5_000, 1),
      storeTimeoutMs: count('Longest time for writing one object, with all attempts.', 30_000, 1),
      openTimeoutMs: count('How long the start waits for the store.', 3_000, 1),
      closeTimeoutMs: count('How long the end waits for objects to be written.', 10_000, 1),
      failuresToOpen: count('Failures in a row after which the store is not asked any more.', 5, 1),
      recheckMs: count('First wait before it is asked again; doubles up to 32 times this.', 1_000, 1),
      deleteOnRemove: { type: 'boolean', description: 'Also delete the object when a block is removed; others lose it, and the blocks beside it.', default: false },
    },
  },
  create: (config, context) => new S3Tier(config, context.random),
});
