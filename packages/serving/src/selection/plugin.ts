import { definePlugin } from '@armature/contracts';
import { SelectionFrontend } from './selection-frontend.ts';
import type { SelectionConfig } from './selection-frontend.ts';

/** `armature route`: selection only. */
export const selection = definePlugin<'frontend', SelectionConfig>({
  kind: 'frontend',
  contract: 'v1',
  name: 'selection',
  description: 'Placement alone, for other gateways: tokens or text in; worker, overlap, cost out.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      host: { type: 'string', minLength: 1, default: '127.0.0.1', description: 'Address to listen on.' },
      port: { type: 'integer', minimum: 0, maximum: 65_535, default: 8002, description: 'Port; 0 = any free one.' },
      server: { 'x-kind': 'http-server', default: { use: 'node' }, description: 'The HTTP server to listen with.' },
      maxBodyBytes: { type: 'integer', minimum: 1024, maximum: 1_073_741_824, default: 16_777_216, description: 'Larger bodies are answered 413, in bytes.' },
    },
  },
  create: (config, context) => new SelectionFrontend({ config, server: context.instance(config.server), random: context.random, log: context.log, health: context.health }),
});
