import { definePlugin, modelFacts } from '@armature/contracts';
import { VllmBackend } from './vllm-backend.ts';
import type { VllmConfig } from './vllm-backend.ts';

/** A running vLLM server as an engine. */
export const vllm = definePlugin<'engine-backend', VllmConfig>({
  kind: 'engine-backend',
  contract: 'v1',
  name: 'vllm',
  description: 'Attaches to a running vLLM server over HTTP.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    required: ['baseUrl'],
    properties: {
      baseUrl: { type: 'string', pattern: '^https?://.*[^/]$', description: 'Address of `vllm serve`, without a slash at the end, for example http://127.0.0.1:8100.' },
      model: { type: 'string', default: '', description: 'Served model name; empty = the first one of /v1/models.' },
      apiKey: { type: 'string', default: '', 'x-secret': true, description: 'Bearer token, if the server asks for one.' },
      totalBlocks: { type: 'integer', minimum: 0, default: 0, description: 'KV blocks of the server; 0 = as it reports in /metrics.' },
      sendPriority: { type: 'boolean', default: false, description: 'Pass the priority of requests on. Only for a server started with --scheduling-policy priority: others refuse such requests.' },
      startTimeoutMs: { type: 'integer', minimum: 0, default: 120_000, description: 'How long to wait for a healthy server at start, in milliseconds.' },
      probeIntervalMs: { type: 'integer', minimum: 10, default: 1000, description: 'Milliseconds between reads of /health and /metrics.' },
      probeTimeoutMs: { type: 'integer', minimum: 1, default: 5000, description: 'Milliseconds until such a read counts as failed.' },
      idleTimeoutMs: { type: 'integer', minimum: 0, default: 120_000, description: 'Milliseconds without an event until a request counts as lost, its time in the queue of the server included; 0 = no limit.' },
    },
  },
  create: (config, context) => new VllmBackend({ config, blockSize: modelFacts(context).blockSize, clock: context.clock, log: context.log }),
});
