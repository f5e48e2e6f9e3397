export { HostPool } from './host-pool.ts';
export type { HostPoolOptions, HostPoolStats, StoreResult } from './host-pool.ts';
