import { vllm } from './plugin.ts';

export { SseParser } from './sse.ts';
export { VllmBackend } from './vllm-backend.ts';
export type { VllmConfig, VllmOptions } from './vllm-backend.ts';
export { batchOf, completionBody, parseMetrics } from './wire.ts';
export type { CompletionChunk } from './wire.ts';
export { vllm };

/** Plug-ins of this package, for the loader. */
// oxlint-disable-next-line import/no-default-export -- a plug-in entry
export default [vllm];
