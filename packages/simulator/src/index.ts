export { simulate } from './simulate.ts';
export type { SimulateOptions, SimulationResult } from './simulate.ts';
export { loadSettings } from './settings.ts';
export type { FaultModel, HardwareModel, NetworkModel, SimulationSettings } from './settings.ts';
export { readTrace, syntheticTrace } from './trace.ts';
export type { SyntheticTrace, TraceRow } from './trace.ts';
export { htmlReport } from './report.ts';
export { Histogram } from './histogram.ts';
export type { IntervalRow, OutcomeSummary } from './outcomes.ts';
