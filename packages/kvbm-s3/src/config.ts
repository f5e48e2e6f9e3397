import type { CredentialConfig } from './credentials.ts';

/** `tiers: [ …, { use: s3, config: … } ]`, validated and with its defaults. */
export interface S3TierConfig extends CredentialConfig {
  readonly bucket: string;
  readonly prefix: string;
  readonly endpoint: string;
  readonly region: string;
  readonly addressing: 'auto' | 'path' | 'virtual';
  readonly signPayload: 'auto' | 'always';
  readonly caFile: string;
  readonly connections: number;
  readonly blocksPerObject: number;
  readonly knownBlocks: number;
  readonly knownTtlMs: number;
  readonly missingTtlMs: number;
  readonly stagedBytes: number;
  readonly flushAfterMs: number;
  readonly maxQueuedObjects: number;
  readonly requestTimeoutMs: number;
  readonly storeTimeoutMs: number;
  readonly openTimeoutMs: number;
  readonly closeTimeoutMs: number;
  readonly failuresToOpen: number;
  readonly recheckMs: number;
  readonly deleteOnRemove: boolean;
}
