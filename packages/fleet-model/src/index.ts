export { fitTiming } from './fit.ts';
export type { FittedTiming } from './fit.ts';
export { FleetModel } from './fleet.ts';
export type { FleetOptions, FleetPool, FleetPoolState } from './fleet.ts';
export { latencyBucket, latencyQuantile, Measures } from './measures.ts';
export { linearTiming, polynomialTiming, tableTiming } from './timing.ts';
export type { LinearTimingOptions, PassTiming, Polynomial, PolynomialTimingOptions, TimingTable } from './timing.ts';
export { arrivals, shiftPhases } from './traffic.ts';
export type { Arrival, ShiftOptions, TrafficPhase } from './traffic.ts';
