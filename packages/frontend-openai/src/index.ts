import { node, openai } from './plugin.ts';

export { node, openai };
export { NodeHttpServer, NODE_SERVER_DEFAULTS } from './node-server.ts';
export type { NodeServerConfig } from './node-server.ts';
export type { OpenAiConfig } from './config.ts';

/** Plug-ins of this package, for the loader. */
export default [node, openai];
