import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import type { OpenAiConfig } from './config.ts';
import { OpenAiFrontend } from './frontend.ts';
import { FrontendMetrics } from './frontend-metrics.ts';
import { NODE_SERVER_DEFAULTS, NodeHttpServer } from './node-server.ts';
import type { NodeServerConfig } from './node-server.ts';
import { Runtime } from './runtime.ts';

function integer(description: string, defaultValue: number, minimum: number, maximum: number): Readonly<Record<string, unknown>> {
  return { type: 'integer', description, default: defaultValue, minimum, maximum };
}

export const node: PluginDescriptor<'http-server', NodeServerConfig> = definePlugin<'http-server', NodeServerConfig>({
  kind: 'http-server',
  contract: 'v1',
  name: 'node',
  description: 'HTTP/1.1 over node:http, with streams framed in one write per chunk.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      keepAliveTimeoutMs: integer('How long an idle connection stays open, in milliseconds.', NODE_SERVER_DEFAULTS.keepAliveTimeoutMs, 1, 3_600_000),
      headersTimeoutMs: integer('How long a client may take to send the request head, in milliseconds.', NODE_SERVER_DEFAULTS.headersTimeoutMs, 1, 3_600_000),
      bodyTimeoutMs: integer('How long a client may take to send the whole request, in milliseconds.', NODE_SERVER_DEFAULTS.bodyTimeoutMs, 1, 3_600_000),
      maxConnections: integer('Open connections at most; 0 = no limit. More are closed at once.', NODE_SERVER_DEFAULTS.maxConnections, 0, 1_000_000),
      maxHeaderBytes: integer('Size of a request head at most, in bytes.', NODE_SERVER_DEFAULTS.maxHeaderBytes, 1024, 1_048_576),
      slowReaderTimeoutMs: integer('After an answer has ended: how long its client may read nothing of the rest, in milliseconds.', NODE_SERVER_DEFAULTS.slowReaderTimeoutMs, 1, 3_600_000),
    },
  },
  create: (config) => new NodeHttpServer({ ...NODE_SERVER_DEFAULTS, ...config }),
});

export const openai: PluginDescriptor<'frontend', OpenAiConfig> = definePlugin<'frontend', OpenAiConfig>({
  kind: 'frontend',
  contract: 'v1',
  name: 'openai',
  description: 'OpenAI-compatible HTTP API: chat completions, completions, models.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      host: { type: 'string', description: 'Address to listen on.', default: '127.0.0.1', minLength: 1 },
      port: integer('Port to listen on; 0 = any free one.', 8000, 0, 65_535),
      sharePort: { type: 'boolean', default: false, description: 'Other frontend processes of this host may listen on the same port. `armature up` sets it when it starts several.' },
      server: { 'x-kind': 'http-server', description: 'The HTTP server to listen with.', default: { use: 'node' } },
      maxBodyBytes: integer('Request bodies above this are answered 413, in bytes.', 16_777_216, 1024, 1_073_741_824),
      requestTimeoutMs: integer('Whole budget of a request, in milliseconds; the header x-request-timeout-ms may lower it.', 600_000, 1, 86_400_000),
      maxConcurrentRequests: integer('Generation requests running at once; more are answered with overloadStatus and retry-after.', 4096, 1, 1_000_000),
      overloadStatus: { type: 'integer', enum: [429, 503, 529], description: 'HTTP status of requests refused for load.', default: 503 },
      maxPendingBytes: integer('A stream whose client leaves more than this unread is cut and its request cancelled, in bytes.', 1_048_576, 1024, 1_073_741_824),
      apiKeys: { type: 'array', items: { type: 'string', minLength: 1 }, 'x-secret': true, description: 'Keys accepted as bearer tokens; empty = no authentication.', default: [] },
    },
  },
  create: (config, context) => {
    const log = context.log;
    const runtime = new Runtime({ config, clock: context.clock, random: context.random, log, metrics: new FrontendMetrics(context.metrics) });
    return new OpenAiFrontend(runtime, context.instance(config.server), context.health);
  },
});
