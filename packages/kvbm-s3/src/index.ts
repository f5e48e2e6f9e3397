export { s3Tier } from './plugin.ts';
export { S3Tier } from './s3-tier.ts';
export type { S3TierConfig } from './config.ts';
