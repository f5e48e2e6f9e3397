export { mock } from './plugin.ts';
export { MockRunner } from './mock-runner.ts';
export type { MockRunnerOptions } from './mock-runner.ts';
export { mockDefaults, mockSchema } from './config.ts';
export type { MockConfig } from './config.ts';
