import { vllm } from './plugin.ts';

export { parseMetrics } from './metrics.ts';
export type { VllmMetrics } from './metrics.ts';
export { openConnector, VllmConnector } from './connector/index.ts';
export type { ConnectorOptions } from './connector/index.ts';
export { BatchReader } from './kv-events/batch-reader.ts';
export type { BatchVisitor, StoredBlocks } from './kv-events/batch-reader.ts';
export { EngineBlocks } from './kv-events/engine-blocks.ts';
export { EventStream } from './kv-events/event-stream.ts';
export { EVENTS_HINT, KvEvents } from './kv-events/kv-events.ts';
export type { KvEventsConfig, KvEventsOptions } from './kv-events/kv-events.ts';
export type { RankPlace } from './ranks.ts';
export { Output } from './output.ts';
export { serveCommand } from './serve/serve-config.ts';
export type { ServeConfig, ServeFacts } from './serve/serve-config.ts';
export { serveParts } from './serve/serve-parts.ts';
export { VllmProcess } from './serve/vllm-process.ts';
export { SseParser } from './sse.ts';
export { VllmBackend } from './vllm-backend.ts';
export type { VllmConfig, VllmOptions } from './vllm-config.ts';
export { completionBody, parseChunk } from './wire.ts';
export type { ChunkChoice, CompletionChunk } from './wire.ts';
export { vllm };

/** Plug-ins of this package, for the loader. */
// oxlint-disable-next-line import/no-default-export -- a plug-in entry
export default [vllm];
