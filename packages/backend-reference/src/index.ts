import { reference } from './plugin.ts';

export { Checkpoint } from './checkpoint/checkpoint.ts';
export type { ModelShape } from './checkpoint/shape.ts';
export { referenceSchema } from './plugin.ts';
export type { ReferenceConfig } from './plugin.ts';
export { layoutFingerprint } from './arena.ts';
export { ReferenceRunner } from './reference-runner.ts';
export type { ReferenceRunnerOptions } from './reference-runner.ts';
export { reference };

/** Plug-ins of this package, for the loader. */
// oxlint-disable-next-line import/no-default-export -- a plug-in entry
export default [reference];
