export { BlockPool } from './block-pool.ts';
export type { EvictionListener } from './block-pool.ts';
export { registeredChains } from './chains.ts';
export { LeaseTable } from './lease-table.ts';
export { ReservationTable } from './reservation-table.ts';
export type { Reservation, ReservationTableOptions } from './reservation-table.ts';
