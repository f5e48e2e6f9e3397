export { BlockTable } from './store/block-table.ts';
export type { BlockTableOptions, RemovalListener } from './store/block-table.ts';
export { HostStore } from './host/host-store.ts';
export type { HostStoreMemory } from './host/host-store.ts';
export { HostTier } from './host/host-tier.ts';
export type { HostTierConfig } from './host/host-tier.ts';
export { hostTier } from './host/plugin.ts';
export { BlockMover } from './mover/block-mover.ts';
export type { BlockMoverCounters, BlockMoverOptions } from './mover/block-mover.ts';
export { formatSize, parseSize, sizeBytes, sizeSchema } from './size.ts';
export { cost, kvPolicyPlugins, lineage, lru, tinylfu } from './policy/plugin.ts';
export { costPolicyDefaults, kvPolicyDefaults } from './policy/config.ts';
export { BlockVerifier, CHECKSUM_VERSION, createVerifier } from './checksum/verifier.ts';
export type { VerifierOptions } from './checksum/verifier.ts';
export type { CostPolicyConfig, KvPolicyConfig, OffloadChoice } from './policy/config.ts';
export type {
  BlockManager,
  BlockManagerConfig,
  BlockManagerOptions,
  BlockManagerStats,
  KvFetchRecord,
  KvFetchRequest,
  KvFetchResult,
  KvFetchRun,
  KvFetchSource,
  KvLoan,
  KvPeer,
  KvPeerCalls,
  KvTierEvent,
} from './manager/face.ts';
export { createBlockManager } from './manager/create-block-manager.ts';
export { deviceOutOfReach } from './device/out-of-reach.ts';
export { diskTier } from './disk/plugin.ts';
export { DiskTier } from './disk/disk-tier.ts';
export type { DiskTierConfig } from './disk/disk-config.ts';
export { DiskStore } from './disk/disk-store.ts';
export type { DiskStoreFacts } from './disk/disk-store.ts';
export { gcStores, inspectStore, listStores, verifyStore } from './disk/inspect.ts';
export type { BlockChecksum, GcReport, StoreRecords, StoreReport, VerifyReport } from './disk/inspect.ts';
export type { StoreHeader } from './disk/header.ts';
export type { StoreOwner } from './disk/store-lock.ts';
