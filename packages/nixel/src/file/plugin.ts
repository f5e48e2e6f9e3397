import { definePlugin } from '@armature/contracts';
import { FileTransport } from './file-transport.ts';
import type { FileTransportConfig } from './file-transport.ts';

export const fileTransport = definePlugin({
  kind: 'transfer-transport',
  contract: 'v1',
  name: 'file',
  description: 'Moves KV blocks between the memory of an agent and files it has registered (SSD), batched, with direct I/O where alignment permits.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      queueDepth: { type: 'integer', minimum: 1, maximum: 1024, description: 'Operations given to the thread pool at once, over all transfers. How many run is UV_THREADPOOL_SIZE, set before Node starts (4 by default).', default: 32 },
      maxOperationBytes: { type: 'integer', minimum: 4096, maximum: 1073741824, description: 'Longer pieces are cut to operations of at most this many bytes.', default: 1048576 },
      sync: { type: 'string', enum: ['none', 'data', 'full'], description: 'What a write waits for: the page cache or disk cache (none), fdatasync (data), fsync (full).', default: 'none' },
    },
  },
  create: (config: FileTransportConfig, context) => new FileTransport({ ...config, clock: context.clock, log: context.log }),
});
