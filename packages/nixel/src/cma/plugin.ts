import { definePlugin } from '@armature/contracts';
import { localConfigProperties } from '../local/open-endpoint.ts';
import { CmaTransport } from './cma-transport.ts';
import type { CmaTransportConfig } from './cma-transport.ts';

export const cmaTransport = definePlugin({
  kind: 'transfer-transport',
  contract: 'v1',
  name: 'cma',
  description: 'Copies KV blocks out of and into private memory of another process of this user (process_vm_readv).',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      sameUserTrust: {
        type: 'boolean',
        description: 'Every process of this user may read and write the memory of every other one. Must be set for this transport to be used; never set it where tenants share a user.',
        default: false,
      },
      ...localConfigProperties,
    },
  },
  create: (config: CmaTransportConfig, context) => new CmaTransport({ ...config, clock: context.clock, log: context.log }),
});
