export { CONNECTOR_VERSION } from './format.ts';
export type { ConnectorFormat } from './format.ts';
export { encodeFrame, FrameReader } from './frames.ts';
export type { Frame } from './frames.ts';
export type { ConnectorCounts } from './stats.ts';
export { openConnector, VllmConnector } from './vllm-connector.ts';
export type { ConnectorOptions } from './vllm-connector.ts';
