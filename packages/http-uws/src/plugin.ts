import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { UwsHttpServer } from './uws-server.ts';

/** `server: { use: uws }`. Creating it never fails; `listen` tells when the library is missing. */
export const uws: PluginDescriptor<'http-server', Record<string, never>> = definePlugin<'http-server', Record<string, never>>({
  kind: 'http-server',
  contract: 'v1',
  name: 'uws',
  description: 'HTTP/1.1 over uWebSockets.js: less CPU per request and per streamed token than node:http.',
  configSchema: { type: 'object', additionalProperties: false, properties: {} },
  create: () => new UwsHttpServer(),
});
