export { HostPool } from './host-pool.ts';
export type { HostPoolOptions, HostPoolStats, OnboardStatus, StoreStatus } from './host-pool.ts';
