import { definePlugin } from '@armature/contracts';
import { localConfigProperties } from '../local/open-endpoint.ts';
import { ShmTransport } from './shm-transport.ts';
import type { ShmTransportConfig } from './shm-transport.ts';

export const shmTransport = definePlugin({
  kind: 'transfer-transport',
  contract: 'v1',
  name: 'shm',
  description: 'Copies KV blocks between processes of one host through shared memory, without a socket.',
  configSchema: { type: 'object', additionalProperties: false, properties: localConfigProperties },
  create: (config: ShmTransportConfig, context) => new ShmTransport({ ...config, clock: context.clock, log: context.log }),
});
