import { resolve } from 'node:path';
import { ArmatureError, definePlugin, modelFacts } from '@armature/contracts';
import type { PluginContext } from '@armature/contracts';
import { openConnector } from './connector/index.ts';
import { KvEvents } from './kv-events/kv-events.ts';
import { offsetEndpoint, placeOf } from './ranks.ts';
import { serveSchema } from './serve/serve-config.ts';
import { serveParts } from './serve/serve-parts.ts';
import { VllmBackend } from './vllm-backend.ts';
import type { VllmConfig } from './vllm-config.ts';

/** A running vLLM server as an engine. */
export const vllm = definePlugin<'engine-backend', VllmConfig>({
  kind: 'engine-backend',
  contract: 'v1',
  name: 'vllm',
  description: 'Attaches to a running vLLM server, or starts and watches one.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      baseUrl: { type: 'string', pattern: '^(https?://.*[^/])?$', default: '', description: 'Address of a running `vllm serve`, without a slash at the end, for example http://127.0.0.1:8100. Empty only with `serve.model`.' },
      connector: {
        type: 'string',
        default: '',
        description:
          'KV tiers below vLLM (kvbm) and disaggregation through them, by the armature-vllm connector in its environment: path of the Unix socket that vLLM is told in kv_connector_extra_config.socket, relative to the configuration. Each worker needs its own. Empty = no such connector.',
      },
      model: { type: 'string', default: '', description: 'Served model name; empty = the first one of /v1/models.' },
      apiKey: { type: 'string', default: '', 'x-secret': true, description: 'Bearer token, if the server asks for one.' },
      totalBlocks: { type: 'integer', minimum: 0, default: 0, description: 'KV blocks of the server; 0 = as it reports in /metrics.' },
      sendPriority: { type: 'boolean', default: false, description: 'Pass the priority of requests on. Only for a server started with --scheduling-policy priority: elsewhere they have no effect, or are refused.' },
      startTimeoutMs: { type: 'integer', minimum: 0, default: 120_000, description: 'How long to wait for a healthy server at start, in milliseconds.' },
      probeIntervalMs: { type: 'integer', minimum: 10, default: 1000, description: 'Milliseconds between reads of /health and /metrics.' },
      probeTimeoutMs: { type: 'integer', minimum: 1, default: 5000, description: 'Milliseconds until such a read counts as failed.' },
      idleTimeoutMs: { type: 'integer', minimum: 0, default: 120_000, description: 'Milliseconds without an event until a request counts as lost, its time in the queue of the server included; 0 = no limit.' },
      canaryIntervalMs: { type: 'integer', minimum: 0, default: 15_000, description: 'Milliseconds without a token of any request after which one token is asked for, to see that the engine still makes some; 0 = never.' },
      canaryTimeoutMs: { type: 'integer', minimum: 1, default: 30_000, description: 'Milliseconds without that token, or another one, until the engine counts as wedged and leaves the pool.' },
      serve: serveSchema,
      kvEvents: {
        type: 'object',
        additionalProperties: false,
        default: {},
        description: 'KV events of vLLM over ZeroMQ (its --kv-events-config), so that the router sees its cache.',
        properties: {
          endpoint: { type: 'string', default: '', description: 'Address where vLLM publishes, for example tcp://127.0.0.1:5557 for its "tcp://*:5557"; data-parallel rank r is followed r ports above. Empty = no KV events.' },
          listen: { type: 'boolean', default: false, description: 'Bind `endpoint` here, and vLLM connects: what it does with an endpoint without * in it, for example tcp://127.0.0.1:5557.' },
          replayEndpoint: { type: 'string', default: '', description: 'Address of its replay_endpoint: what was missed is asked for there. Empty = what is known is dropped after a gap.' },
          topic: { type: 'string', default: '', description: 'Only messages whose topic begins so.' },
          replayTimeoutMs: { type: 'integer', minimum: 1, default: 5000, description: 'Milliseconds without a message until a replay counts as ended.' },
        },
      },
    },
  },
  create: async (config, context) => {
    const { clock, log, baseDir, metrics, scopes } = context;
    const { blockSize } = modelFacts(context);
    const target = { metrics, labels: labelsOf(scopes) };
    const place = placeOf(scopes);
    if (place.ranks > 1 && config.connector !== '') {
      throw new ArmatureError('VLLM_RANKS_MISMATCH', 'the armature-vllm connector serves one rank, and this worker is one of several of a server', { hint: 'leave engine.config.connector out, or run servers of one rank each: workers[].replicas instead of dpRanks' });
    }
    const connector = config.connector === '' ? undefined : await openConnector({ socketPath: resolve(baseDir, config.connector), blockSize, clock, log, metrics: target });
    const served = await serveParts(config, { blockSize, clock, log, transferConfig: connector?.transferConfig(), baseDir, place });
    const { kvEvents } = served.config;
    const ofRank = { ...kvEvents, endpoint: offsetEndpoint(kvEvents.endpoint, place.rank), replayEndpoint: offsetEndpoint(kvEvents.replayEndpoint, place.rank) };
    const events = kvEvents.endpoint === '' ? undefined : new KvEvents({ config: ofRank, blockSize, clock, log, metrics: target });
    return new VllmBackend({
      config: served.config,
      blockSize,
      clock,
      log,
      place,
      ...(connector === undefined ? {} : { connector }),
      ...(events === undefined ? {} : { events }),
      ...(served.process === undefined ? {} : { process: served.process }),
    });
  },
});

/** Model and pool, as other metrics of the worker have them. */
function labelsOf(scopes: PluginContext['scopes']): [model: string, pool: string] {
  const nameOf = (kind: string): string => scopes.find((scope) => scope.kind === kind)?.name ?? '';
  return [nameOf('model'), nameOf('worker').split('/', 1)[0]];
}
