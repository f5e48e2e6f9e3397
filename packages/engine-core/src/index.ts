export { EngineCore } from './engine-core.ts';
export type { EngineCoreOptions } from './engine-core.ts';
export type { ModelRunner, ModelRunnerInfo, SamplingSetup, StepBatch, StepResult } from './model-runner.ts';
export { uniformDraw } from './random-draw.ts';
