import { definePlugin } from '@armature/contracts';
import { CudaTransport } from './cuda-transport.ts';
import type { CudaTransportConfig } from './cuda-transport.ts';

export const cudaTransport = definePlugin({
  kind: 'transfer-transport',
  contract: 'v1',
  name: 'cuda',
  description: 'Copies KV blocks between GPU memory and pinned host memory, within GPUs, and between GPU memory of processes of one host (CUDA driver API).',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      token: { type: 'string', description: 'Shared secret of all agents that may connect; proved by HMAC, never sent. Empty = every process of this user.', default: '', 'x-secret': true },
      pin: { type: 'boolean', description: 'Pin registered host memory once a GPU is in use. Off: copies of it are staged by the driver, unless its owner pinned it.', default: true },
      batch: { type: 'boolean', description: 'Use cuMemcpyBatchAsync where the driver has it (CUDA 12.8); off = one call per block.', default: true },
      turnBudgetMs: { type: 'number', exclusiveMinimum: 0, description: 'Milliseconds of driver calls after which the event loop is given back.', default: 0.5 },
      spinMs: { type: 'number', minimum: 0, description: 'Milliseconds for which events are looked at in every turn of the event loop after something has happened; then every millisecond.', default: 2 },
      connectTimeoutMs: { type: 'integer', minimum: 1, description: 'Milliseconds until a connection must be authenticated.', default: 5000 },
      closeTimeoutMs: { type: 'integer', minimum: 1, description: 'Milliseconds that closing waits for copies on the GPU; copies that hang longer keep their memory for good.', default: 5000 },
    },
  },
  create: (config: CudaTransportConfig, context) => new CudaTransport({ ...config, clock: context.clock, log: context.log }),
});
