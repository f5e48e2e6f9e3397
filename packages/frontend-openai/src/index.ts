export { node, openai } from './plugin.ts';
export { NodeHttpServer, NODE_SERVER_DEFAULTS } from './node-server.ts';
export type { NodeServerConfig } from './node-server.ts';
export type { OpenAiConfig } from './config.ts';
