import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { NixlTransport } from './nixl-transport.ts';
import type { NixlTransportConfig } from './nixl-transport.ts';

const strings = { type: 'object', additionalProperties: { type: 'string' }, default: {} } as const;

/** `transports: [ { use: nixl } ]`. Creating it never fails; without the library it reports itself unavailable. */
export const nixlTransport: PluginDescriptor<'transfer-transport', NixlTransportConfig> = definePlugin<'transfer-transport', NixlTransportConfig>({
  kind: 'transfer-transport',
  contract: 'v1',
  name: 'nixl',
  description: 'Moves KV blocks by NVIDIA NIXL: RDMA, RoCE, AWS EFA, GPUDirect, files by its storage backends.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      library: { type: 'string', description: 'libnixl_capi.so, or the folder of an unpacked nixl-cu12 wheel; empty = ARMATURE_NIXL_LIBRARY, Python site-packages, usual folders.', default: '' },
      backend: { type: 'string', description: 'NIXL plug-in for memory: UCX (InfiniBand, RoCE, EFA, TCP, shared memory), LIBFABRIC (EFA with several rails), MOONCAKE, …', default: 'UCX' },
      params: { ...strings, description: 'Parameters of the backend, for example ucx_error_handling_mode, device_list, num_workers.' },
      storage: { type: 'string', description: 'NIXL plug-in for files: POSIX, GDS, GDS_MT, …; empty = no files.', default: '' },
      storageParams: { ...strings, description: 'Parameters of the storage backend, for example use_uring.' },
      require: { enum: ['any', 'rdma'], description: 'rdma: refuse hosts without an active RDMA or EFA device, and take TCP from UCX, so that it cannot fall back silently.', default: 'any' },
      progressThread: { type: 'boolean', description: 'A thread of NIXL moves data and answers peers while JavaScript is busy.', default: true },
      splitBytes: { type: 'integer', minimum: 65536, description: 'Longest piece posted at once; over shared memory it is copied inside the post.', default: 4194304 },
      spinMicros: { type: 'integer', minimum: 0, maximum: 10000, description: 'Microseconds of looking without pause after something has happened.', default: 50 },
      idlePollMs: { type: 'integer', minimum: 1, maximum: 1000, description: 'Milliseconds between looks for notifications when nothing runs.', default: 5 },
      pingMs: { type: 'integer', minimum: 0, description: 'Milliseconds between checks of idle connections; 0 = none.', default: 1000 },
      cancelGraceMs: { type: 'integer', minimum: 1, description: 'Milliseconds a cancelled transfer may go on before its connection is cut.', default: 1000 },
    },
  },
  create: (config, context) => new NixlTransport({ ...config, clock: context.clock, log: context.log }),
});
